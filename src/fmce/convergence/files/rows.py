"""Which rows of a log hold, and when: kinds of rows, epochs and steps, resumed and repeated trainings."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fmce.convergence.files.tables import Table, as_number, counted
from fmce.convergence.files.writers import (
    EPOCH_NAME,
    HELD_OUT,
    STEP_NAME,
    any_match,
    is_kind,
    spelled,
    words_of,
)

if TYPE_CHECKING:
    import pandas as pd

_TRAINING = re.compile(r"(.*[/_. -])?(tr|trn|train|training|fit)([/_. -].*)?|loss", re.IGNORECASE)
# Epochs have equally many rows, if at least this share of them does; one with more was written twice.
_REGULAR = 0.6


def text_of(cell: object) -> str:
    """Return a cell as text, whole numbers without a fraction; a missing one is empty."""
    if cell is None or cell != cell:
        return ""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()


def where(table: Table, conditions: Sequence[str]) -> Table:
    """Return the table with the rows that fit: one condition of each column named.

    Args:
        table: The log.
        conditions: "COLUMN=VALUE" texts; numbers are compared as numbers.

    Raises:
        ValueError: If a condition cannot be read, or no row fits.
    """
    import pandas as pd

    fits: dict[str, pd.Series[bool]] = {}
    for condition in conditions:
        if "=" not in condition:
            raise ValueError(f"--where needs COLUMN=VALUE; got {condition!r}")
        ends = (found.start() for found in re.finditer("=", condition))
        names = [name for end in ends if (name := condition[:end]) in table.columns]
        name = names[0] if names else table.check(condition.partition("=")[0])
        value = condition[len(name) + 1 :]
        texts = table.frame[name].map(text_of)
        fit = (texts == value) | (table.numbers[name] == as_number(value))
        if not fit.any():
            found = ", ".join(sorted(set(texts[table.frame[name].notna()]))[:10])
            raise ValueError(f"{table.source}: no row has {name} = {value}; it has: {found}")
        fits[name] = fits.get(name, False) | fit
    keep = pd.DataFrame(fits).all(axis="columns")
    if not keep.any():
        raise ValueError(f"{table.source}: no row fits {' and '.join(conditions)} together")
    note = f"rows where {' and '.join(conditions)}: {keep.sum()} of {len(keep)}"
    frame = table.frame[keep].dropna(axis="columns", how="all")
    part = None if table.part is None else table.part[keep]
    return replace(table, frame=frame, part=part, notes=[*table.notes, note])


class LogRows:
    """The rows of a log with the moment of each, seen from those that hold the loss.

    Args:
        table: The log.
        losses: Where they stand, and their values.
        named: Columns of the losses and others that mean something else than epochs, steps or kinds.
        epoch_name: Column of the epochs that the user named.
        steps_per_epoch: Makes epochs of steps.

    Raises:
        ValueError: If rows of several trainings or kinds cannot be told apart, or steps are missing.
    """

    def __init__(
        self,
        table: Table,
        losses: "pd.Series[float]",
        named: Sequence[str],
        epoch_name: str | None,
        steps_per_epoch: int | None,
    ) -> None:
        self.table, self.named, self.notes = table, named, list(table.notes)
        self.step_name = self._counter(STEP_NAME, losses)
        self.epoch_name = epoch_name or self._counter(EPOCH_NAME, losses)
        self.losses = self._one_kind(losses)
        self.moments = self._moments(epoch_name, steps_per_epoch)

    def _counter(self, pattern: str, losses: "pd.Series[float]") -> str | None:
        """Return the column that counts epochs or steps, in any spelling; one beside the losses is preferred."""
        table = self.table
        found = [c for c in table.columns if re.fullmatch(pattern, spelled(c))]
        found = [c for c in found if c not in self.named and table.is_numeric(c)]
        # A global counter first, then the plain word, then the column with most values beside losses.
        beside = table.frame.loc[losses.index, found].count()
        found.sort(key=lambda c: ("global" not in words_of(c), len(words_of(c)) > 1, -beside[c]))
        return found[0] if found else None

    def _one_kind(self, losses: "pd.Series[float]") -> "pd.Series[float]":
        """Keep the training's rows where a column tells kinds or trainings apart that run side by side."""
        counters = [n for n in (self.epoch_name, self.step_name) if n is not None]
        for name in self.table.columns:
            may_tell = is_kind(name) or not self.table.is_numeric(name, losses.index)
            if name in (*self.named, *counters) or not may_tell:
                continue
            kinds = self.table.frame[name][losses.index].map(text_of)
            values = list(kinds.unique())
            training = [value for value in values if _is_training(name, value)]
            several = 1 < len(values) <= max(2, len(kinds) // 2)
            named = bool(training) or is_kind(name)
            if not several or not self._side_by_side(kinds, counters, named=named):
                continue
            training = [value for value in training if "loss" in words_of(value)] or training
            if len(training) != 1:
                raise ValueError(
                    f"{self.table.source}: its rows are of {len(values)} kinds, which must not be mixed: {name} is "
                    f"{', '.join(value or 'empty' for value in values[:8])}; choose with --where {name}=VALUE"
                )
            chosen = kinds == training[0]
            self.notes.append(
                f"rows where {name} is {training[0]}: {chosen.sum()}; the other {(~chosen).sum()} are passed over"
            )
            losses = losses[chosen]
        return losses

    def _side_by_side(
        self, kinds: "pd.Series[str]", counters: Sequence[str], *, named: bool
    ) -> bool:
        """Return whether rows of several kinds share epochs, or alternate, rather than follow each other.

        A column that is not named like one of kinds, such as is_best, may change within an epoch.
        """
        count, blocks = kinds.nunique(), int((kinds != kinds.shift()).sum())
        if not counters:
            return blocks > count and named
        moments = self.table.numbers.loc[kinds.index, list(counters)]
        shared = [
            int((kinds.groupby([moments[c] for c in some]).nunique() > 1).sum())
            for some in (counters, counters[:1])
        ]
        # An epoch may begin as one kind and end as the next.
        follow = 0 if len(counters) > 1 or blocks > count else count - 1
        return shared[0] > follow or (named and shared[1] > count - 1)

    def _moments(self, epoch_name: str | None, steps_per_epoch: int | None) -> "pd.DataFrame":
        """Return epoch and step of every row of the table; NaN where there is none."""
        import pandas as pd

        frame = self.table.frame
        nothing = pd.Series(math.nan, index=frame.index)
        epochs, steps = (
            nothing if name is None else self.table.finite(name).reindex(frame.index)
            for name in (self.epoch_name, self.step_name)
        )
        if steps_per_epoch is not None and epoch_name is None:
            if self.step_name is None:
                raise ValueError(
                    f"{self.table.source}: --steps-per-epoch needs a column of steps; it has: {self.table.listing()}"
                )
            own = steps[self.losses.index]
            stretch = (own.diff() < 0).cumsum().astype(float).reindex(frame.index).bfill().ffill()
            epochs = stretch if len(self._restarts(own)) > 1 else steps / steps_per_epoch
            self.epoch_name = f"{self.step_name} / {steps_per_epoch}"
        elif self.epoch_name is not None and epochs.isna().any():
            epochs = _filled(epochs, steps)
        return pd.DataFrame({"epoch": epochs, "step": steps})

    def _restarts(self, steps: "pd.Series[float]") -> list[Any]:
        """Return the rows at which steps begin anew inside one file."""
        again = (steps.diff() < 0) & (steps <= steps.iloc[0])
        if self.table.part is not None:
            part = self.table.part[steps.index]
            again = again & (part == part.shift())
        return list(steps.index[again])

    def latest(self, values: "pd.Series[float]", what: str) -> "pd.DataFrame":
        """Return value, epoch and step of the rows that hold, in order: after a resume, what was written later.

        Args:
            values: A column's numbers where it has some.
            what: Its name.

        Raises:
            ValueError: If steps begin anew at every epoch, or a row has no epoch.
        """
        rows = self.moments.loc[values.index].assign(value=values)
        if self.epoch_name is not None and rows["epoch"].isna().any():
            raise ValueError(
                f"{self.table.place(rows.index[rows['epoch'].isna()][0])}: {self.epoch_name!r} has no value; fill it "
                "in, or name another column with --epoch-column"
            )
        if self.epoch_name is None and rows["step"].isna().any() and rows["step"].notna().any():
            raise ValueError(
                f"{self.table.place(rows.index[rows['step'].isna()][0])}: {self.step_name!r} has no value where other "
                "rows have one; fill it in, or leave the row out"
            )
        # Ranks order the rows by epoch, then step.
        moments = [rows["epoch"].fillna(-1), rows["step"].fillna(-1)]
        ranks = rows.groupby(moments).ngroup()
        falls = ranks[ranks.diff() < 0]
        if falls.empty:
            return self._without_doubles(rows, what)
        if not (ranks.diff() > 0).any():
            self.notes.append(f"{what}: rows stand newest first and are read in reverse")
            return rows[::-1]
        if rows["step"].isna().all() and (rows["epoch"].sort_values().diff().iloc[1:] == 1).all():
            self.notes.append(f"{what}: rows are not in the order of epochs and are sorted")
            return rows.sort_values("epoch")
        restarts = [] if self.epoch_name else self._restarts(rows["step"])
        if len(restarts) > 1:
            length = round(len(rows) / (len(restarts) + 1))
            raise ValueError(
                f"{self.table.place(restarts[0])}: {self.step_name} begins anew {len(restarts)} times, as if each "
                f"stretch were an epoch; if so, average each with --steps-per-epoch {length}, or log a step that "
                "rises over the complete training"
            )
        # A row holds unless one to which the log went back later is of its moment or an earlier one.
        back_to = falls.reindex(rows.index)[::-1].cummin().ffill()[::-1].shift(-1)
        kept = rows[~(back_to <= ranks)]
        anew = falls[falls <= ranks.iloc[0]]
        place = f"{self.table.unit} {(falls if anew.empty else anew).index[0]}"
        how = (
            f"go back at {place}, where it was resumed"
            if anew.empty
            else f"begin anew at {place}, which is another training"
        )
        self.notes.append(
            f"{what}: {'epochs' if self.epoch_name else 'steps'} {how}; what was written later holds, "
            f"and {counted(len(rows) - len(kept), 'earlier row')} left out"
        )
        return self._without_doubles(kept, what)

    def _without_doubles(self, rows: "pd.DataFrame", what: str) -> "pd.DataFrame":
        """Drop what was written anew without going back: of a moment with more rows than the others, the first ones."""
        if self.epoch_name is None and rows["step"].isna().all():
            return rows
        by_step = rows["step"].notna().all()
        moments = [rows["epoch"].fillna(-1), *([rows["step"]] if by_step else [])]
        grouped = rows.groupby(moments)
        counts = grouped.size()
        usual = int(counts.mode().iloc[0])
        extra = grouped.cumcount(ascending=False) >= usual
        regular = by_step or (counts == usual).mean() >= _REGULAR
        if len(counts) == 1 or not regular or not extra.any():
            return rows
        again = counted(int((counts > usual).sum()), "step" if by_step else "epoch")
        self.notes.append(
            f"{what}: {again} written again; the later rows hold, and {counted(int(extra.sum()), 'earlier row')} "
            "left out"
        )
        return rows[~extra]


def _is_training(name: str, value: str) -> bool:
    """Return whether a kind of rows is the training's, such as split = train or is_train = True."""
    if value in ("True", "False"):
        kind = "train|training" if value == "True" else HELD_OUT
        return bool(any_match(kind, words_of(name)))
    return _TRAINING.fullmatch(value) is not None


def _filled(epochs: "pd.Series[float]", steps: "pd.Series[float]") -> "pd.Series[float]":
    """Give rows without an epoch that of the next row by steps, else of the next row; the last rows the last epoch."""
    known = epochs.notna() & steps.notna()
    if not known.any():
        return epochs.bfill().ffill()
    by_step = epochs[known].groupby(steps[known]).max()
    after = by_step.index.searchsorted(steps.fillna(-math.inf)).clip(max=len(by_step) - 1)
    found = epochs.copy()
    lacking = epochs.isna() & steps.notna()
    found[lacking] = by_step.to_numpy()[after][lacking.to_numpy()]
    return found
