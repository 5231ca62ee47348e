"""What maturity is good for: freezing, retraining one module, choosing a checkpoint."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from experiments.result_rows import Row, Table, percent, select, signed
from fmce.metrics.statistics import paired_comparison

FREEZING = {
    "full": "full schedule",
    "clock": "frozen by the clock",
    "score": "frozen by the score",
    "shortened": "schedule shortened to the clock's cost",
    "shortened as score": "schedule shortened to the score's cost",
    "time-linear": "frozen linearly in time, clock's cost",
    "depth order": "frozen by depth, another seed's epochs",
}
# What each arm that freezes is compared with at its own cost.
_SHORTER = {
    "clock": "shortened",
    "score": "shortened as score",
    "time-linear": "shortened",
    "depth order": "shortened",
}


def difference(first: Sequence[float], second: Sequence[float]) -> str:
    """Format a paired difference in percentage points with its 95 % interval, second minus first."""
    mean = signed(float(np.mean(np.subtract(second, first))))
    if len(first) < 2 or not np.ptp(np.subtract(second, first)):
        return mean
    found = paired_comparison(first, second)
    return f"{mean} ({signed(found.interval_low)} … {signed(found.interval_high)})"


def freezing_table(rows: Sequence[Row]) -> Table:
    """Return what each way to save came to, beside the full schedule and a shorter one of the same cost."""
    found, lines = select(rows, experiment="freezing"), []
    for data in dict.fromkeys(row["what"] for row in found):
        results = [row["result"]["arms"] for row in select(found, what=data)]
        scores = {arm: [one[arm]["test_accuracy"] for one in results] for arm in FREEZING}
        for arm, name in FREEZING.items():
            shorter = _SHORTER.get(arm)
            lines.append(
                [
                    f"{data}: {name}",
                    str(len(results)),
                    percent(float(np.mean([one[arm]["cost"] for one in results]))),
                    percent(float(np.mean(scores[arm]))),
                    "–" if arm == "full" else difference(scores["full"], scores[arm]),
                    "–" if shorter is None else difference(scores[shorter], scores[arm]),
                ]
            )
    header = ["data, arm", "seeds", "cost", "test accuracy", "− full, pp", "− shortened, pp"]
    return Table(header, lines)


Rule = Callable[[Mapping[str, Any], Sequence[str]], str]
RULES: Mapping[str, Rule] = {
    "score": lambda one, names: names[int(np.argmax(one["score"]))],
    # The head's own loss rises most whatever changed, so the rule above nearly always names it.
    "score, maps alone": lambda one, names: names[int(np.argmax(one["score"][:-1]))],
    "gradient": lambda one, names: names[int(np.argmax(one["gradient"]))],
    "first module": lambda _, names: names[0],
    "last module": lambda _, names: names[-1],
    "all modules": lambda *_: "all",
    "best module, in hindsight": lambda one, names: max(names, key=lambda n: one["retrained"][n]),
}


def _shifts(rows: Sequence[Row]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in select(rows, experiment="retraining"):
        for shift, one in row["result"]["shifts"].items():
            found.setdefault(shift, []).append(one)
    return found


def retraining_table(rows: Sequence[Row]) -> Table:
    """Return the accuracy after retraining the module that each rule names, by shift."""
    shifts, lines = _shifts(rows), []
    for shift, cases in [*shifts.items(), ("all shifts", list(chain(*shifts.values())))]:
        if not cases:
            continue
        names = [name for name in cases[0]["retrained"] if name != "all"]
        after = {
            rule: [one["retrained"][named(one, names)] for one in cases]
            for rule, named in RULES.items()
        }
        before = percent(float(np.mean([one["before"] for one in cases])))
        lines.append(
            [shift, str(len(cases)), before, *(percent(float(np.mean(v))) for v in after.values())]
        )
    return Table(["shift", "nets", "before", *RULES], lines)


def naming_table(rows: Sequence[Row]) -> Table:
    """Return how often each rule names the best module, and what it misses of it."""
    cases = list(chain(*_shifts(rows).values()))
    lines = []
    for rule, named in RULES.items() if cases else ():
        if rule in ("all modules", "best module, in hindsight"):
            continue
        names = [name for name in cases[0]["retrained"] if name != "all"]
        best = [one["retrained"][RULES["best module, in hindsight"](one, names)] for one in cases]
        mine = [one["retrained"][named(one, names)] for one in cases]
        right = sum(m == b for m, b in zip(mine, best, strict=True))
        missed = signed(float(np.mean(np.subtract(best, mine))))
        lines.append([rule, f"{right} of {len(cases)}", missed])
    return Table(["rule", "names the best module", "misses of it, pp"], lines)


def selection_table(rows: Sequence[Row]) -> Table:
    """Return what each rule's choice misses of the best checkpoint, mean and most, by set."""
    found, lines = select(rows, experiment="selection"), []
    names = list(dict.fromkeys(row["what"] for row in found))
    results = {name: [row["result"] for row in select(found, what=name)] for name in names}
    rules = list(results[names[0]][0]["regret"]) if names else []
    for rule in rules:
        cells = [rule]
        for name in names:
            missed = [one["regret"][rule] for one in results[name]]
            cells.append(f"{100 * np.mean(missed):.2f} ({100 * np.max(missed):.2f})")
        lines.append(cells)
    heads = [f"{name}, {len(results[name])} groups" for name in names]
    return Table(["choice", *(f"{head}: pp missed (most)" for head in heads)], lines)
