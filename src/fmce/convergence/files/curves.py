"""Read a loss curve from a log file: CSV, TSV, JSON lines or JSON.

Serves the loss sequence L_1 … L_M of FMCE (section IV-A) to ``find_phases``, whoever trained the
model. Judges the file, not the curve: whether losses can have phases is checked there.
"""

import math
import os
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from fmce.convergence.files.tables import (
    DELIMITERS,
    Row,
    Table,
    check_name,
    is_number,
    listing,
    read_number,
    read_table,
)

_USUAL_NAMES = ("loss", "train_loss")
# Numbers that count or steer and so are never taken for the loss unasked.
_NEVER_LOSSES = {"epoch", "step", "lr", "learning_rate"}


@dataclass(frozen=True)
class LossCurve:
    """A loss per epoch, as read from a file.

    Args:
        losses: L_1 … L_M in epoch order, in the file's unit, finite.
        learning_rates: One per epoch, finite; None where none were asked for.
        source: Path of the file.
        column: Column or dotted key that the losses came from.
        epochs: The file's own number of each epoch, for files that count from 0, go on from elsewhere
            or leave epochs out; None where no column called "epoch" and no other tells.
        skipped_rows: Rows without a loss, left out of their epoch's mean.
    """

    losses: tuple[float, ...]
    learning_rates: tuple[float, ...] | None
    source: str
    column: str
    epochs: tuple[float, ...] | None = None
    skipped_rows: int = 0


def read_curve(
    path: str | os.PathLike[str],
    *,
    column: str | None = None,
    key: str | None = None,
    epoch_column: str | None = None,
    lr_column: str | None = None,
) -> LossCurve:
    """Read the losses, and learning rates if asked for, of a log file.

    The suffix says the format: ``.csv`` and ``.tsv`` with a header line, ``.jsonl`` and
    ``.ndjson`` with an object a line, ``.json`` with one list of objects, an object of equally long
    lists, or a plain list of losses. In objects, a dotted name such as ``train.loss`` reaches into
    nested ones. Without ``column`` or ``key`` the losses
    are those called ``loss``, else ``train_loss``, else the only other column of numbers.

    Without ``epoch_column`` every row is an epoch, in the file's order. With it, rows of the same epoch are averaged,
    unweighted, in rising epoch order, whatever their order in the file, and rows without a loss
    are skipped (loggers put validation and training on rows of their own).

    Args:
        path: The file.
        column: Name of the loss in a CSV or TSV file.
        key: Name of the loss in a JSON file.
        epoch_column: Column or key that holds a whole number, the epoch of the row.
        lr_column: Column or key of the learning rate. With an epoch column the epoch's last value
            is taken: the rate nearest to the checkpoint at its end.

    Returns:
        The curve, with epochs in order and none missing.

    Raises:
        ValueError: The file is missing, empty, of another format or damaged; a name is unknown or
            none can be chosen; a value is no finite number (named with its line); epochs are
            missing, or repeat or go back without ``epoch_column``.
    """
    table = read_table(Path(path))
    name = _loss_name(table, column, key, {epoch_column, lr_column})
    for other in filter(None, (epoch_column, lr_column)):
        check_name(table, other)
    return curve_of(table, name, epoch_column, lr_column)


def curve_of(
    table: Table, name: str, epoch_column: str | None = None, lr_column: str | None = None
) -> LossCurve:
    """Return the curve of a table that was read before, from whatever kind of log; see `read_curve`.

    Args:
        table: The log.
        name: Its column of losses.
        epoch_column: Column to average rows by.
        lr_column: Column of the learning rate.

    Raises:
        ValueError: A value is no finite number, or epochs are missing or repeat, as in `read_curve`.
    """
    if epoch_column is None:
        return _row_per_epoch(table, name, lr_column)
    return _mean_per_epoch(table, name, epoch_column, lr_column)


