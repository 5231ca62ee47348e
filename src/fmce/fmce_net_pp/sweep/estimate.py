"""How long a sweep will take: from its finished trainings, or from a few timed steps of each kind.

A training is counted as its epochs' steps; starting processes, reading data and validation come on top.
"""

import itertools
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from fmce.config.run import RunConfig
from fmce.config.sweep import SweepConfig
from fmce.console.tables import print_table
from fmce.data.batch import ImageBatch, ImageBatches
from fmce.engine.loop import StepOutput
from fmce.engine.runtime import Runtime, make_runtime
from fmce.feature_maps.batch import MapBatch
from fmce.feature_maps.extractor import MapExtractor
from fmce.fmce_net_pp.arms import BASELINE, base_config
from fmce.fmce_net_pp.sweep.grid import ORACLE, Group, SweepRun, make_groups
from fmce.fmce_net_pp.sweep.results import run_status
from fmce.fmce_net_pp.sweep.selection import candidate_label, read_pick
from fmce.maturity.prepare import merge_runtime
from fmce.models.features import FeatureMaps
from fmce.models.fmce_net import FMCENet
from fmce.runs.log import read_metrics
from fmce.runs.run import Run, open_run
from fmce.runs.setup import TrainingSetup
from fmce.tasks.auxiliary_loss import ral_step
from fmce.tasks.classification import classification_step
from fmce.tasks.fmce_net import score_step

# Steps of the probe: the first ones are slower, and a few are enough for an estimate.
_WARM_UP, _TIMED = 2, 6
# Slow ones are timed fewer times, at least once after the first: a list must not take an hour to make.
_ENOUGH_SECONDS = 5.0


def sweep_estimate(
    config: SweepConfig, out: Path, *, device: str = "auto", precision: str = "float32"
) -> dict[str, Any]:
    """List a sweep's trainings with the time each will take, and train nothing.

    Args:
        config: the grid.
        out: folder of the sweep, which need not be there; what is done in it takes no more time.
        device: of the trainings.
        precision: of forward passes.

    Returns:
        `runs`, one dict a training with name, status, epochs, `at_most` (E_K is not known before the oracle
        is trained, so all its epochs are counted), seconds and `source`; and `seconds` in all.
    """
    runtime = make_runtime(device, precision)
    runs = [entry for group in make_groups(config, out) for entry in _entries(group, runtime)]
    return {"runs": runs, "seconds": sum(entry["seconds"] for entry in runs)}


def _entries(group: Group, runtime: Runtime) -> list[dict[str, Any]]:
    known = _oracle_run(group)
    config = group.oracle_config()
    arms = config if known is None else base_config(known, group.config.length)
    times = _Times(group, config, runtime)
    entries = []
    for run in group.runs:
        status = run_status(group, run)
        epochs = config.train.epochs if run.arm == ORACLE else arms.train.epochs
        left = max(0, epochs - len(read_metrics(group.folder_of(run))))
        seconds, source = (0.0, "–") if status in ("done", "trained") else times.of(run, left)
        entries.append(
            {
                "name": f"{group.name}/{run.name}",
                "status": status,
                "epochs": epochs,
                "at_most": known is None and run.arm != ORACLE and group.config.length != "full",
                "seconds": seconds,
                "source": source,
            }
        )
    return entries


def _oracle_run(group: Group) -> Run | None:
    """Return the oracle if it has phases already."""
    if not (group.oracle_folder / "phases.json").exists():
        return None
    return open_run(group.oracle_folder)


class LossVariant(NamedTuple):
    """What decides the time of FMCE-Net++'s step: see `AuxiliaryConfig` for the cheaper forms."""

    oracle_every: int
    oracle_batch_fraction: float
    width: float


class _Times:
    """Seconds of a group's trainings: of finished ones of the same kind, else of a probe made once a group."""

    def __init__(self, group: Group, config: RunConfig, runtime: Runtime) -> None:
        self.group = group
        self.config, self.runtime = merge_runtime(config, runtime)
        self._forms = {c.label: self._form(c) for c in group.candidates}
        chosen = read_pick(group)
        # Before the pick a control is counted in the form that stands first in the grid.
        self._controls = self._forms[candidate_label(chosen or vars(group.candidates[0]))]
        self._probed: dict[str | LossVariant, float] = {}

    def _form(self, candidate: SweepRun) -> LossVariant:
        oracle = Run(self.group.oracle_folder, self.config)
        loss = self.group.treatment(candidate, oracle)
        width = self.config.fmce_net.width if loss.oracle_width is None else loss.oracle_width
        return LossVariant(loss.oracle_every, loss.oracle_batch_fraction, width)

    def kind(self, run: SweepRun) -> str | LossVariant:
        """Return which kind of step a training makes: plain, feature_matching or a form of FMCE-Net++."""
        if run.arm in (ORACLE, BASELINE, "scaled_rate"):
            return "plain"
        if run.arm == "feature_matching":
            return run.arm
        return self._forms.get(run.label, self._controls)

    def of(self, run: SweepRun, epochs: int) -> tuple[float, str]:
        """Return the seconds of so many epochs of a training, and where the number comes from."""
        siblings = [r for r in self.group.runs if self.kind(r) == self.kind(run)]
        times = [
            line["time_seconds"] for r in siblings for line in read_metrics(self.group.folder_of(r))
        ]
        if times and run.arm != ORACLE:
            return epochs * float(np.median(times)), "finished epochs"
        if not self._probed:
            print(f"timing a few steps of {self.group.name}", file=sys.stderr, flush=True)
            self._probed = probe(self.config, self.runtime, set(self._forms.values()))
        seconds = epochs * self._probed[self.kind(run)]
        if run.arm == ORACLE:
            seconds += self._probed["fmce_net"]
        return seconds, "timed steps"


