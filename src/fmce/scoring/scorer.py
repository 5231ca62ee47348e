"""`MaturityScorer`: how mature a module is, on runs that it never saw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from fmce.convergence.banded import Array
from fmce.scoring.history import NUM_PHASES, ModuleHistory
from fmce.scoring.intervals import Offsets, fit_offsets, widest
from fmce.scoring.monotone import MonotoneTable
from fmce.scoring.outlook import Outlook, fit_outlook
from fmce.scoring.scorer_file import read_scorer, write_scorer
from fmce.scoring.tables import (
    EARLIER_KEY,
    NOVELTIES,
    STATISTICS,
    Form,
    Known,
    fit_tables,
    names_of,
    phases_by,
    unseen,
    value_of,
)

Labels = Literal["class", "free"]

FORMS: tuple[Form, ...] = ("within_run", "snapshot")
EARLIER = "earlier module"
"""A module before the last map, whose statistics move otherwise."""
_LABELS: tuple[Labels, ...] = ("class", "free")
_USE = {
    "within_run": "compares checkpoints and modules of this run: 0 at its beginning, 10 at its own end; "
    "it does not compare this run with others",
    "snapshot": "orders checkpoints of one training task; the number itself holds only for set-ups like those of "
    "the training card",
}


@dataclass(frozen=True)
class MaturityScores:
    """The scores of one module at each measured epoch, as phases from 0 to 10.

    Args:
        module: Its name.
        form: Which score.
        labels: "class" where class labels were used, "free" without any.
        epochs: (E,).
        values: (E,) NaN where it is undefined.
        low: (E,) lower end of the 90 % interval.
        high: (E,) upper end.
        spread: (E,) how far apart the statistics' answers lie: from their first to their third quartile, of several
            joint fits the mean.
        novel: What the run has that no run of the training card has, of "run", "width", "recipe", "data" and
            "architecture", and whether it is an "earlier module" than the last map's or may be; it decides the
            interval.
        use: One sentence on what the score may be used for.
        extrapolated: Whether the training was not over, so that its end is a guess, which the interval includes.
    """

    module: str
    form: Form
    labels: Labels
    epochs: NDArray[np.int64]
    values: Array
    low: Array
    high: Array
    spread: Array
    novel: tuple[str, ...]
    use: str
    extrapolated: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as JSON values, NaN as null."""
        numbers = {n: _plain(getattr(self, n)) for n in ("values", "low", "high", "spread")}
        return {
            "module": self.module,
            "form": self.form,
            "labels": self.labels,
            "epochs": self.epochs.tolist(),
            **numbers,
            "novel": list(self.novel),
            "use": self.use,
            "extrapolated": self.extrapolated,
        }


