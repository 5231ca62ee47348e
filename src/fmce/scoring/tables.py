"""Tables from a module's statistics to its phase: what they are asked for, how they are fitted, what they answer."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from fmce.convergence.banded import Array
from fmce.scoring.free_statistics import FREE_STATISTICS
from fmce.scoring.history import NUM_PHASES, ModuleHistory
from fmce.scoring.intervals import FEWEST_SCORES
from fmce.scoring.link import PROGRESS, fit_link, linked, middles_of
from fmce.scoring.monotone import MonotoneTable, answers_of, combine, fit_table, smoothed_along

Form = Literal["within_run", "snapshot"]

# Each group is fitted jointly, and the score is the mean over the groups: on runs left out it is nearer to the phases
# than any of the groups, or all statistics in one fit.
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
    # Modules before the last map have separate tables, fitted on all modules: a joint fit loses the order of some.
    "within_run/class earlier": ("probe_margin", "probe_loss", "fisher", "cosine_own"),
    "within_run/free": FREE_STATISTICS,
    "snapshot/free": FREE_STATISTICS,
}
# Without labels a joint fit is nearer by a third and orders some runs backwards; separate tables never do.
_JOINED = "within_run/class"
EARLIER_KEY = " earlier"
# What a run may have that no run of the training card has, from the mildest to the hardest.
NOVELTIES = ("run", "width", "recipe", "data", "architecture")
# A span below it is noise.
_SMALLEST_SPAN = 1e-3


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


class Known(NamedTuple):
    """A history, what the tables are asked for, and its true phases where they are needed.

    Attributes:
        history: One module of one run.
        inputs: Statistic → (E,) or, for a joint fit, (E+1,).
        truth: (E,) phases; empty where they are not needed.
    """

    history: ModuleHistory
    inputs: dict[str, Array]
    truth: Array

    @classmethod
    def of(
        cls, history: ModuleHistory, key: str, names: Sequence[str], complete: bool = False
    ) -> "Known":
        """Return what tables of a key are asked for; of a complete run also the truth."""
        truth = history.phases() if complete else np.zeros(0)
        if key == _JOINED:
            return cls(history, middles_of(history, names), truth)
        form: Form = "within_run" if key.startswith("within_run") else "snapshot"
        return cls(history, inputs_of(history, form, names), truth)


def phases_by(known: Known, tables: Mapping[str, MonotoneTable], key: str) -> tuple[Array, Array]:
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
    """Split a table's name into the number of its joint fit and its statistic; scorers with one fit have no numbers."""
    number, slash, statistic = name.partition("/")
    return (number, statistic) if slash else ("", name)


def names_of(tables: Mapping[str, MonotoneTable], key: str) -> list[str]:
    """Return the statistics that tables are about."""
    names = dict.fromkeys(_split(name)[1] if key == _JOINED else name for name in tables)
    return [name for name in names if name != PROGRESS]


def _moves(pool: Sequence[Known], name: str) -> bool:
    """Return whether a statistic differs anywhere, among the histories where it is known throughout."""
    values = [one.inputs[name] for one in pool if name in one.inputs]
    known = [value for value in values if np.isfinite(value).all()]
    return bool(known) and bool(np.ptp(np.concatenate(known)) > 0)


def fit_tables(pool: Sequence[Known], names: Sequence[str], key: str) -> dict[str, MonotoneTable]:
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


def unseen(
    pool: Sequence[Known],
    asked: Sequence[Known],
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
    for left_out in sorted({value_of(one.history, novelty) for one in asked}):
        rest = [p for p in pool if value_of(p.history, novelty) != left_out]
        tables = fit_tables(rest, names, key)
        for one in asked:
            if value_of(one.history, novelty) == left_out:
                scores = phases_by(one, tables, key)[0]
                new = [
                    n
                    for n in harder
                    if n != novelty
                    and value_of(one.history, n) not in {value_of(p.history, n) for p in rest}
                ]
                found[not new].append((left_out, scores, one.truth))
    chosen = found[True] if len({g for g, _, _ in found[True]}) > 1 else found[True] + found[False]
    if sum(len(t) for _, _, t in chosen) < FEWEST_SCORES:
        chosen = found[True] + found[False]
    groups, scores_of, truths = zip(*chosen, strict=True)
    return np.concatenate(scores_of), np.concatenate(truths), len(set(groups))


def value_of(history: ModuleHistory, novelty: str) -> str:
    """Return what a run is called, or its width, recipe, data or architecture; "" if it does not say."""
    return history.run if novelty == "run" else history.about.get(novelty, "")
