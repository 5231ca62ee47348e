"""How far a training that is not over has come: its end is extrapolated, with an interval.

The phase at the newest epoch is a share of what the complete run will reach. Its loss and its modules, continued as
they moved last, give two first guesses of that share; the length of the training, planned or estimated by the verdict
on the curve, gives the epochs ahead. A small linear model, fitted on runs that were cut off, joins them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fmce.convergence.banded import Array
from fmce.convergence.verdict import judge_curve
from fmce.scoring.history import NUM_PHASES, ModuleHistory
from fmce.scoring.intervals import FEWEST_SCORES, Offsets, fit_offsets

# The last part of the epochs seen, from which the pace is read.
_RECENT = 0.3
_FEWEST_EPOCHS = 8
# Shares of a run that it is cut off at, to fit the model.
CUTS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Outlook:
    """A linear model of the phase at the newest epoch.

    Attributes:
        weights: "planned" or "unplanned" → weights of what `clues` returns.
        offsets: The same → offsets of its 90 % interval.
    """

    weights: dict[str, Array]
    offsets: dict[str, Offsets]

    def reached(self, history: ModuleHistory, progress: Array) -> tuple[float, float, float]:
        """Return the phase at the newest epoch with its interval.

        Args:
            history: What is known so far.
            progress: (E,) the module's own progress, 10 at the newest epoch.
        """
        kind = "planned" if history.planned else "unplanned"
        guess = np.clip(clues(history, progress) @ self.weights[kind], 0, NUM_PHASES)
        low, high = self.offsets[kind].around(np.array([guess]))
        ends = np.clip((low[0], high[0]), 0, NUM_PHASES)
        return float(guess), float(ends[0]), float(ends[1])


def clues(history: ModuleHistory, progress: Array) -> Array:
    """Return what the phase at the newest epoch is estimated from.

    Args:
        history: Up to the newest epoch, with losses.
        progress: (E,) the module's progress within what was seen.

    Returns:
        (6,): one, share of the training's length, share reached by the loss and by the module if both continue at
        their recent pace, and products of these.
    """
    losses, now = history.losses, len(history.losses)
    length = history.planned or expected_length(losses)
    ahead = max(length - now, 0)
    logs = -np.log(np.maximum(losses, 1e-12))
    by_loss = _share(np.arange(1.0, now + 1), logs - logs[0], ahead)
    by_module = _share(history.epochs.astype(np.float64), progress, ahead)
    place = now / max(length, now)
    return np.array([1.0, place, by_loss, by_module, place * by_loss, by_loss * by_module])


def expected_length(losses: Array) -> int:
    """Return how many epochs a training of unknown length will take, by the verdict on its curve so far."""
    now = len(losses)
    if now < _FEWEST_EPOCHS:
        return 4 * now
    verdict = judge_curve(losses)
    if verdict.state in ("converged", "at_rest", "overfitting"):
        return now
    return now + min(verdict.more_epochs or now, 4 * now)


def _share(epochs: Array, progress: Array, ahead: int) -> float:
    """Return progress so far over that after so many epochs more at the recent pace, in [0, 1]."""
    start = np.interp((1 - _RECENT) * epochs[-1], epochs, progress)
    pace = max(progress[-1] - start, 0) / max(_RECENT * epochs[-1], 1)
    total = progress[-1] + pace * ahead
    return float(np.clip(progress[-1] / total, 0, 1)) if total > 0 else 0.0


def cut_epochs(history: ModuleHistory) -> list[int]:
    """Return measured epochs at which a complete run can be cut off to fit the model.

    >>> import numpy as np
    >>> cut_epochs(ModuleHistory("run", "head", np.arange(1, 11), {}, {}, np.ones(10)))
    [3, 4, 5, 6, 7, 8, 9]
    """
    epochs, last = history.epochs, len(history.losses)
    near = {int(epochs[np.abs(epochs - share * last).argmin()]) for share in CUTS}
    return sorted(epoch for epoch in near if 3 <= epoch < last)


def fit_outlook(
    histories: Sequence[ModuleHistory], progress_of: Callable[[ModuleHistory], Array]
) -> Outlook | None:
    """Fit the model on complete runs, each cut off at several epochs.

    Args:
        histories: Complete, with losses.
        progress_of: History → (E,) the module's own progress.

    Returns:
        The model; None where there are too few cuts for an interval.
    """
    weights, offsets = {}, {}
    for kind in ("planned", "unplanned"):
        rows, truth, groups = [], [], []
        for whole in histories:
            phases = dict(zip(whole.epochs.tolist(), whole.phases().tolist(), strict=True))
            for epoch in cut_epochs(whole):
                planned = len(whole.losses) if kind == "planned" else None
                seen = replace(whole.until(epoch), planned=planned)
                progress = progress_of(seen)
                if np.isfinite(progress).all():
                    rows.append(clues(seen, progress))
                    truth.append(phases[epoch])
                    groups.append((whole.run, *map(whole.about.get, ("data", "architecture"))))
        if len(rows) < FEWEST_SCORES:
            return None
        weights[kind] = _weights(rows, truth)
        guesses, right = [], []
        # Left out by run, by data and by architecture: the interval holds for what is new in any of these.
        for place in range(3):
            for left_out in sorted({str(group[place]) for group in groups}):
                inside = [str(group[place]) == left_out for group in groups]
                if all(inside):
                    continue
                own = _weights(
                    *([v for v, i in zip(x, inside, strict=True) if not i] for x in (rows, truth))
                )
                guesses += [r @ own for r, i in zip(rows, inside, strict=True) if i]
                right += [t for t, i in zip(truth, inside, strict=True) if i]
        clipped = np.clip(guesses, 0, NUM_PHASES)
        offsets[kind] = fit_offsets(clipped, np.array(right), len({group[0] for group in groups}))
    return Outlook(weights, offsets)


def _weights(rows: Sequence[Array], truth: Sequence[float]) -> Array:
    """Fit the linear model with a little ridge; `rows` are those of `clues`, `truth` the phases reached."""
    x, y = np.array(rows), np.array(truth)
    penalty = 1e-3 * len(x) * np.eye(x.shape[1])
    penalty[0, 0] = 0
    return np.asarray(np.linalg.solve(x.T @ x + penalty, x.T @ y))
