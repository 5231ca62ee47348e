"""`fmce audit`: how far a maturity score can be trusted, beside what costs nothing to know."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmce.maturity.controls import (
    CLOCKS,
    Floats,
    Predictor,
    Truth,
    control_predictors,
    fitted_predictor,
    permuted,
    true_phases,
)
from fmce.metrics.statistics import paired_comparison
from fmce.scoring.class_statistics import CLASS_STATISTICS
from fmce.scoring.history import NUM_PHASES, ModuleHistory
from fmce.scoring.tables import NOVELTIES, Form

PROTOCOL_NAMES = {novelty: f"unseen {novelty}" for novelty in NOVELTIES} | {"run": "unseen seed"}
KNOWN, BETWEEN, IMAGES = "runs it was fitted on", "epochs between markers", "unseen images"
REFITTED = "its statistics, fitted on the other runs"
INSIDE, PERMUTED = "K checkpoints inside one phase", "permuted phase labels"
TRUTHS: tuple[Truth, ...] = ("raw", "official")
_FEWEST = 4


@dataclass(frozen=True)
class AuditRow:
    """How well one score, or one control, tells the phases of the modules of one protocol.

    Args:
        protocol: What the runs have that was not seen before.
        predictor: Which score or control.
        truth: "raw" phases, of the losses themselves, or the papers' "official" ones, of their smoothed curve.
        runs: Number of runs.
        accuracy: Share of the judged checkpoints whose rounded score is their phase; None where scores have no scale.
        mae: Mean distance from the phase, in phases; None where scores have no scale.
        rho: Mean over modules of Spearman's ρ between score and phase over epochs.
        worst_rho: The lowest of them.
        coverage: Share of phases inside the score's 90 % interval; None without intervals.
        beats_clock: "yes" where `mae` is below that of both clocks, clear of zero over the runs; "unclear" where it is
            below but not clear; "no"; None for clocks and where there is no `mae`.
    """

    protocol: str
    predictor: str
    truth: Truth
    runs: int
    accuracy: float | None
    mae: float | None
    rho: float
    worst_rho: float
    coverage: float | None
    beats_clock: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON values, NaN as null."""
        return {
            name: None if isinstance(value, float) and not np.isfinite(value) else value
            for name, value in asdict(self).items()
        }


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Args:
        rows: One per protocol, score or control, and truth.
        unanswered: What these runs cannot answer, a line each.
    """

    rows: tuple[AuditRow, ...]
    unanswered: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the audit as JSON values."""
        return {"rows": [row.to_dict() for row in self.rows], "unanswered": list(self.unanswered)}


@dataclass(frozen=True)
class AuditCase:
    """One module of one run, and what of it is judged.

    Args:
        history: Its statistics.
        rows: (J,) positions in `history.epochs` whose distance in phases counts.
        ordered: (O,) those whose order counts.
        truths: The phase of every measured epoch (E,), in one meaning of phases or in both.
    """

    history: ModuleHistory
    rows: NDArray[np.intp]
    ordered: NDArray[np.intp]
    truths: Mapping[Truth, Floats]


