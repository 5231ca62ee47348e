"""How far scores are off on runs that they did not see, beside what they have to beat."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from experiments.transfer_runs import StoredRun
from fmce.convergence.phases import PhaseConfig, find_phases
from fmce.scoring.history import NUM_PHASES, ModuleHistory
from fmce.scoring.monotone import fit_table
from fmce.scoring.outlook import CUTS
from fmce.scoring.scorer import Labels, MaturityScorer, MaturityScores
from fmce.scoring.tables import Form

Array = NDArray[np.float64]
_CONFIG = PhaseConfig(num_phases=NUM_PHASES, relative_threshold=1e-3, if_not_converged="last")


@dataclass(frozen=True)
class Case:
    """One module of one stored run.

    Attributes:
        history: Its statistics.
        last: Whether it is the last of the recorded modules.
        raw: (E,) phases by the losses themselves.
        official: (E,) phases by the smoothed losses.
        markers: Places of the ten markers among the measured epochs.
        used: (E,) whether the epoch is at most the convergence epoch.
        baselines: Name → (E,) what a score has to beat.
    """

    history: ModuleHistory
    last: bool
    raw: Array
    official: Array
    markers: NDArray[np.intp]
    used: NDArray[np.bool_]
    baselines: Mapping[str, Array]


def cases_of(run: StoredRun, *, views: int = 2) -> list[Case]:
    """Return the modules of a stored run, the last one at the end; without phases none."""
    try:
        phases = find_phases(run.losses, _CONFIG)
    except ValueError:
        return []
    epochs = run.epochs
    markers = np.array([np.abs(epochs - marker).argmin() for marker in phases.markers])
    cases = []
    for place, history in enumerate(run.histories(views=views), start=1):
        baselines = {
            "epoch number": epochs.astype(np.float64),
            "share of the schedule": epochs / run.training.epochs,
            "own head's loss": _span(run.head["loss"]),
            **{
                name: _between(history, statistic)
                for name, statistic in {
                    "probe error": "probe_error",
                    "mean activation": "mean_activation",
                    "weight norm": "weight_norm",
                    "effective rank": "effective_rank",
                    "tail exponent": "tail_exponent",
                }.items()
            },
        }
        cases.append(
            Case(
                *(history, place == len(run.modules), history.phases()),
                *(history.phases(smoothed=True), markers),
                epochs <= phases.convergence_epoch,
                baselines,
            )
        )
    return cases


def positions_case(history: ModuleHistory) -> Case:
    """Return a recorded module as a case, without baselines.

    Raises:
        ValueError: If its losses have no phases.
    """
    phases = find_phases(history.losses, _CONFIG)
    markers = np.array([np.abs(history.epochs - marker).argmin() for marker in phases.markers])
    used = history.epochs <= phases.convergence_epoch
    return Case(history, True, history.phases(), history.phases(smoothed=True), markers, used, {})


def _span(values: Array) -> Array:
    span = values[-1] - values[0]
    return (values - values[0]) / span if abs(span) > 1e-9 else np.full_like(values, np.nan)


def _between(history: ModuleHistory, statistic: str) -> Array:
    values = history.values[statistic] - history.twin[statistic]
    return values / values[-1] if abs(values[-1]) > 1e-9 else np.full_like(values, np.nan)


def baseline_predictors(
    fitted: Sequence[Case], target: str = "raw"
) -> dict[str, Callable[[Case], Array]]:
    """Fit one monotone table per baseline on the same runs, as the scorer has one per statistic."""

    def predictor(name: str) -> Callable[[Case], Array]:
        x = np.concatenate([case.baselines[name] for case in fitted])
        y = np.concatenate([getattr(case, target) for case in fitted])
        w = np.concatenate([np.full(len(case.raw), 1 / len(case.raw)) for case in fitted])
        table = fit_table(x, y, w)
        return lambda case: table(case.baselines[name])

    return {name: predictor(name) for name in fitted[0].baselines}


def errors(case: Case, predicted: Array, target: str = "raw") -> dict[str, float | None]:
    """Return mean absolute error at the markers, and rank correlation over the epochs up to convergence."""
    truth = getattr(case, target)
    apart = np.abs(predicted - truth)[case.markers]
    known = case.used & np.isfinite(predicted)
    rank = float("nan")
    if known.sum() > 2 and np.ptp(predicted[known]) > 0:
        rank = float(spearmanr(predicted[known], truth[known]).statistic)
    return {
        "mae": float(np.nanmean(apart)) if np.isfinite(apart).any() else None,
        "rho": rank if np.isfinite(rank) else None,
    }


def summary(rows: Sequence[Mapping[str, float | None]]) -> dict[str, Any]:
    """Return means over runs, and the worst run's rank correlation; a baseline without order counts as 0."""
    mae = [row["mae"] for row in rows if row["mae"] is not None]
    rho = [0.0 if row["rho"] is None else row["rho"] for row in rows]
    return {
        "runs": len(rows),
        "mae": float(np.mean(mae)) if mae else None,
        "rho": float(np.mean(rho)),
        "rho_worst": float(np.min(rho)),
    }


def judged(
    scorer: MaturityScorer,
    cases: Sequence[Case],
    form: Form = "within_run",
    labels: Labels = "class",
    target: str = "raw",
) -> dict[str, Any]:
    """Return how far a scorer is off, and how much of the truth its intervals cover."""
    rows, inside, widths = [], [], []
    for case in cases:
        scores = scorer.score(case.history, form, labels)
        rows.append(errors(case, scores.values, target))
        truth, used = getattr(case, target), case.used
        inside.append(inside_share(scores, truth, used))
        widths += list((scores.high - scores.low)[used])
    return summary(rows) | {"covered": float(np.mean(inside)), "width": float(np.mean(widths))}


def inside_share(scores: MaturityScores, truth: Array, used: NDArray[np.bool_]) -> float:
    """Return the share of the used epochs whose true phase lies in the score's interval."""
    inside = (scores.low <= truth + 1e-9) & (truth <= scores.high + 1e-9)
    return float(np.mean(inside[used]))


def half_way(
    scorer: MaturityScorer, cases: Sequence[Case], labels: Labels = "class"
) -> dict[str, Any]:
    """Return how far off the phase reached by a training that is not over is, by the share of it that was seen.

    The phase at the newest epoch is judged, with its length known ("planned") and not.
    """
    found: dict[str, Any] = {}
    for kind in ("planned", "unplanned"):
        by_share: dict[str, Any] = {}
        for share in CUTS:
            apart, inside, clock = [], [], []
            for case in cases:
                whole = len(case.history.losses)
                place = int(np.abs(case.history.epochs - share * whole).argmin())
                epoch = int(case.history.epochs[place])
                if not 3 <= epoch < whole:
                    continue
                seen = case.history.until(epoch)
                if kind == "unplanned":
                    seen = replace(seen, planned=None)
                scores = scorer.score(seen, labels=labels, finished=False)
                truth = case.raw[place]
                apart.append(abs(scores.values[-1] - truth))
                inside.append(scores.low[-1] <= truth <= scores.high[-1])
                clock.append(abs(NUM_PHASES * epoch / whole - truth))
            if apart:
                by_share[f"{share:g}"] = {
                    "mae": float(np.nanmean(apart)),
                    "covered": float(np.mean(inside)),
                    "share of the schedule": float(np.mean(clock)),
                }
        found[kind] = by_share
    return found
