"""Measures the named modules of a network in training: its gradients during an epoch, the rest at its end."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fmce.console.log import logger
from fmce.digests import read_record, read_record_or_none, write_record
from fmce.models.features import find_module
from fmce.recorder import facts, grams
from fmce.recorder.attempts import Attempts
from fmce.recorder.gradients import GradientWatch
from fmce.recorder.gram import FEWEST_SAMPLES, Triangle, drift_between
from fmce.recorder.history import save_twins
from fmce.recorder.module_names import default_modules, probeable
from fmce.recorder.outputs import ModuleFacts
from fmce.recorder.probe import Probe, bare_model, count_samples
from fmce.recorder.statistics import twin_statistics
from fmce.recorder.thinning import epochs_to_drop
from fmce.recorder.weights import Weights, describe_change, measure_modules

_Rows = Sequence[Mapping[str, Any]]


class ModuleMeter:
    """The measurements of one training; it writes `grams/` in the run folder and returns the rest.

    A measurement that fails is reported once and left out; the training continues.

    Args:
        run: The run folder; it may come into being later.
        model: The network; wrappers of `torch.compile` and DistributedDataParallel are looked through.
        modules: Names as in `model.named_modules()`; None takes the children with parameters.
        probe: Fixed inputs, see `Probe`; None measures weights and gradients only.
        optimizers: Those that train the model.
        frozen: Modules that are meant to be frozen.

    Raises:
        ValueError: If a name is unknown, the model cannot take the probe, or a module returns no tensor.
    """

    def __init__(
        self,
        run: Path,
        model: nn.Module,
        modules: Sequence[str] | None = None,
        probe: Any = None,
        optimizers: Sequence[torch.optim.Optimizer] = (),
        frozen: Sequence[str] = (),
    ) -> None:
        self.run, self.model = run, bare_model(model)
        names = default_modules(self.model) if modules is None else list(modules)
        self.modules = {name: find_module(self.model, name) for name in names}
        for name in frozen:
            find_module(self.model, name)
        self.frozen = tuple(frozen)
        self.optimizers = list(optimizers)
        self.probe: Probe | None = None
        if probe is not None:
            # Of modules that were not named, those that cannot be probed keep their weights' facts.
            probed = names if modules is not None else probeable(self.model, names, probe)
            self.probe = Probe(self.model, probed, probe)
            self.probe.check()
        self.attempts = Attempts()
        self._initial: dict[str, Weights] = {}
        self._before: dict[str, Weights] = {}
        self._statistics: dict[str, str] = {}
        self._triangles: dict[str, Triangle] = {}
        self._travelled: dict[int, float] = {0: 0.0}
        self._changed: dict[str, str] = {}
        self._gradients = GradientWatch(
            self.modules, self.optimizers
        )  # the same list: see `follow`

    def start(self, rows: _Rows, epoch: int | None = None, *, partial: bool = False) -> int:
        """Begin measuring, before the first training step.

        Args:
            rows: Metrics lines that the folder holds already.
            epoch: Epoch after which the training continues; None finds it by the weights.
            partial: Whether part of the next epoch was trained already, so that the weights have moved since.

        Returns:
            That epoch; 0 for a new training.

        Raises:
            ValueError: If the weights are those of none of the epochs.
            FileExistsError: If epochs of a finished training would be lost.
        """
        now = measure_modules(self.modules)
        if rows and epoch is None:
            epoch = self._common_epoch(rows, now)
        epoch = epoch or 0
        kept = [row for row in rows if row["epoch"] <= epoch]
        if len(kept) < len(rows) and (self.run / "DONE.json").exists():
            raise FileExistsError(
                f"{self.run} holds a finished training of {len(rows)} epochs, and the model has the weights of epoch "
                f"{epoch}; continuing would delete the later ones: choose another folder, or delete this one"
            )
        grams.delete_grams(self.run, after=epoch)
        self._initial = self._initial_weights(epoch, now)
        self._changed = self._changes(kept, now) if epoch and not partial else {}
        if not (partial and self._before):
            self._before = now
        self._statistics = {
            name: mark
            for name, module in self.modules.items()
            if (mark := facts.statistics_facts(module, None).get("statistics"))
        }
        self._travelled = travelled(kept)
        self._triangles = self.attempts.run("the probe", lambda: self._start_triangles(epoch)) or {}
        self._gradients.begin_epoch()
        return epoch

    @contextmanager
    def follow(self, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Observe the steps of a further optimizer inside the block."""
        self.optimizers.append(optimizer)
        handle = optimizer.register_step_post_hook(lambda *_: self.after_step())
        try:
            yield
        finally:
            handle.remove()

    def state(self) -> dict[str, Any]:
        """Return what a training that continues within an epoch needs, as JSON values."""
        return _to_plain(self._before)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take what `state` returned, before `start`."""
        self._before = _from_plain(state)

    def after_step(self) -> None:
        """Look at gradients and learning rates; optimizer hooks call it just after each step."""
        self.attempts.run("gradients", self._gradients.look)

    def measure(self, epoch: int) -> dict[str, dict[str, Any]]:
        """Measure all modules at an epoch's end and keep their Gram triangles; return the facts by module."""
        self.attempts.failed = {}
        found = self.measure_weights()
        probed = self.attempts.run("the probe", self._probed)
        if probed is not None:
            triangles, drifts = probed[1], probed[2]
            for name, facts_ in probed[0].items():
                found[name] |= facts.probe_facts(facts_, drifts)
            self._triangles |= triangles
        last = self._travelled.get(epoch - 1, max(self._travelled.values()))
        self._travelled[epoch] = last + _step({"modules": found})
        self.attempts.run("Gram matrices", lambda: self._save(epoch, probed is not None))
        self._gradients.begin_epoch()
        return found

    def begin_check(self) -> None:
        """Begin measuring a few steps, of which nothing is kept."""
        self._initial = self._before = measure_modules(self.modules)

    def measure_weights(self) -> dict[str, dict[str, Any]]:
        """Measure weights, gradients and optimizer of each module since the last time; return the facts by module."""
        found: dict[str, dict[str, Any]] = {name: {} for name in self.modules}
        now = self.attempts.run("weights", lambda: measure_modules(self.modules))
        if now is not None:
            for name, values in (
                self.attempts.run("weights", lambda: self._weight_facts(now)) or {}
            ).items():
                found[name] |= values
            self._before = now
        for name, values in (self.attempts.run("gradients", self._gradients.facts) or {}).items():
            found[name] |= values
        for name, change in self._changed.items():
            found[name]["changed"] = change
        self._changed = {}
        for name in set(self.frozen) & found.keys():
            found[name]["meant_frozen"] = True
        return found

    def _save(self, epoch: int, probed: bool) -> None:
        triangles = self._triangles if probed else {}
        sketches = {name: weights.sketch for name, weights in self._before.items()}
        grams.save_grams(self.run, epoch, grams.EpochGrams(triangles, sketches))
        kept = {e: self._travelled.get(e, 0.0) for e in grams.gram_epochs(self.run)}
        # Epoch 0 is what drift is measured from.
        kept.pop(0, None)
        for old in epochs_to_drop(kept, grams.MOST):
            grams.gram_file(self.run, old).unlink(missing_ok=True)

    def _weight_facts(self, now: Mapping[str, Weights]) -> dict[str, dict[str, Any]]:
        found = {}
        for name, module in self.modules.items():
            weights = [kept.get(name) for kept in (self._initial, self._before, now)]
            found[name] = facts.weight_facts(module, *weights)
            statistics = facts.statistics_facts(module, self._statistics.get(name))
            if statistics:
                self._statistics[name] = statistics["statistics"]
            found[name] |= statistics
        return found

    def _probed(
        self,
    ) -> tuple[dict[str, ModuleFacts], dict[str, Triangle], dict[str, float | None]] | None:
        """Return what the probe gives now: by module, triangles by output, and drifts since the last epoch."""
        if self.probe is None:
            return None
        by_module = self.probe.measure()
        outputs = {k: v for one in by_module.values() for k, v in one.outputs.items()}
        triangles = {k: v.triangle for k, v in outputs.items() if v.triangle is not None}
        drifts: dict[str, float | None] = {}
        for name, triangle in triangles.items():
            known = self._triangles.get(name)
            if known is not None and known.shape == triangle.shape:
                drift = drift_between(known, triangle)
                drifts[name] = None if math.isnan(drift) else drift
        return by_module, triangles, drifts

    def _start_triangles(self, epoch: int) -> dict[str, Triangle]:
        """Return the triangles of the epoch that training continues from, and keep those of epoch 0."""
        if self.probe is None:
            return {}
        if epoch and grams.gram_file(self.run, epoch).exists():
            return grams.load_grams(self.run, epoch).triangles
        probed = self._probed()
        assert probed is not None
        if not epoch:
            if self.probe.scored:
                twins = twin_statistics(
                    self.model, list(self.probe.modules), self.probe.inputs, self.probe.labels
                )
                save_twins(self.run, twins)
            sketches = {name: weights.sketch for name, weights in self._initial.items()}
            grams.save_grams(self.run, 0, grams.EpochGrams(probed[1], sketches))
        return probed[1]

    def _initial_weights(self, epoch: int, now: dict[str, Weights]) -> dict[str, Weights]:
        """Return the weights that training began with; of a new training, write them down."""
        file = self.run / "grams" / "initial.json"
        if epoch and not file.exists():
            return {}  # the epochs before were not recorded
        if epoch:
            return (
                self.attempts.run("initial weights", lambda: _from_plain(read_record(file))) or {}
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        self.attempts.run(
            "initial weights", lambda: write_record(file, _to_plain(now), indent=None)
        )
        return now

    def _common_epoch(self, rows: _Rows, now: Mapping[str, Weights]) -> int:
        """Return the newest epoch after which most modules had the weights that they have now; 0: none trained."""
        marks = {name: weights.fingerprint for name, weights in now.items()}
        best, most = None, 0
        for row in rows:
            known = row.get("modules") or {}
            same = sum(
                known.get(name, {}).get("fingerprint") == mark for name, mark in marks.items()
            )
            if same and same >= most:
                best, most = int(row["epoch"]), same
        initial = _from_plain(read_record_or_none(self.run / "grams" / "initial.json") or {})
        fresh = sum(name in initial and initial[name].fingerprint == m for name, m in marks.items())
        if fresh > most:
            return 0
        if best is None:
            raise ValueError(
                f"{self.run} holds {len(rows)} epochs of a training, and the model has the weights of none of "
                "them; load the weights before the first step, or choose another folder"
            )
        return best

    def _changes(self, kept: _Rows, now: Mapping[str, Weights]) -> dict[str, str]:
        """Describe the modules whose weights are not those of the last recorded epoch."""
        known = (kept[-1].get("modules") or {}) if kept else {}
        try:
            sketches = grams.load_grams(self.run, int(kept[-1]["epoch"])).sketches if kept else {}
        except FileNotFoundError:
            sketches = {}
        except ValueError as error:
            logger.warning("%s; how weights changed since the last epoch stays unknown", error)
            sketches = {}
        changes = {}
        for name, weights in now.items():
            mark = known.get(name, {}).get("fingerprint")
            if mark is not None and mark != weights.fingerprint:
                before = sketches.get(name)
                norm = float(known[name].get("norm") or 0.0)
                changes[name] = (
                    "no longer those of the last epoch"
                    if before is None
                    else describe_change(Weights(mark, before, norm), weights)
                )
        return changes


def meter_or_none(
    run: Path, model: nn.Module, probe: Any, modules: Sequence[str] | None = None, **options: Any
) -> ModuleMeter | None:
    """Return a meter; None, with a warning, where modules that nobody named cannot be measured.

    Args:
        run: The run folder.
        model: The network.
        probe: Fixed inputs, or None.
        modules: Those that the user named; None takes the children.
        options: Further arguments of `ModuleMeter`.

    Raises:
        ValueError: If a module that was named cannot be measured.
    """
    if probe is not None and count_samples(probe) < FEWEST_SAMPLES:
        probe = None
    try:
        return ModuleMeter(run, model, modules, probe, **options)
    except ValueError as reason:
        if modules is not None:
            raise
        logger.warning("the modules of %s are not recorded: %s", run, reason)
        return None


def travelled(rows: _Rows) -> dict[int, float]:
    """Return how far the outputs had travelled by each epoch: the sum of the steps, in radians of CKA."""
    places, place = {0: 0.0}, 0.0
    for row in rows:
        place += _step(row)
        places[int(row["epoch"])] = place
    return places


def _step(row: Mapping[str, Any]) -> float:
    """Return the mean angle by which the outputs moved in one epoch; angles add up where 1 − CKA does not."""
    drifts = [
        output["drift"]
        for module in (row.get("modules") or {}).values()
        for output in module.get("outputs", {}).values()
        if output["drift"] is not None
    ]
    angles = [math.acos(max(-1.0, min(1.0, 1 - drift))) for drift in drifts]
    return sum(angles) / len(angles) if angles else 0.0


def _to_plain(weights: Mapping[str, Weights]) -> dict[str, Any]:
    return {
        name: {"fingerprint": one.fingerprint, "norm": one.norm, "sketch": one.sketch.tolist()}
        for name, one in weights.items()
    }


def _from_plain(values: Mapping[str, Any]) -> dict[str, Weights]:
    return {
        name: Weights(one["fingerprint"], np.array(one["sketch"]), one["norm"])
        for name, one in values.items()
    }
