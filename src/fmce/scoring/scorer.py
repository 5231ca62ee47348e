"""`MaturityScorer`: how mature a module is, on runs that it never saw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from fmce.convergence.banded import Array
from fmce.scoring.free_statistics import FREE_STATISTICS
from fmce.scoring.history import NUM_PHASES, ModuleHistory
from fmce.scoring.intervals import FEWEST_SCORES, Offsets, fit_offsets, widest
from fmce.scoring.link import PROGRESS, fit_link, linked, middles_of
from fmce.scoring.monotone import MonotoneTable, answers_of, combine, fit_table, smoothed_along
from fmce.scoring.outlook import Outlook, fit_outlook
from fmce.scoring.scorer_file import read_scorer, write_scorer

Form = Literal["within_run", "snapshot"]
Labels = Literal["class", "free"]

FORMS: tuple[Form, ...] = ("within_run", "snapshot")
# Each of these is fitted jointly, and the mean of their answers counts: it is nearer than one fit to any of them, and
# than one to all.
JOINT_FITS = (
    ("probe_margin", "probe_loss", "mean_margin", "fisher", "cosine_own"),
    ("probe_margin", "probe_loss", "mean_margin", "cosine_own", "probe_error"),
    ("probe_margin", "probe_loss", "mean_margin", "nc1_projected", "residual_90"),
)
# Chosen by leaving out runs, widths, recipes, data sets and architectures of those fitted on (experiments/transfer.py):
# those within a run for their error, those of a snapshot for the order of the worst run.
STATISTICS: Mapping[str, tuple[str, ...]] = {
    "within_run/class": tuple(dict.fromkeys(name for fit in JOINT_FITS for name in fit)),
    "snapshot/class": (
        *("probe_margin", "probe_loss", "probe_mse", "fisher", "cosine_own", "nc1"),
        *("nc1_projected", "residual_90", "mean_margin"),
    ),
    # Modules before the last map have separate tables, fitted on all modules: a joint fit puts some in no order.
    "within_run/class earlier": ("probe_margin", "probe_loss", "fisher", "cosine_own"),
    "within_run/free": FREE_STATISTICS,
    "snapshot/free": FREE_STATISTICS,
}
# Without labels a joint fit is nearer by a third and orders some runs backwards; separate tables never do.
_JOINED = "within_run/class"
_EARLIER = " earlier"
# What a run may have that no run of the training card has, from the mildest to the hardest.
NOVELTIES = ("run", "width", "recipe", "data", "architecture")
EARLIER = "earlier module"
"""A module before the last map, whose statistics move otherwise."""
_LABELS: tuple[Labels, ...] = ("class", "free")
# A span below it is noise.
_SMALLEST_SPAN = 1e-3
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
                than "last" have intervals of their own, and add to the tables of such modules alone.
            statistics: Which statistics to use, by "within_run/class" and so on. Those of "within_run/class" are
                fitted in the groups of `JOINT_FITS`; if one of them is in no group, all together.
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
            if not usable or (key.endswith(_EARLIER) and not earlier):
                continue
            ends, others = ([_Known.of(h, key, usable, True) for h in hs] for hs in (last, earlier))
            own = key.endswith(_EARLIER)
            pool, asked = (ends + others, others) if own else (ends, ends)
            tables[key] = _fit_tables(pool, usable, key)
            offsets[key] = {
                novelty: fit_offsets(*_unseen(pool, asked, usable, key, novelty))
                for novelty in NOVELTIES
                if len({_value(h, novelty) for h in last}) > 1
            }
            if others and not own:
                found = _unseen(pool, others, usable, key, "run")
                offsets[key][EARLIER] = fit_offsets(*found)
        if not tables:
            raise ValueError(f"no history has a statistic of {', '.join(statistics)}")
        made_of = {n: sorted({_value(h, n) for h in histories}) for n in NOVELTIES}
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
        known = _Known.of(history, key, _names_of(self.tables[key], key))
        return _answer(known, self.tables[key], key)[0]

    def _key(self, history: ModuleHistory, form: Form, labels: Labels) -> str:
        """Return which tables answer for a module."""
        key = f"{form}/{labels}"
        before = f"{key}{_EARLIER}"
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
        names = _names_of(self.tables[key], key)
        known_of = _Known.of(history, key, names)
        if not known_of.inputs:
            raise ValueError(
                f"{history.run}, {history.module}: expected statistics {', '.join(names)}, got "
                f"{', '.join(history.values) or 'none'}"
            )
        values, spread = _answer(known_of, self.tables[key], key)
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
        """Return the offsets for the hardest that is new; the widest of all where that one was never left out.

        The widest of all that are new would tend to cover too much, since it is partly widest by chance.
        """
        known = {n: o for n, o in self.offsets[key].items() if n != EARLIER or n in novel}
        hardest = next((n for n in reversed(NOVELTIES) if n in novel), NOVELTIES[0])
        if hardest not in known:
            return widest(known)
        return widest({name: known[name] for name in (hardest, EARLIER) if name in known})

    def novelties(self, history: ModuleHistory) -> tuple[str, ...]:
        """Return what the run has that no run of the training card has; what it does not name counts as new."""
        novel = [n for n in NOVELTIES if _value(history, n) not in self.card.get(n, ())]
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


def inputs_of(history: ModuleHistory, form: Form, names: Sequence[str]) -> dict[str, Array]:
    """Return what the tables are asked for.

    Of a snapshot, the distance from the twin. Within a run, the place between twin and end in the middle of each epoch:
    an epoch's loss is its mean, and the twin stands for the network before the first one.
    """
    found = {}
    for name in names:
        if name not in history.values:
            continue
        twin = history.twin.get(name, np.nan)
        moved = history.values[name] - twin
        if form == "within_run":
            moved = np.interp(history.epochs - 0.5, [0, *history.epochs], [0.0, *moved])
            span = moved[-1]
            usable = np.isfinite(span) and abs(span) > _SMALLEST_SPAN
            moved = np.clip(moved / span, -1, 2) if usable else np.full_like(moved, np.nan)
        found[name] = moved
    return found


class _Known(NamedTuple):
    """A history, what the tables are asked for, and its true phases where they are needed."""

    history: ModuleHistory
    inputs: dict[str, Array]
    truth: Array

    @classmethod
    def of(
        cls, history: ModuleHistory, key: str, names: Sequence[str], complete: bool = False
    ) -> "_Known":
        truth = history.phases() if complete else np.zeros(0)
        if key == _JOINED:
            return cls(history, middles_of(history, names), truth)
        form: Form = "within_run" if key.startswith("within_run") else "snapshot"
        return cls(history, inputs_of(history, form, names), truth)


def _answer(known: _Known, tables: Mapping[str, MonotoneTable], key: str) -> tuple[Array, Array]:
    """Return scores (E,) and the spread of the answers (E,)."""
    if key == _JOINED:
        fits: dict[str, dict[str, MonotoneTable]] = {}
        for name, table in tables.items():
            number, statistic = _split(name)
            fits.setdefault(number, {})[statistic] = table
        asked = [fit for fit in fits.values() if fit.keys() & known.inputs.keys()]
        found = [linked(fit, known.inputs) for fit in asked]
        values, spread = (combine(one)[0] for one in zip(*found, strict=True))
    else:
        values, spread = combine(answers_of(tables, known.inputs))
    if key.startswith("within_run"):
        values = np.clip(smoothed_along(known.history.epochs, values), 0, NUM_PHASES)
    return values, spread


def _split(name: str) -> tuple[str, str]:
    """Return the number of a joint fit and the statistic of one of its tables; of a scorer with one fit no number."""
    number, slash, statistic = name.partition("/")
    return (number, statistic) if slash else ("", name)


def _names_of(tables: Mapping[str, MonotoneTable], key: str) -> list[str]:
    """Return the statistics that tables are about."""
    names = dict.fromkeys(_split(name)[1] if key == _JOINED else name for name in tables)
    return [name for name in names if name != PROGRESS]


def _moves(pool: Sequence[_Known], name: str) -> bool:
    """Return whether a statistic differs anywhere, among the histories where it is known throughout."""
    values = [one.inputs[name] for one in pool if name in one.inputs]
    known = [value for value in values if np.isfinite(value).all()]
    return bool(known) and bool(np.ptp(np.concatenate(known)) > 0)


def _fit_tables(pool: Sequence[_Known], names: Sequence[str], key: str) -> dict[str, MonotoneTable]:
    """Fit a table per statistic; each history has the same weight."""
    if key == _JOINED:
        moving = [name for name in names if _moves(pool, name)] or list(names)
        fits = [[name for name in fit if name in moving] for fit in JOINT_FITS]
        if not set(names) <= set(STATISTICS[_JOINED]):
            fits = [moving]
        inputs = [(one.inputs, one.truth) for one in pool]
        return {
            f"{number}/{name}": table
            for number, fit in enumerate(fits)
            if fit and fit not in fits[:number]
            for name, table in fit_link(inputs, fit).items()
        }
    truth = np.concatenate([one.truth for one in pool])
    weights = np.concatenate([np.full(len(one.truth), 1 / len(one.truth)) for one in pool])
    tables = {}
    for name in names:
        parts = [one.inputs.get(name, np.full(len(one.truth), np.nan)) for one in pool]
        x = np.concatenate(parts)
        if len(np.unique(x[np.isfinite(x)])) > 1:
            tables[name] = fit_table(x, truth, weights)
    return tables


def _unseen(
    pool: Sequence[_Known],
    asked: Sequence[_Known],
    names: Sequence[str],
    key: str,
    novelty: str,
) -> tuple[Array, Array, int]:
    """Return scores of runs left out together by what they have in common, their true phases, and how many groups.

    A run counts where it is new in nothing harder: what is fitted on still has its data and architecture, and where a
    seed is asked about, its width and recipe. Where that leaves too few, all count.
    """
    harder = NOVELTIES[1:] if novelty == "run" else ("data", "architecture")
    found: dict[bool, list[tuple[str, Array, Array]]] = {True: [], False: []}
    for left_out in sorted({_value(one.history, novelty) for one in asked}):
        rest = [p for p in pool if _value(p.history, novelty) != left_out]
        tables = _fit_tables(rest, names, key)
        for one in asked:
            if _value(one.history, novelty) == left_out:
                scores = _answer(one, tables, key)[0]
                new = [
                    n
                    for n in harder
                    if n != novelty
                    and _value(one.history, n) not in {_value(p.history, n) for p in rest}
                ]
                found[not new].append((left_out, scores, one.truth))
    chosen = found[True] if len({g for g, _, _ in found[True]}) > 1 else found[True] + found[False]
    if sum(len(t) for _, _, t in chosen) < FEWEST_SCORES:
        chosen = found[True] + found[False]
    groups, scores_of, truths = zip(*chosen, strict=True)
    return np.concatenate(scores_of), np.concatenate(truths), len(set(groups))


def _value(history: ModuleHistory, novelty: str) -> str:
    return history.run if novelty == "run" else history.about.get(novelty, "")


def _plain(values: Array) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]
