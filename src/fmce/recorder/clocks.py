"""Each module's own clock: when its outputs on the probe came to rest, read from stored Gram triangles.

FMCS labels every module by the complete model's loss. Here each module's drift of representation is a sequence of
its own, to which CQI, phases and the verdict on a curve apply. No checkpoint is needed. Not in the papers.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmce.config.run import OtherConfigError, run_config
from fmce.convergence.phases import PhaseConfig, Phases, find_phases
from fmce.convergence.verdict import Verdict, judge_curve
from fmce.files import reading
from fmce.recorder.alarms import Alarm, find_alarms
from fmce.recorder.gram import drift_between
from fmce.recorder.grams import gram_epochs, load_grams, warn_of_lost_grams
from fmce.recorder.history import live_scores
from fmce.runs.log import read_done, read_metrics
from fmce.scoring.scorer import MaturityScores

# Change of a module's drift per epoch that counts as rest, as a share of its range: noise of the gradients keeps
# modules moving after the loss came to rest.
THRESHOLD = 0.01
# Share of a module's drift that may be left for it to count as done, and the last part of the epochs that
# `late_drift` is about.
DONE, LATE = 0.1, 0.1


@dataclass(frozen=True)
class ModuleClock:
    """How one output of a module moved during a training. Epochs count from 1; 0 is before training.

    Args:
        name: The module, or one of its outputs, such as "fpn[p3]".
        epochs: Epochs whose Gram triangle is kept, ascending.
        drifts: 1 − CKA to the newest epoch, at each of them; NaN where it is undefined.
        steps: 1 − CKA to the epoch before, of every epoch from 1; NaN where it is missing.
        done_epoch: First epoch from which at most a tenth of the drift is left; None without drift.
        late_drift: Share of the drift that came in the last tenth of the epochs; None without drift.
        verdict: The verdict on `steps`: since when the module rests. None before there is one.
        phases: The phases of `steps`; None where it has none.
        refusal: Why it has none.
    """

    name: str
    epochs: tuple[int, ...]
    drifts: tuple[float, ...]
    steps: tuple[float, ...]
    done_epoch: int | None
    late_drift: float | None
    verdict: Verdict | None
    phases: Phases | None = field(repr=False)
    refusal: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return the clock as JSON values, NaN as null."""
        phases = self.phases
        return {
            "name": self.name,
            "epochs": list(self.epochs),
            "drifts": [_or_none(d) for d in self.drifts],
            "steps": [_or_none(s) for s in self.steps],
            "done_epoch": self.done_epoch,
            "late_drift": self.late_drift,
            "verdict": None if self.verdict is None else self.verdict.to_dict(),
            "convergence_epoch": None if phases is None else phases.convergence_epoch,
            "markers": None if phases is None else list(phases.markers),
            "cqi": None if phases is None else [_or_none(c) for c in phases.cqi],
            "no_phases_because": self.refusal,
        }


def module_clock(
    name: str,
    triangles: Mapping[int, NDArray[np.float16]],
    steps: Sequence[float | None],
    *,
    num_phases: int = 10,
    learning_rates: Sequence[float] | None = None,
) -> ModuleClock:
    """Read a module's clock from its Gram triangles.

    Args:
        name: What to call it.
        triangles: Epoch → triangle (P,), see `gram_triangle`; the newest is what drift is measured to.
        steps: (M,) 1 − CKA between successive epochs, from epoch 1; None where it is missing.
        num_phases: K of its own phases.
        learning_rates: (M,) one per epoch, for the verdict.

    Raises:
        ValueError: If there are no triangles.
    """
    if not triangles:
        raise ValueError(f"no Gram triangles of {name!r} are kept")
    epochs = sorted(triangles)
    newest = triangles[epochs[-1]]
    drifts = [drift_between(triangles[epoch], newest) for epoch in epochs]
    own = [math.nan if step is None else max(step, 0.0) for step in steps]
    verdict = phases = refusal = None
    if any(map(math.isfinite, own)):
        # NaN is a gap to the verdict; phases know none.
        span = float(np.nanmax(own) - np.nanmin(own))
        verdict = judge_curve(own, learning_rates, threshold=THRESHOLD * span or None)
    try:
        config = PhaseConfig(num_phases=num_phases, relative_threshold=THRESHOLD)
        phases = find_phases(own, config)
    except ValueError as reason:
        refusal = str(reason)
    return ModuleClock(
        *(name, tuple(epochs), tuple(drifts), tuple(own)),
        done_epoch=_done_epoch(epochs, drifts),
        late_drift=_late_drift(epochs, drifts),
        verdict=verdict,
        phases=phases,
        refusal=refusal,
    )


def _total(drifts: Sequence[float]) -> float:
    """Return the drift from the first epoch to the newest; NaN where it is undefined or none."""
    known = [d for d in drifts if math.isfinite(d)]
    return known[0] if known and known[0] > 0 else math.nan


def _done_epoch(epochs: Sequence[int], drifts: Sequence[float]) -> int | None:
    total = _total(drifts)
    if math.isnan(total):
        return None
    left = [i for i, drift in enumerate(drifts) if drift > DONE * total]
    return epochs[left[-1] + 1] if left else epochs[0]


def _late_drift(epochs: Sequence[int], drifts: Sequence[float]) -> float | None:
    total = _total(drifts)
    if math.isnan(total) or len(epochs) < 2:
        return None
    start = min(int((1 - LATE) * epochs[-1]), epochs[-1] - 1)
    at = max(i for i, epoch in enumerate(epochs) if epoch <= start or i == 0)
    return drifts[at] / total


