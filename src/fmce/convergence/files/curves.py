"""Read a loss curve from a training log of whatever program: which columns and rows are the loss, and of which epoch.

Serves the loss sequence L_1 … L_M of FMCE (section IV-A) to ``find_phases``, whoever trained the
model. Judges the file, not the curve: whether losses can have phases is checked there.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fmce.convergence.files.rows import LogRows, where
from fmce.convergence.files.tables import Table, as_number, counted, read_table
from fmce.convergence.files.writers import (
    USUAL_LOSSES,
    any_match,
    is_other_measure,
    never_loss,
    spelled,
)

if TYPE_CHECKING:
    import pandas as pd

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class CurveOptions:
    """What a user says about a log; None leaves it to the file.

    Args:
        column: Column, dotted key or tag of the loss; several joined by "+" are summed.
        epoch_column: That of the epoch.
        lr_column: That of the learning rate.
        validation_column: That of the validation loss; several joined by "+" are summed.
        format: Program that wrote the file, or csv, tsv, json or jsonl.
        where: "COLUMN=VALUE" texts; a row must fit one of each column's.
        steps_per_epoch: Makes epochs of steps where the log has no epochs, at least 1.
    """

    column: str | None = None
    epoch_column: str | None = None
    lr_column: str | None = None
    validation_column: str | None = None
    format: str | None = None
    where: tuple[str, ...] = ()
    steps_per_epoch: int | None = None

    def __post_init__(self) -> None:
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch must be at least 1; got {self.steps_per_epoch}")


@dataclass(frozen=True)
class LossCurve:
    """A loss per epoch, as read from a file.

    Args:
        losses: L_1 … L_M in epoch order, in the file's unit, finite.
        learning_rates: One per epoch, finite; None where none were asked for.
        source: Path of the file.
        column: Columns or dotted keys that the losses came from, joined by " + ".
        epochs: The file's own number of each epoch, for files that count from 0, start elsewhere or leave epochs
            out; None where no column tells.
        validation_losses: One per epoch, NaN where there is none; None where none were asked for.
        read_as: What the file was read as, with the numbers of epochs and rows.
        notes: What was averaged, dropped or passed over, with counts.
    """

    losses: tuple[float, ...]
    learning_rates: tuple[float, ...] | None
    source: str
    column: str
    epochs: tuple[float, ...] | None = None
    validation_losses: tuple[float, ...] | None = None
    read_as: str = ""
    notes: tuple[str, ...] = ()


def read_curve(
    path: str | os.PathLike[str],
    options: CurveOptions = CurveOptions(),
) -> LossCurve:
    """Read the losses, and what else is asked for, of a log file.

    The content says which program wrote it (`writers.py`), else what form it has. Without `column` the losses are
    those that this program calls so, else those with a usual name, else the only other column of numbers; a rate,
    a time or a count is never taken.

    A row is a row that has a loss. Rows of one epoch are averaged, unweighted; a fractional epoch belongs to the
    whole one that it ends in. Where epochs or steps go back, a training was resumed, and what was written later
    holds from there on. Without epochs and steps per epoch, each row is an epoch.

    Args:
        path: The file.
        options: What the file does not say.

    Returns:
        The curve, with epochs in order, and what was done to get it.

    Raises:
        ValueError: If the file is empty, damaged or of another kind; a name is unknown or none can be chosen; rows
            of several trainings or kinds cannot be separated; a value is no finite number (named with its
            place); or epochs are missing.
        OSError: If it cannot be read.
    """
    return curve_of(read_table(Path(path), options.format), options)


def curve_of(table: Table, options: CurveOptions) -> LossCurve:
    """Return the curve of a table that was read before, from whatever kind of log; see `read_curve`.

    Raises:
        ValueError: As `read_curve`.
    """
    if options.where:
        table = where(table, options.where)
    named = [table.check(n) for n in (options.epoch_column, options.lr_column) if n is not None]
    loss = _loss_columns(table, options.column, named)
    validation = options.validation_column and _asked_columns(table, options.validation_column)
    values, what = _summed(table, loss), " + ".join(loss)
    if values.empty:
        raise ValueError(f"{table.source}: no row has {what}; name another column")
    lr = options.lr_column
    beside = [*loss, *(validation or ()), *([] if lr is None else [lr])]
    rows = LogRows(table, values, beside, options.epoch_column, options.steps_per_epoch)
    held = rows.latest(rows.losses, what)
    if len(values) < len(table.frame) and table.unit != "point":
        lacking = counted(len(table.frame) - len(values), "row")
        rows.notes.append(f"{lacking} without {what} left out")
    points = _Points(rows, held)
    rates = others = None
    if lr is not None:
        rates = points.rates(rows.latest(table.finite(lr), lr), lr)
    if validation:
        sums = _summed(table, validation, strict=False)
        others = points.last(rows.latest(sums, " + ".join(validation)))
    return LossCurve(
        points.means(held),
        rates,
        str(table.source),
        what,
        points.own_epochs,
        others,
        f"{table.title}: {points.summary()}",
        tuple(rows.notes),
    )


def _summed(table: Table, names: Sequence[str], *, strict: bool = True) -> "pd.Series[float]":
    """Return the sum of columns in the rows that have all of them."""
    columns = [table.finite(name, strict=strict) for name in names]
    return sum(columns[1:], columns[0]).reindex(table.frame.index).dropna()


def _asked_columns(table: Table, asked: str) -> list[str]:
    parts = [part.strip() for part in asked.split("+")]
    summed = asked not in table.columns and set(parts) <= set(table.columns)
    return parts if summed else [table.check(asked)]


def _loss_columns(table: Table, asked: str | None, taken: Sequence[str]) -> list[str]:
    """Return the columns whose sum is the training loss."""
    if asked is not None:
        return _asked_columns(table, asked)
    free = [c for c in table.columns if c not in taken and not never_loss(c)]
    patterns = table.writer.loss.split() if table.writer else []
    ranked = [any_match(pattern, free) for pattern in patterns]
    ranked += [[c for c in free if spelled(c) == usual] for usual in USUAL_LOSSES]
    candidates = next(filter(None, ranked), [])
    if len(candidates) == 1 or (candidates and table.writer is not None and table.writer.several):
        return candidates
    if not candidates:
        # A name that is a number was a value: the file has no header.
        candidates = [c for c in free if table.is_numeric(c) and math.isnan(as_number(c))]
        others = [c for c in candidates if not is_other_measure(c)]
        if len(others) == 1 and not table.elsewhere:
            return others
    raise ValueError(_question(table, candidates))


def _question(table: Table, candidates: Sequence[str]) -> str:
    barred = [c for c in table.columns if never_loss(c) and not c.endswith(("__MIN", "__MAX"))]
    if table.unit == "point":
        barred.remove("step")  # which is no tag
    never = (
        f"{', '.join(barred[:5])} never {'is' if len(barred) == 1 else 'are'}; " if barred else ""
    )
    option = {"record": "key", "point": "tag"}.get(table.unit, "column")
    beside = f"; event files also in {', '.join(table.elsewhere)}" if table.elsewhere else ""
    found = f"one of: {', '.join(candidates[:20])}" if candidates else f"it has: {table.listing()}"
    return (
        f"{table.source}: which {option} is the loss? {never}name it with --{option} (several joined by + are summed), "
        f"{found}{beside}"
    )


class _Points:
    """The points of a curve, one an epoch, and where the rows of any column fall among them."""

    def __init__(self, rows: LogRows, held: "pd.DataFrame") -> None:
        self._rows = rows
        self._by = "order"
        self._round: Callable[[_Array], _Array] = np.asarray
        if rows.epoch_name is not None:
            self._by = "epoch"
            self._choose_epochs(held["epoch"])
        elif held["step"].notna().all() and held["step"].nunique() > 1:
            self._by = "step"
        self._moments = at = self._at(held)
        self._sizes = np.ones(len(at), dtype=int)
        if self._by == "epoch":
            self._moments, self._sizes = np.unique(at, return_counts=True)
        elif len(at) > 1:
            rows.notes.append(self._each_row(held["step"].dropna()))

    @property
    def own_epochs(self) -> tuple[float, ...] | None:
        """The file's own number of each epoch."""
        return tuple(self._moments.tolist()) if self._by == "epoch" else None

    def _at(self, held: "pd.DataFrame") -> _Array:
        """Return the moment of rows, in their order, on the axis of the points."""
        moments = held.index if self._by == "order" else held[self._by]
        return self._round(moments.to_numpy(dtype=float))

    def _choose_epochs(self, epochs: "pd.Series[float]") -> None:
        """Decide what a fractional epoch belongs to, and refuse epochs that are missing."""
        exact = epochs.round(6)
        fractional = exact % 1 != 0
        if fractional.any():
            # Counters that begin with 0.0 and end before a whole number name what was over when a batch began.
            before = not fractional.iloc[0] and fractional.iloc[-1]
            self._round = _floor if before else _ceiling
        present = np.unique(self._round(np.asarray(exact, dtype=np.float64)))
        after = np.flatnonzero(np.diff(present) > 1)  # the epochs before gaps
        distances = exact.sort_values().diff().dropna()
        usual = distances.median()
        regular = distances.max() <= 1.5 * usual and (distances < 0.5 * usual).sum() <= 2
        if len(after) and len(present) == len(exact) and regular:
            self._round = np.asarray
            self._rows.notes.append(
                f"rows stand about every {usual:g} epochs; each is a point of the curve"
            )
        elif len(after):
            gaps = [(present[i] + 1, present[i + 1] - 1) for i in after]
            named = [f"{a:.0f}" if a == b else f"{a:.0f}…{b:.0f}" for a, b in gaps[:5]]
            missing = sum(b - a + 1 for a, b in gaps)
            raise ValueError(
                f"{self._rows.table.source}: {missing:.0f} of the epochs {present[0]:.0f}…{present[-1]:.0f} have no "
                f"loss: {', '.join(named)}{' and more' if len(gaps) > 5 else ''}; every epoch needs one: add them, "
                "or move the part before or after them to a separate file"
            )
        elif fractional.any():
            first = "0 ≤ e < 1" if self._round is _floor else "0 < e ≤ 1"
            self._rows.notes.append(f"epochs are fractions: rows with {first} are the first epoch")

    def _each_row(self, steps: "pd.Series[float]") -> str:
        name = self._rows.step_name
        if len(steps) < 2:
            return "the log has no epochs: each row is taken for one"
        if steps.nunique() == 1:
            return f"every row has {name} {steps.iloc[0]:g}: each is taken for an epoch, in the order of writing"
        return (
            f"the log has no epochs: each row is taken for one, about every {steps.diff().median():g} of {name}; "
            "--steps-per-epoch averages them"
        )

    def summary(self) -> str:
        """Return how many epochs came from how many rows."""
        fewest, most = self._sizes.min(), self._sizes.max()
        text = f"{counted(len(self._sizes), 'epoch')} from {counted(int(self._sizes.sum()), 'row')}"
        if most == 1:
            return text
        return f"{text}, the mean of {f'{fewest} to ' if fewest < most else ''}{most} each"

    def means(self, held: "pd.DataFrame") -> tuple[float, ...]:
        """Return the mean of each point's rows, unweighted.

        Not given in the paper: how steps make an epoch's loss. Up to a smaller last batch, the mean of the rows is
        the mean over samples.
        """
        values = held["value"].tolist()
        if len(values) == len(self._sizes):
            return tuple(values)
        ends = np.cumsum(self._sizes).tolist()
        return tuple(_mean(values[a:b]) for a, b in zip([0, *ends], ends, strict=False))

    def last(self, held: "pd.DataFrame") -> tuple[float, ...]:
        """Return each point's last value of another column, NaN where it has none."""
        places = np.searchsorted(self._moments, self._at(held), side="right") - 1
        latest = held["value"].groupby(places.clip(min=0)).last()
        return tuple(latest.reindex(range(len(self._moments))).tolist())

    def rates(self, held: "pd.DataFrame", name: str) -> tuple[float, ...]:
        """Return the latest learning rate at each point: the one nearest to the checkpoint at its end."""
        moments = self._at(held)
        order = np.argsort(moments, kind="stable")
        latest = np.searchsorted(moments[order], self._moments, side="right") - 1
        if latest[0] < 0:
            raise ValueError(
                f"{self._rows.table.source}: no {name!r} up to {self._by} {self._moments[0]:g}"
            )
        lacking = len(latest) - len(np.unique(latest))
        if lacking:
            self._rows.notes.append(
                f"{name}: {lacking} of {len(latest)} epochs have no value; the latest earlier one is used"
            )
        return tuple(held["value"].iloc[order[latest]].tolist())


def _floor(epochs: _Array) -> _Array:
    return np.floor(epochs.round(6))


def _ceiling(epochs: _Array) -> _Array:
    return np.ceil(epochs.round(6)).clip(min=1)


def _mean(values: list[float]) -> float:
    try:
        return math.fsum(values) / len(values)
    except OverflowError:  # a diverged run near the largest float
        return math.fsum(value / len(values) for value in values)
