"""Scores and controls for an audit: what tells the phase of a module's checkpoints, or does not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fmce.scoring.history import ModuleHistory
from fmce.scoring.monotone import MonotoneTable, answers_of, combine, fit_table
from fmce.scoring.scorer import MaturityScorer
from fmce.scoring.tables import Form, inputs_of

Floats = NDArray[np.float64]
Truth = Literal["raw", "official"]
Scores = tuple[Floats, Floats | None, Floats | None]
"""Score, lower and upper end of its interval at each measured epoch, all (E,)."""
Predictor = Callable[[ModuleHistory, Truth], Scores]

CLOCKS = ("epoch number", "share of the schedule")
# The statistic that each control reads.
CONTROLS: Mapping[str, str] = {
    "epoch number": "epoch",
    "share of the schedule": "share",
    "own head's loss": "head_loss",
    "probe error": "probe_error",
    "mean activation": "mean_activation",
    "weight norm": "weight_norm",
    "effective rank": "effective_rank",
    "spectrum's tail (WeightWatcher-like)": "tail_exponent",
}


def true_phases(history: ModuleHistory, truth: Truth) -> Floats:
    """Return the phase of each measured epoch (E,), 0 to 10."""
    return history.phases(smoothed=truth == "official")


def scorer_predictor(
    scorer: MaturityScorer, form: Form = "within_run", labels: Literal["class", "free"] = "class"
) -> Predictor:
    """Return what a fitted scorer gives, with its intervals."""

    def predict(history: ModuleHistory, _: Truth) -> Scores:
        found = scorer.score(history, form, labels)
        return found.values, found.low, found.high

    return predict


def fitted_predictor(
    statistics: Sequence[str],
    reference: Sequence[ModuleHistory],
    form: Form,
    relabel: Callable[[ModuleHistory], ModuleHistory] = lambda history: history,
    truth_of: Callable[[ModuleHistory, Truth], Floats] = lambda h, t: true_phases(h, t),
) -> Predictor:
    """Return one that is fitted on other runs: a monotone table per statistic, and the mean of their answers.

    Args:
        statistics: Names; a history without them has no score.
        reference: Modules to fit on; those of the judged run are left out.
        form: See `MaturityScorer`.
        relabel: Changes what is fitted on.
        truth_of: Gives the phases to fit.
    """
    tables: dict[tuple[str, Truth], dict[str, MonotoneTable]] = {}

    def predict(history: ModuleHistory, truth: Truth) -> Scores:
        left_out = history.run if any(h.run == history.run for h in reference) else ""
        if (left_out, truth) not in tables:
            pool = [relabel(with_clocks(h)) for h in reference if h.run != left_out]
            truths = [truth_of(h, truth) for h in pool]
            tables[left_out, truth] = _tables(pool, truths, statistics, form)
        fitted, known = tables[left_out, truth], with_clocks(history)
        inputs = inputs_of(known, form, [name for name in fitted if name in known.values])
        if not inputs:
            return np.full(len(history.epochs), np.nan), None, None
        return combine(answers_of(fitted, inputs))[0], None, None

    return predict


def _tables(
    pool: Sequence[ModuleHistory], truths: Sequence[Floats], statistics: Sequence[str], form: Form
) -> dict[str, MonotoneTable]:
    found = {}
    for name in statistics:
        having = [(h, t) for h, t in zip(pool, truths, strict=True) if name in h.values]
        if not having:
            continue
        x = np.concatenate([inputs_of(h, form, [name])[name] for h, _ in having])
        y = np.concatenate([t for _, t in having])
        weights = np.concatenate([np.full(len(t), 1 / len(t)) for _, t in having])
        if len(np.unique(x[np.isfinite(x)])) > 1:
            found[name] = fit_table(x, y, weights)
    return found


def with_clocks(history: ModuleHistory) -> ModuleHistory:
    """Return a history with the epoch number and the share of the schedule among its statistics."""
    epochs = history.epochs.astype(float)
    clocks = {"epoch": epochs, "share": epochs / (history.planned or len(history.losses))}
    # A network that knows nothing has the loss of guessing; its log is a place to start from.
    start = {"epoch": 0.0, "share": 0.0}
    if "head_loss" in history.values:
        start["head_loss"] = float(np.log(max(history.losses[0], 1e-12)))
    return replace(history, values={**history.values, **clocks}, twin={**history.twin, **start})


def control_predictors(reference: Sequence[ModuleHistory], form: Form) -> dict[str, Predictor]:
    """Return the controls: calibrated on other runs, or where there are none as they are, with an order alone.

    Args:
        reference: Modules to calibrate on, or nothing.
        form: How all but the clocks are read, which are read by themselves.
    """
    return {
        name: fitted_predictor([statistic], reference, "snapshot" if name in CLOCKS else form)
        if reference
        else _order_of(statistic)
        for name, statistic in CONTROLS.items()
    }


def _order_of(statistic: str) -> Predictor:
    """Return a control without a scale: above 10, so that no distance can be taken from it."""

    def predict(history: ModuleHistory, _: Truth) -> Scores:
        values = with_clocks(history).values.get(statistic)
        if values is None:
            return np.full(len(history.epochs), np.nan), None, None
        # It may rise or fall with training: the sign is taken from its two ends, as a user would.
        sign = np.sign(values[-1] - values[0]) or 1.0
        return 1e3 + sign * (values - values[0]), None, None

    return predict


def permuted(history: ModuleHistory) -> ModuleHistory:
    """Return a history whose statistics belong to other epochs, which is what permuted labels come to."""
    draw = np.random.default_rng(list(history.run.encode()))
    order = draw.permutation(len(history.epochs))
    return replace(history, values={name: v[order] for name, v in history.values.items()})