def probe(
    config: RunConfig, runtime: Runtime, forms: Collection[LossVariant]
) -> dict[str | LossVariant, float]:
    """Time a few steps of each kind on the real images, with FMCE-Nets of random weights.

    Args:
        config: of the plain training.
        runtime: device and precision.
        forms: of FMCE-Net++, the published one or cheaper.

    Returns:
        Seconds of an epoch of "plain", "feature_matching" and each form, and of training an FMCE-Net in
        each of the forms' widths ("fmce_net").
    """
    setup = TrainingSetup(config)
    model = runtime.to_device(setup.new_model())
    layer, shape = setup.layer, setup.map_shape(model)
    batches = setup.training_batches(runtime, seed=0)
    nets = {
        width: runtime.to_device(FMCENet(shape, config.phases.num_phases, width=width)).eval()
        for width in {form.width for form in forms}
    }
    plain = _step_seconds(classification_step(model), model, batches, runtime)
    ral = {}
    with FeatureMaps(model, layer, keep_gradients=True) as maps:
        for form in forms:
            net, share = nets[form.width].requires_grad_(False), form.oracle_batch_fraction
            step = ral_step(model, maps, layer, net, raf=0.5, oracle_batch_fraction=share)
            # FMCE-Net is asked in every n-th step only; the others are plain ones.
            extra = _step_seconds(step, model, batches, runtime) - plain
            ral[form] = plain + extra / form.oracle_every
    extractor = MapExtractor(model, layer, runtime)
    batch = runtime.to_device(next(iter(batches.epoch(1))))
    forward = _median_seconds(lambda: extractor(batch.images), runtime)
    steps, one = len(batches), forward / len(batch.targets)
    images = len(setup.data.train)
    return {
        "plain": steps * plain,
        "feature_matching": steps * (plain + forward),
        **{form: steps * seconds for form, seconds in ral.items()},
        "fmce_net": sum(_net_seconds(config, images, n, one, runtime) for n in nets.values()),
    }


def _net_seconds(
    config: RunConfig, num_images: int, net: FMCENet, forward: float, runtime: Runtime
) -> float:
    """Return the seconds of FMCE-Net's whole training; `forward` is the backbone's for one image."""
    section = config.fmce_net
    maps = config.phases.num_phases * num_images
    size = section.batch_size
    batch = MapBatch(
        torch.rand(size, *net.map_shape, device=runtime.device),
        *(torch.ones(size, dtype=torch.int64, device=runtime.device) for _ in range(3)),
    )
    trained = net.requires_grad_(True)
    step = score_step(trained)
    one = _median_seconds(_optimised(lambda: step(batch), trained), runtime)
    steps = section.epochs * (1 - section.test_fraction) * maps / size
    times_computed = section.epochs if section.storage == "recompute" else 1
    return steps * one + times_computed * maps * forward


def _step_seconds(
    step: Callable[[ImageBatch], StepOutput],
    model: nn.Module,
    batches: ImageBatches,
    runtime: Runtime,
) -> float:
    model.train()
    images = itertools.cycle(batches.epoch(1))
    return _median_seconds(
        _optimised(lambda: step(runtime.to_device(next(images))), model), runtime
    )


def _optimised(step: Callable[[], StepOutput], model: nn.Module) -> Callable[[], None]:
    """Return a whole training step: forward, backward, Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6, fused=True)

    def whole() -> None:
        optimizer.zero_grad(set_to_none=True)
        step().loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return whole


def _median_seconds(action: Callable[[], Any], runtime: Runtime) -> float:
    """Return the median time of an action, after it was done a few times to warm up."""
    times = []
    for _ in range(_WARM_UP + _TIMED):
        started = time.perf_counter()
        with runtime.autocast():
            action()
        if runtime.device.type == "cuda":
            torch.cuda.synchronize(runtime.device)
        times.append(time.perf_counter() - started)
        if len(times) > 1 and sum(times) > _ENOUGH_SECONDS:
            break
    return float(np.median(times[min(_WARM_UP, len(times) - 1) :]))


def print_estimate(estimate: dict[str, Any]) -> None:
    """Print the trainings with their times, and the sum."""
    rows = [
        (
            entry["name"],
            entry["status"],
            f"{'≤ ' if entry['at_most'] else ''}{entry['epochs']}",
            f"{'≤ ' if entry['at_most'] else ''}{in_words(entry['seconds'])}",
            entry["source"],
        )
        for entry in estimate["runs"]
    ]
    print_table(
        "Dry run: nothing is trained", ("training", "status", "epochs", "time", "from"), rows
    )
    most = "at most " if any(entry["at_most"] for entry in estimate["runs"]) else ""
    print(
        f"{len(rows)} trainings, {most}{in_words(estimate['seconds'])} one after the other; "
        "validation, reading data and starting processes come on top"
    )


def in_words(seconds: float) -> str:
    """Return a duration as people say it.

    >>> in_words(42.3), in_words(600), in_words(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
