"""A checkpoint under the same alarms as a training: odd weights, dead units, and what a recorded run says of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fmce.models.features import find_module
from fmce.recorder import facts
from fmce.recorder.alarms import Alarm, find_alarms
from fmce.recorder.check import WeightsComparison, compare_weights
from fmce.recorder.gram import drift_between
from fmce.recorder.grams import gram_epochs, load_grams, warn_of_lost_grams
from fmce.recorder.module_names import default_modules
from fmce.recorder.outputs import ModuleFacts
from fmce.recorder.peers import unlike_peers
from fmce.recorder.probe import Probe, bare_model
from fmce.recorder.weights import Weights, describe_change, measure_modules
from fmce.runs.log import read_metrics
from fmce.runs.weights import read_state_dict


@dataclass(frozen=True)
class CheckpointCheck:
    """What is known of a checkpoint, module by module.

    Args:
        comparison: How it fits the model as it was built.
        facts: Module → facts of its weights, and of its outputs where there is a probe.
        epochs: Module → the recorded epoch that has its weights; None for none. Empty without a run.
        drifts: Output → 1 − CKA to the run's newest epoch; empty without a run and its probe.
        alarms: What is wrong.
    """

    comparison: WeightsComparison
    facts: dict[str, dict[str, Any]]
    epochs: dict[str, int | None]
    drifts: dict[str, float]
    alarms: tuple[Alarm, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the check as JSON values."""
        return asdict(self) | {"comparison": self.comparison.to_dict()}


def check_checkpoint(
    model: nn.Module,
    checkpoint: str | Path | Mapping[str, Any],
    *,
    run: Path | None = None,
    modules: Sequence[str] | None = None,
    probe: Any = None,
    peers: Sequence[str | Path] = (),
) -> CheckpointCheck:
    """Load a checkpoint into a model and say which modules are odd, were not loaded, or belong to another epoch.

    Args:
        model: A freshly built network; it gets the weights that fit, a known prefix removed.
        checkpoint: As for `compare_weights`.
        run: Run folder that recorded the training it should belong to.
        modules: Submodules to check; by default those of the run, else the children with parameters.
        probe: Inputs, see `Probe`; that of the run gives drifts too.
        peers: Checkpoints of four or more other trainings of the same network, which weights are compared with.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no state dict, a module is unknown, the model cannot take the probe, or peers do not
            fit the network.
    """
    bare, theirs = bare_model(model), read_state_dict(checkpoint)
    comparison = compare_weights(bare, theirs, modules=modules)
    _load_fitting(bare, theirs, comparison.prefix)
    rows = [] if run is None else read_metrics(run)
    recorded = [list(row["modules"]) for row in rows if row.get("modules")]
    names = list(modules or (recorded[-1] if recorded else default_modules(bare)))
    parts = {name: find_module(bare, name) for name in names}
    weights = measure_modules(parts)
    probed = {} if probe is None else Probe(bare, names, probe).measure()
    found = {
        name: _facts(part, weights.get(name), probed.get(name)) for name, part in parts.items()
    }
    for name, counts in compare_weights(
        bare, _renamed(theirs, comparison.prefix), modules=names
    ).modules.items():
        found[name]["not_loaded"] = counts["missing"] + counts["wrong_shape"]
    if peers:
        for name, unlike in unlike_peers(bare, names, peers).items():
            found[name]["unlike_peers"] = unlike.to_dict()
    epochs = {} if run is None else _epochs(weights, rows)
    if run is not None and epochs:
        _note_changes(run, rows, weights, epochs, found)
    outputs = {k: v for one in probed.values() for k, v in one.outputs.items()}
    drifts = {}
    if run is not None and (kept := gram_epochs(run)):
        warn_of_lost_grams(run, rows)
        newest = load_grams(run, kept[-1]).triangles
        for name, output in outputs.items():
            known = newest.get(name)
            if (
                known is not None
                and output.triangle is not None
                and known.shape == output.triangle.shape
            ):
                drifts[name] = drift_between(known, output.triangle)
    drifts = {name: value for name, value in drifts.items() if math.isfinite(value)}
    alarms = find_alarms([{"epoch": len(rows) or 1, "modules": found}])
    return CheckpointCheck(comparison, found, epochs, drifts, tuple(alarms))


def _facts(part: nn.Module, weights: Weights | None, probed: ModuleFacts | None) -> dict[str, Any]:
    found = facts.weight_facts(part, None, None, weights) | facts.statistics_facts(part, None)
    found |= {} if probed is None else facts.probe_facts(probed, {})
    # A loaded checkpoint tells nothing of what will be trained.
    return {key: value for key, value in found.items() if key not in ("frozen", "stale_gradients")}


def _renamed(theirs: Mapping[str, Any], prefix: tuple[str, str] | None) -> dict[str, Any]:
    if prefix is None:
        return dict(theirs)
    old, new = prefix
    return {new + k[len(old) :] if k.startswith(old) else k: v for k, v in theirs.items()}


def _load_fitting(
    model: nn.Module, theirs: Mapping[str, Any], prefix: tuple[str, str] | None
) -> None:
    ours = model.state_dict()
    fitting = {
        name: value
        for name, value in _renamed(theirs, prefix).items()
        if name in ours and ours[name].shape == value.shape
    }
    model.load_state_dict(fitting, strict=False)


def _epochs(
    weights: Mapping[str, Weights], rows: Sequence[Mapping[str, Any]]
) -> dict[str, int | None]:
    """Return the epoch whose weights each module has: that of most modules where it fits, else the newest."""
    fitting: dict[str, list[int]] = {name: [] for name in weights}
    for row in rows:
        known = row.get("modules") or {}
        for name, one in weights.items():
            if known.get(name, {}).get("fingerprint") == one.fingerprint:
                fitting[name].append(int(row["epoch"]))
    every = [epoch for epochs in fitting.values() for epoch in epochs]
    usual = max(every, key=lambda epoch: (every.count(epoch), epoch), default=None)
    return {
        name: usual if usual in epochs else max(epochs, default=None)
        for name, epochs in fitting.items()
    }


def _note_changes(
    run: Path,
    rows: Sequence[Mapping[str, Any]],
    weights: Mapping[str, Weights],
    epochs: Mapping[str, int | None],
    found: dict[str, dict[str, Any]],
) -> None:
    """Note modules that no recorded epoch has, or an older one than most."""
    known = [epoch for epoch in epochs.values() if epoch is not None]
    usual = max(set(known), key=known.count) if known else int(rows[-1]["epoch"])
    last = rows[usual - 1].get("modules") or {}
    try:
        sketches = load_grams(run, usual).sketches
    except FileNotFoundError:
        sketches = {}
    for name, epoch in epochs.items():
        mark = last.get(name, {}).get("fingerprint")
        if epoch == usual or mark is None:
            continue
        if epoch is not None:
            found[name]["changed"] = (
                f"those of epoch {epoch}, where most modules have epoch {usual}'s"
            )
        elif name in sketches:
            norm = float(last[name].get("norm") or 0.0)
            before = Weights(mark, sketches[name], norm)
            found[name]["changed"] = (
                f"against epoch {usual} {describe_change(before, weights[name])}"
            )
        else:
            found[name]["changed"] = "those of no recorded epoch"