def audit(
    predictors: Mapping[str, Predictor],
    judged: Sequence[ModuleHistory],
    *,
    novelty: Callable[[ModuleHistory], str] = lambda _: "run",
    second_views: Sequence[ModuleHistory] = (),
    reference: Sequence[ModuleHistory] = (),
    form: Form = "within_run",
) -> Audit:
    """Judge scores on the modules of several runs, beside the controls.

    Args:
        predictors: Name → what gives a history's scores; see `scorer_predictor` and `fitted_predictor`.
        judged: Modules of runs with losses.
        novelty: History → what its run has that the scores' training had not, of `NOVELTIES`, or "" if nothing.
        second_views: The same modules measured on other images.
        reference: Modules of runs that the controls are calibrated on, a judged run itself left out; with
            those of fewer than three runs, controls have an order and no scale.
        form: Of the scores; controls are read alike.

    Returns:
        The rows; and what these runs cannot answer.

    Raises:
        ValueError: If there are no runs to judge.
    """
    if not judged:
        raise ValueError("an audit needs at least one run with checkpoints to judge")
    protocols = protocols_of(judged, novelty)
    if second_views:
        protocols[IMAGES] = [audit_case(history) for history in second_views]
    enough = len({history.run for history in reference}) >= 3
    every = dict(predictors)
    if enough:
        # To each meaning of phases by itself, as the controls are.
        every[REFITTED] = fitted_predictor(CLASS_STATISTICS, reference, form)
    every |= control_predictors(reference if enough else (), form)
    rows = [
        row
        for protocol, cases in protocols.items()
        for truth in TRUTHS
        for row in judged_rows(protocol, cases, every, truth)
    ]
    if enough:
        rows += _recognition(judged, reference, form)
    answered = {row.protocol for row in rows if row.predictor in predictors}
    lacking = [
        f"{name}: no run here tests it"
        for name in (*PROTOCOL_NAMES.values(), BETWEEN, IMAGES)
        if name not in answered
    ]
    if not enough:
        lacking.append(
            f"{INSIDE}, {PERMUTED}, and the controls' distance in phases: these need three runs to fit on"
        )
    return Audit(tuple(rows), tuple(lacking))


def protocols_of(
    judged: Sequence[ModuleHistory], novelty: Callable[[ModuleHistory], str]
) -> dict[str, list[AuditCase]]:
    """Return the protocols that histories belong to: by what is new in their runs, and between markers."""
    protocols: dict[str, list[AuditCase]] = {}
    for history in judged:
        name = PROTOCOL_NAMES.get(novelty(history), KNOWN)
        protocols.setdefault(name, []).append(audit_case(history))
        if len(marker_rows(history)[1]):
            protocols.setdefault(BETWEEN, []).append(audit_case(history, between=True))
    return protocols