def _loss_name(
    table: Table, column: str | None, key: str | None, taken: Collection[str | None]
) -> str:
    is_csv = table.source.suffix.lower() in DELIMITERS
    right, wrong, asked = ("column", "key", key) if is_csv else ("key", "column", column)
    if asked is not None:
        raise ValueError(
            f"{table.source}: in this format the loss is named by {right} (--{right}); got "
            f"{wrong}={asked!r}"
        )
    name = column if is_csv else key
    if name is not None:
        return check_name(table, name)
    for usual in _USUAL_NAMES:
        if usual in table.columns:
            return usual
    others = [c for c in table.columns if c not in taken and c.lower() not in _NEVER_LOSSES]
    numeric = [name for name in others if _is_numeric(table, name)]
    if len(numeric) == 1:
        return numeric[0]
    raise ValueError(
        f"{table.source}: which {right} is the loss? None is called {' or '.join(_USUAL_NAMES)}; "
        f"name it with {right} (--{right}), one of: {listing(table)}"
    )


def _is_numeric(table: Table, name: str) -> bool:
    cells = (row.cells[name] for row in table.rows if name in row.cells)
    return all(map(is_number, cells))


def _row_per_epoch(table: Table, name: str, lr_column: str | None) -> LossCurve:
    _refuse_other_order(table)
    rates = None
    if lr_column is not None:
        rates = tuple(read_number(table, row, lr_column) for row in table.rows)
    losses = tuple(read_number(table, row, name) for row in table.rows)
    numbers = [row.cells.get("epoch") for row in table.rows]
    epochs = tuple(float(n) for n in numbers if is_number(n))
    whole = epochs if len(epochs) == len(losses) else None
    return LossCurve(losses, rates, str(table.source), name, whole)


def _refuse_other_order(table: Table) -> None:
    """Refuse a log per step, or newest first, that would pass for one row an epoch without anybody noticing."""
    last = -math.inf
    for row in table.rows:
        epoch = row.cells.get("epoch")
        if not is_number(epoch):
            continue
        if epoch <= last:
            what = "occurs again" if epoch == last else f"follows {last}"
            raise ValueError(
                f"{table.source}, {row.place}: epoch {epoch} {what}, so rows are no "
                "epochs in their order: pass epoch_column='epoch' (--epoch-column epoch) to average "
                "each epoch's rows"
            )
        last = epoch


def _mean_per_epoch(table: Table, name: str, epoch_column: str, lr_column: str | None) -> LossCurve:
    losses: dict[int, list[float]] = {}
    rates: dict[int, float] = {}
    skipped = 0
    for row in table.rows:
        skipped += name not in row.cells
        if name in row.cells:
            epoch = _epoch(table, row, epoch_column)
            losses.setdefault(epoch, []).append(read_number(table, row, name))
        # Loggers may write the rate on a row of its own.
        if lr_column is not None and lr_column in row.cells:
            rates[_epoch(table, row, epoch_column)] = read_number(table, row, lr_column)
    epochs = sorted(losses)
    _refuse_missing_epochs(table, epochs)
    # Not given in the paper: how steps make an epoch's loss. Up to a smaller last batch, the mean
    # of the rows is the mean over samples.
    means = tuple(_mean(losses[epoch]) for epoch in epochs)
    if lr_column is not None and (lacking := [e for e in epochs if e not in rates]):
        raise ValueError(f"{table.source}: no {lr_column!r} in epoch {lacking[0]}")
    used = None if lr_column is None else tuple(rates[e] for e in epochs)
    own = tuple(map(float, epochs))
    return LossCurve(means, used, str(table.source), name, own, skipped)


def _mean(values: list[float]) -> float:
    try:
        return math.fsum(values) / len(values)
    except OverflowError:  # a diverged run near the largest float
        return math.fsum(value / len(values) for value in values)


def _refuse_missing_epochs(table: Table, epochs: list[int]) -> None:
    missing = epochs[-1] - epochs[0] + 1 - len(epochs)
    if not missing:
        return
    gaps = [
        str(low + 1) if high == low + 2 else f"{low + 1}…{high - 1}"
        for low, high in pairwise(epochs)
        if high > low + 1
    ]
    more = " and more" if len(gaps) > 5 else ""
    raise ValueError(
        f"{table.source}: {missing} of the epochs {epochs[0]}…{epochs[-1]} have no loss: "
        f"{', '.join(gaps[:5])}{more}; every epoch needs one"
    )


def _epoch(table: Table, row: Row, name: str) -> int:
    number = read_number(table, row, name)
    if not number.is_integer():
        raise ValueError(
            f"{table.source}, {row.place}: {name!r} must be a whole number; got {number}"
        )
    return int(number)