@dataclass(frozen=True)
class ModuleRow:
    """One module of a training: what its weights and its outputs did.

    Args:
        name: The module.
        depth: Its place among the recorded modules, from 1, in the order in which they were named.
        facts: Its facts at the newest epoch, see `ModuleMeter.measure`.
        clocks: One per output; none without a probe.
        alarms: Those that hold at the newest epoch.
    """

    name: str
    depth: int
    facts: dict[str, Any]
    clocks: tuple[ModuleClock, ...]
    alarms: tuple[Alarm, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON values."""
        return {
            "name": self.name,
            "depth": self.depth,
            "facts": self.facts,
            "clocks": [clock.to_dict() for clock in self.clocks],
            "alarms": [alarm.to_dict() for alarm in self.alarms],
        }


@dataclass(frozen=True)
class ModuleTable:
    """All recorded modules of a training.

    Args:
        run: The run folder.
        epochs: Epochs recorded.
        provisional: Whether the training goes on, so that drift is measured to an epoch that is not the last.
        rows: One per module.
        alarms: Those of the complete training.
        depth_correlation: Spearman's ρ between the modules' depth and `done_epoch`; early modules mostly come to
            rest first, so this is what a clock has to add to. None for fewer than three modules.
        even_epoch: The epoch at which a module that drifted evenly would be done.
        scores: The maturity of each output, while a training with a `ScoredProbe` is running.
    """

    run: Path
    epochs: int
    provisional: bool
    rows: tuple[ModuleRow, ...]
    alarms: tuple[Alarm, ...]
    depth_correlation: float | None
    even_epoch: int
    scores: tuple[MaturityScores, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the table as JSON values."""
        return {
            "run": str(self.run),
            "epochs": self.epochs,
            "provisional": self.provisional,
            "modules": [row.to_dict() for row in self.rows],
            "alarms": [asdict(alarm) for alarm in self.alarms],
            "depth_correlation": self.depth_correlation,
            "even_epoch": self.even_epoch,
            "scores": [one.to_dict() for one in self.scores],
        }


def module_table(run: Path) -> ModuleTable:
    """Read the modules of a run folder.

    Args:
        run: Folder of a recorder, of `fmce train`, or of one training of `fmce distill`.

    Raises:
        FileNotFoundError: If the folder is no run folder.
        ValueError: If no modules were recorded in it, or a file is damaged.
    """
    rows = read_metrics(run)
    if not rows and not (run / "config.yaml").exists():
        raise FileNotFoundError(f"{run} is not a run folder: it has no config.yaml")
    last = next((row for row in reversed(rows) if row.get("modules")), None)
    if last is None:
        raise ValueError(
            f"{run} has no recorded modules yet; they are measured at the end of each epoch, by fmce train, fmce "
            "distill and the recorder"
        )
    clocks = _clocks(run, rows)
    with _reading_lines(run):
        alarms = find_alarms(rows)
        modules = [
            ModuleRow(
                *(name, depth, dict(facts)),
                clocks=tuple(clocks[o] for o in facts.get("outputs", {}) if o in clocks),
                alarms=tuple(alarm for alarm in alarms if alarm.module == name),
            )
            for depth, (name, facts) in enumerate(last["modules"].items(), start=1)
        ]
    return ModuleTable(
        *(run, len(rows), read_done(run) is None, tuple(modules)),
        alarms=tuple(alarm for alarm in alarms if not alarm.module),
        depth_correlation=_depth_correlation(modules),
        even_epoch=math.ceil((1 - DONE) * len(rows)),
        scores=tuple(live_scores(run)),
    )


def _reading_lines(run: Path) -> AbstractContextManager[None]:
    return reading(run / "metrics.jsonl", "metrics lines with modules", "put the original back")


def _clocks(run: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, ModuleClock]:
    """Return the clock of each output, in the order of the newest line."""
    triangles: dict[str, dict[int, NDArray[np.float16]]] = {}
    with _reading_lines(run):
        warn_of_lost_grams(run, rows)
    for epoch in gram_epochs(run):
        if epoch <= len(rows):  # a kill may have left one more
            for name, triangle in load_grams(run, epoch).triangles.items():
                triangles.setdefault(name, {})[epoch] = triangle
    num_phases = _num_phases(run)
    clocks = {}
    for name, kept in triangles.items():
        with _reading_lines(run):
            steps = [_step_of(row, name) for row in rows]
        clocks[name] = module_clock(name, kept, steps, num_phases=num_phases)
    return clocks


def _num_phases(run: Path) -> int:
    try:
        return run_config(run).phases.num_phases
    except OtherConfigError:  # of a training of fmce distill
        return PhaseConfig().num_phases


def _step_of(row: Mapping[str, Any], name: str) -> float | None:
    for facts in (row.get("modules") or {}).values():
        if name in facts.get("outputs", {}):
            step: float | None = facts["outputs"][name]["drift"]
            return step
    return None


def _depth_correlation(modules: Sequence[ModuleRow]) -> float | None:
    from scipy.stats import spearmanr

    pairs = [(m.depth, c.done_epoch) for m in modules for c in m.clocks if c.done_epoch is not None]
    if len(pairs) < 3 or len({done for _, done in pairs}) < 2:
        return None
    depths, done = np.array(pairs, dtype=float).T
    return float(spearmanr(depths, done).statistic)


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