def marker_rows(history: ModuleHistory) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the positions of the measured epochs next to the ten markers, and of the others up to convergence."""
    official, epochs = history.phases(smoothed=True), history.epochs
    end = int(np.argmax(official >= NUM_PHASES)) if (official >= NUM_PHASES).any() else len(epochs)
    end = min(end, len(epochs) - 1)
    wanted = np.arange(1, NUM_PHASES + 1)
    nearest = np.unique([int(np.abs(official[: end + 1] - k).argmin()) for k in wanted])
    others = np.setdiff1d(np.arange(end + 1), nearest)
    return nearest.astype(np.intp), others.astype(np.intp)


def audit_case(history: ModuleHistory, *, between: bool = False) -> AuditCase:
    """Return a history with its phases, judged at the markers or between them."""
    at, others = marker_rows(history)
    truths = {truth: true_phases(history, truth) for truth in TRUTHS}
    return AuditCase(history, others if between else at, np.arange(int(at[-1]) + 1), truths)


def judged_rows(
    protocol: str, cases: Sequence[AuditCase], predictors: Mapping[str, Predictor], truth: Truth
) -> list[AuditRow]:
    """Return a row per predictor that answers at least one of the cases."""
    errors, rows = {}, []
    for name, predict in predictors.items():
        measured = [_measured(case, predict, truth) for case in cases]
        known = [one for one in measured if one is not None]
        if known:
            errors[name] = _by_run(known)
            rows.append(_row(protocol, name, truth, known))
    clocks = [errors[name] for name in CLOCKS if name in errors]
    return [
        row
        if row.predictor in CLOCKS or row.mae is None or not clocks
        else replace(row, beats_clock=_beats(errors[row.predictor], clocks))
        for row in rows
    ]


@dataclass(frozen=True)
class _Measured:
    run: str
    error: float
    right: float
    rho: float
    covered: float


def _measured(case: AuditCase, predict: Predictor, truth: Truth) -> _Measured | None:
    from scipy.stats import spearmanr

    values, low, high = predict(case.history, truth)
    wanted = case.truths[truth]
    if not np.isfinite(values[case.rows]).any():
        return None
    usable = case.ordered[np.isfinite(values[case.ordered])]
    rho = np.nan
    if len(usable) > 2 and np.ptp(values[usable]) > 0 and np.ptp(wanted[usable]) > 0:
        rho = float(spearmanr(values[usable], wanted[usable]).statistic)
    rows = case.rows[np.isfinite(values[case.rows])]
    off = np.abs(values[rows] - wanted[rows])
    scaled = bool((values[rows] <= 2 * NUM_PHASES).all())
    covered = np.nan
    if low is not None and high is not None:
        covered = float(np.mean((low[rows] <= wanted[rows]) & (wanted[rows] <= high[rows])))
    return _Measured(
        case.history.run,
        error=float(off.mean()) if scaled else np.nan,
        right=float(np.mean(np.rint(values[rows]) == np.rint(wanted[rows]))) if scaled else np.nan,
        rho=rho,
        covered=covered,
    )


def _row(protocol: str, name: str, truth: Truth, known: Sequence[_Measured]) -> AuditRow:
    def mean(values: Sequence[float]) -> float | None:
        finite = [value for value in values if np.isfinite(value)]
        return float(np.mean(finite)) if finite else None

    rhos = [one.rho for one in known if np.isfinite(one.rho)]
    return AuditRow(
        *(protocol, name, truth, len({one.run for one in known})),
        accuracy=mean([one.right for one in known]),
        mae=mean([one.error for one in known]),
        rho=float(np.mean(rhos)) if rhos else np.nan,
        worst_rho=min(rhos, default=np.nan),
        coverage=mean([one.covered for one in known]),
        beats_clock=None,
    )


def _by_run(known: Sequence[_Measured]) -> dict[str, float]:
    runs: dict[str, list[float]] = {}
    for one in known:
        runs.setdefault(one.run, []).append(one.error)
    return {run: float(np.mean(errors)) for run, errors in runs.items()}


def _beats(mine: Mapping[str, float], clocks: Sequence[Mapping[str, float]]) -> str:
    clear = True
    for clock in clocks:
        common = [run for run in mine if run in clock]
        theirs, ours = ([one[run] for run in common] for one in (clock, mine))
        if not common or not np.mean(ours) < np.mean(theirs):
            return "no"
        clear &= len(common) > 1 and paired_comparison(theirs, ours).interval_high < 0
    return "yes" if clear else "unclear"


def _recognition(
    judged: Sequence[ModuleHistory], reference: Sequence[ModuleHistory], form: Form
) -> list[AuditRow]:
    """Return how the statistics do where there is no maturity to learn: passing here, they recognise checkpoints."""
    shuffled = fitted_predictor(CLASS_STATISTICS, reference, form, permuted)
    rows = judged_rows(
        PERMUTED, [audit_case(history) for history in judged], {REFITTED: shuffled}, "raw"
    )
    inside = [one for one in map(inside_one_phase, judged) if one is not None]
    known = [one for one in map(inside_one_phase, reference) if one is not None]
    if inside and len({history.run for history in known}) >= 3:
        cases = [
            AuditCase(h, np.arange(len(h.epochs)), np.arange(len(h.epochs)), {"raw": evenly(h)})
            for h in inside
        ]
        predictor = fitted_predictor(
            CLASS_STATISTICS, known, form, truth_of=lambda history, _: evenly(history)
        )
        rows += judged_rows(INSIDE, cases, {REFITTED: predictor}, "raw")
    return rows


def inside_one_phase(history: ModuleHistory) -> ModuleHistory | None:
    """Return the part of a history in the phase with most measured epochs; None where none has four."""
    phase = np.floor(history.phases(smoothed=True))
    counts = [int((phase == k).sum()) for k in range(NUM_PHASES)]
    rows = np.flatnonzero(phase == int(np.argmax(counts)))
    if len(rows) < _FEWEST:
        return None
    values = {name: value[rows] for name, value in history.values.items()}
    return replace(history, epochs=history.epochs[rows], values=values)


def evenly(history: ModuleHistory) -> Floats:
    """Return phases from 0 to 10 in equal steps, whatever the losses."""
    return np.linspace(0, NUM_PHASES, len(history.epochs))