@dataclass(frozen=True)
class MaturityScorer:
    """Maturity scores that hold on runs never seen, each with a 90 % interval.

    `within_run` is 0 at the beginning of the run and 10 at its own last measured epoch; the module's re-initialised
    twin stands for the network before the first epoch. `snapshot`
    judges one checkpoint by itself: it orders checkpoints, and its number is a phase only in a set-up like those it
    was fitted on, since a phase is a share of a run's own final progress.

    One monotone table per statistic answers; the score is the mean of the answers. Of last modules with labels, the
    tables are fitted together instead (`fmce.scoring.link`), three times with other statistics. `within_run` belongs to
    the middle of an epoch, as its mean training loss does, and is averaged over neighbouring epochs where these were
    measured.

    Args:
        tables: "within_run/class" and so on → statistic → its table.
        offsets: The same keys → novelty → offsets of the interval.
        outlooks: "class" or "free" → how far a training that is not over has come.
        card: What it was fitted on, as JSON values.
    """

    tables: Mapping[str, Mapping[str, MonotoneTable]]
    offsets: Mapping[str, Mapping[str, Offsets]]
    outlooks: Mapping[str, Outlook] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        histories: Sequence[ModuleHistory],
        *,
        statistics: Mapping[str, Sequence[str]] = STATISTICS,
        card: Mapping[str, Any] | None = None,
    ) -> Self:
        """Fit tables and intervals on the modules of several runs.

        Args:
            histories: With losses, of at least three runs. `about` names "data", "architecture", "width" and
                "recipe" where the interval on others of these is wanted. Modules whose `about` has a "place" other
                than "last" have separate intervals; only the tables for such modules are fitted on them too.
            statistics: Which statistics to use, by "within_run/class" and so on. Those of "within_run/class" are
                fitted in the groups of `fmce.scoring.tables.JOINT_FITS`; if one of them is in no group, all together.
            card: Further fields of the training card.

        Raises:
            ValueError: If there are fewer than three runs, or a run has no phases.

        >>> rng = np.random.default_rng(0)
        >>> def history(run):
        ...     losses = np.exp(-np.arange(1, 31) / 10)
        ...     noisy = np.log(losses) + rng.normal(0, 0.05, 30)
        ...     return ModuleHistory(run, "head", np.arange(1, 31), {"probe_loss": noisy}, {"probe_loss": 0.0}, losses)
        >>> scorer = MaturityScorer.fit([history(f"run {n}") for n in range(4)])
        >>> score = scorer.score(history("new"))
        >>> bool(score.values[0] < 1 < 9 < score.values[-1]), score.novel
        (True, ('run',))
        """
        runs = sorted({h.run for h in histories})
        if len(runs) < 3:
            raise ValueError(f"a scorer needs at least 3 runs, got {len(runs)}: {', '.join(runs)}")
        last = [h for h in histories if h.about.get("place", "last") == "last"]
        earlier = [h for h in histories if h.about.get("place", "last") != "last"]
        tables: dict[str, dict[str, MonotoneTable]] = {}
        offsets: dict[str, dict[str, Offsets]] = {}
        for key, names in statistics.items():
            usable = [n for n in names if any(n in h.values for h in histories)]
            if not usable or (key.endswith(EARLIER_KEY) and not earlier):
                continue
            ends, others = ([Known.of(h, key, usable, True) for h in hs] for hs in (last, earlier))
            own = key.endswith(EARLIER_KEY)
            pool, asked = (ends + others, others) if own else (ends, ends)
            tables[key] = fit_tables(pool, usable, key)
            offsets[key] = {
                novelty: fit_offsets(*unseen(pool, asked, usable, key, novelty))
                for novelty in NOVELTIES
                if len({value_of(h, novelty) for h in last}) > 1
            }
            if others and not own:
                found = unseen(pool, others, usable, key, "run")
                offsets[key][EARLIER] = fit_offsets(*found)
        if not tables:
            raise ValueError(f"no history has a statistic of {', '.join(statistics)}")
        made_of = {n: sorted({value_of(h, n) for h in histories}) for n in NOVELTIES}
        fitted = cls(tables, offsets, {}, {**made_of, "modules": len(histories), **(card or {})})
        outlooks: dict[str, Outlook] = {}
        for labels in _LABELS:
            if f"within_run/{labels}" in tables:
                found_outlook = fit_outlook(last, partial(fitted.progress, labels=labels))
                if found_outlook is not None:
                    outlooks[labels] = found_outlook
        return replace(fitted, outlooks=outlooks)

    def progress(self, history: ModuleHistory, labels: Labels = "class") -> Array:
        """Return a module's progress (E,) within what is known of the run, 10 at its newest epoch."""
        key = self._key(history, "within_run", labels)
        known = Known.of(history, key, names_of(self.tables[key], key))
        return phases_by(known, self.tables[key], key)[0]

    def _key(self, history: ModuleHistory, form: Form, labels: Labels) -> str:
        """Return which tables answer for a module."""
        key = f"{form}/{labels}"
        before = f"{key}{EARLIER_KEY}"
        return before if before in self.tables and history.about.get("place") != "last" else key

    def score(
        self,
        history: ModuleHistory,
        form: Form = "within_run",
        labels: Labels = "class",
        *,
        finished: bool | None = None,
    ) -> MaturityScores:
        """Score one module of one run at each measured epoch.

        Args:
            history: Its statistics.
            form: "within_run" or "snapshot".
            labels: "class", or "free" for the statistics that need no labels.
            finished: Whether the training is over; None takes it as over unless more epochs are planned. Of one
                that is not, `within_run` is scaled by the share of the complete run that it has reached.

        Raises:
            ValueError: If the scorer has no such form, or the history none of its statistics.
        """
        key = f"{form}/{labels}"
        if key not in self.tables:
            raise ValueError(f"this scorer has no {key}; it has {', '.join(self.tables)}")
        key = self._key(history, form, labels)
        names = names_of(self.tables[key], key)
        known_of = Known.of(history, key, names)
        if not known_of.inputs:
            raise ValueError(
                f"{history.run}, {history.module}: expected statistics {', '.join(names)}, got "
                f"{', '.join(history.values) or 'none'}"
            )
        values, spread = phases_by(known_of, self.tables[key], key)
        novel = self.novelties(history)
        low, high = self._interval(key, novel).around(values)
        if finished is None:
            finished = history.planned is None or len(history.losses) >= history.planned
        extrapolated = form == "within_run" and not finished and labels in self.outlooks
        if extrapolated and np.isfinite(values[-1]) and len(history.losses):
            reached, least, most = self.outlooks[labels].reached(history, values)
            values = values * reached / NUM_PHASES
            low, high = low * least / NUM_PHASES, high * most / NUM_PHASES
        return MaturityScores(
            *(history.module, form, labels, history.epochs, values),
            low=np.clip(low, 0, NUM_PHASES),
            high=np.clip(high, 0, NUM_PHASES),
            spread=spread,
            novel=novel,
            use=_USE[form],
            extrapolated=extrapolated,
        )

    def _interval(self, key: str, novel: Sequence[str]) -> Offsets:
        """Return the offsets for the hardest new property; the widest of all if runs were never left out by that one.

        The widest over all new properties would tend to cover too much, since it is partly widest by chance.
        """
        known = {n: o for n, o in self.offsets[key].items() if n != EARLIER or n in novel}
        hardest = next((n for n in reversed(NOVELTIES) if n in novel), NOVELTIES[0])
        if hardest not in known:
            return widest(known)
        return widest({name: known[name] for name in (hardest, EARLIER) if name in known})

    def novelties(self, history: ModuleHistory) -> tuple[str, ...]:
        """Return what the run has that no run of the training card has; what it does not name counts as new."""
        novel = [n for n in NOVELTIES if value_of(history, n) not in self.card.get(n, ())]
        fitted = any(EARLIER in one for one in self.offsets.values())
        return (*novel, *([EARLIER] if fitted and history.about.get("place") != "last" else ()))

    def save(self, path: str | Path) -> None:
        """Write the scorer as JSON with its training card, atomically.

        Raises:
            OSError: If it cannot be written.
        """
        write_scorer(Path(path), self.tables, self.offsets, self.outlooks, self.card)

    @classmethod
    def load(cls, path: str | Path | None = None) -> Self:
        """Read a scorer; without a path, the one that comes with fmce.

        Raises:
            FileNotFoundError: If there is no file.
            ValueError: If it is damaged, or no scorer.
        """
        return cls(*read_scorer(SHIPPED if path is None else Path(path)))


SHIPPED = Path(__file__).parent / "scorer.json"


@cache
def shipped_scorer() -> MaturityScorer:
    """Return the scorer that comes with fmce."""
    return MaturityScorer.load()


def _plain(values: Array) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]
