"""Recorded trainings: which injured module is named, what stopping saves, how modules of driving networks settle."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.result_rows import Column, Row, Table, percent, select, signed, table
from fmce.metrics.statistics import paired_comparison

Floats = NDArray[np.float64]
# A drift below that is rounding; other runs' spread is not trusted below that; what counts as an alarm.
MOVED, LEAST_SPREAD, ALARMING = 1e-4, 0.02, 5.0
# Drift since an older record is unusual beyond so many times the largest of the other runs.
UNUSUAL = 2.0
# A score fell clearly if by such a share of the way back to a re-initialised module.
FELL = 0.1


def _jumps(drift: Sequence[float]) -> Floats:
    """Return what each module adds to the drift of its input."""
    return np.diff(np.array([0.0, *drift]))


def _logs(ranks: Sequence[float | None]) -> Floats:
    """Return log effective ranks; one that is undefined counts as 1."""
    return np.log([1.0 if rank is None else rank for rank in ranks])


MEASURES: Mapping[str, Callable[[Mapping[str, Any]], Floats]] = {
    "jump of drift": lambda one: _jumps(one["drift"]),
    "jump since an older record": lambda one: _jumps(one["old drift"]),
    "drift": lambda one: np.array(one["drift"]),
    "change of the input": lambda one: np.array(one["change"]),
    "effective rank": lambda one: _logs(one["rank"]),
    "jump of the score's fall": lambda one: _jumps(one["fall"]),
    "fall of the score": lambda one: np.array(one["fall"]),
}
# More drift than usual is odd, less is not; the others may be odd either way.
_ONE_SIDED = (
    *("jump of drift", "jump since an older record", "drift"),
    *("jump of the score's fall", "fall of the score"),
)


def _references(case: Mapping[str, Any], result: Mapping[str, Any]) -> list[Any]:
    """Return the other seeds' runs at the case's epoch; a healthy net is at the last."""
    found: Mapping[str, list[Any]] = result["references"]
    return found[str(case.get("epoch", max(map(int, found))))]


def oddness(case: Mapping[str, Any], result: Mapping[str, Any], measure: str) -> Floats:
    """Return each module's distance from the other seeds' runs at the same epoch, in their standard deviations."""
    read = MEASURES[measure]
    others = np.array([read(one) for one in _references(case, result)])
    spread = np.maximum(others.std(0, ddof=1), LEAST_SPREAD)
    odd: Floats = (read(case) - others.mean(0)) / spread
    size: Floats = np.abs(odd)
    return odd if measure in _ONE_SIDED else size


def _first(named: Sequence[int] | None) -> int | None:
    return named[0] if named else None


def _moved_first(case: Mapping[str, Any]) -> int | None:
    """Return the first module whose output is not the recorded one: its input still is."""
    moved = np.flatnonzero(np.array(case.get("own drift", [])) > MOVED)
    return int(moved[0]) if moved.size else None


def _ratios(case: Mapping[str, Any], result: Mapping[str, Any]) -> Floats:
    """Return each module's drift since an older record over the largest of the other seeds' runs."""
    others = [one["old drift"] for one in _references(case, result)]
    ratios: Floats = np.array(case["old drift"]) / np.maximum(np.max(others, 0), MOVED)
    return ratios


def _unusual_first(case: Mapping[str, Any], result: Mapping[str, Any]) -> int | None:
    """Return the first module that drifted unusually since an older record: its input did not."""
    if "own drift" not in case:
        return None
    ratios = _ratios(case, result)
    unusual = np.flatnonzero(ratios > UNUSUAL)
    return int(unusual[0] if unusual.size else ratios.argmax())


def _most(measure: str, case: Mapping[str, Any], result: Mapping[str, Any]) -> int:
    return int(oddness(case, result, measure).argmax())


def _without_record(case: Mapping[str, Any], result: Mapping[str, Any]) -> int:
    """Return what is named where nothing of this training was recorded before."""
    named = _first(case.get("alarms alone", case["alarms"]))
    return _most("jump of drift", case, result) if named is None else named


def _score(case: Mapping[str, Any], result: Mapping[str, Any]) -> int | None:
    """Return where the score falls most beyond its fall at the module's input, beside other seeds' runs."""
    return _most("jump of the score's fall", case, result) if "fall" in case else None


def _unusual_falls(case: Mapping[str, Any], result: Mapping[str, Any]) -> NDArray[np.intp]:
    """Return the modules whose score fell since an older record by more than in any other seed's run, and clearly."""
    others = np.max([one["own fall"] for one in _references(case, result)], 0)
    return np.flatnonzero(np.array(case["own fall"]) > np.maximum(others, 0) + FELL)


def _older_score(case: Mapping[str, Any], result: Mapping[str, Any]) -> int | None:
    """Return the first module whose score fell unusually since an older record: its input's did not."""
    if "own fall" not in case:
        return None
    unusual = _unusual_falls(case, result)
    return int(unusual[0] if unusual.size else _jumps(case["own fall"]).argmax())


def _alarms_or_score(case: Mapping[str, Any], result: Mapping[str, Any]) -> int | None:
    named = _first(case.get("alarms alone", case["alarms"]))
    return _score(case, result) if named is None else named


def _alarms_or_peers(case: Mapping[str, Any], _: Mapping[str, Any]) -> int | None:
    """Return what alarms beside other seeds' checkpoints name, else the module whose weights are the most unlike."""
    named = _first(case.get("alarms, peers"))
    if named is not None or "unlike peers" not in case:
        return named
    return int(np.argmax([np.inf if one is None else one for one in case["unlike peers"]]))


def _with_clocks_and_score(case: Mapping[str, Any], result: Mapping[str, Any]) -> int | None:
    """Return what the record names by alarm or clock, else the score."""
    named = _first(case["alarms"])
    named = _moved_first(case) if named is None else named
    return _score(case, result) if named is None else named


Naming = Callable[[Mapping[str, Any], Mapping[str, Any]], int | None]
NAMINGS: Mapping[str, Naming] = {
    "alarms": lambda case, _: _first(case["alarms"]),
    "alarms, no record": lambda case, _: _first(case.get("alarms alone")),
    "clocks, own record": lambda case, _: _moved_first(case),
    "clocks, older record": _unusual_first,
    "clocks, other runs": partial(_most, "jump of drift"),
    "score, older record": _older_score,
    "score, other runs": _score,
    "alarms beside other runs, no record": lambda case, _: _first(case.get("alarms, peers")),
    "these, else the weights most unlike": _alarms_or_peers,
    "no record: alarms, else clocks": _without_record,
    "no record: alarms, else score": _alarms_or_score,
    "alarms, clocks, score": _with_clocks_and_score,
    "last module": lambda case, _: len(case["rank"]) - 1,
    "effective rank": partial(_most, "effective rank"),
}
# Of a training from its start there is no other record.
_OF_CHECKPOINTS = (
    *("alarms, no record", "clocks, own record", "clocks, older record"),
    *("score, older record", "alarms beside other runs, no record"),
    "these, else the weights most unlike",
)


def _named(cases: Sequence[tuple[Any, Any]], naming: Naming) -> str:
    right = sum(naming(case, result) == case["module"] for case, result in cases)
    return f"{right} of {len(cases)}" if cases else "–"


def _cases(rows: Sequence[Row]) -> list[tuple[Any, Any]]:
    found = select(rows, experiment="injuries")
    return [(case, row["result"]) for row in found for case in row["result"]["cases"]]


def _checked(cases: Sequence[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    return [(case, result) for case, result in cases if "own drift" in case]


def _answers(cases: Sequence[tuple[Any, Any]]) -> list[str]:
    """Return how often each way names the injured module first."""
    return [
        _named(_checked(cases) if name in _OF_CHECKPOINTS else cases, naming)
        for name, naming in NAMINGS.items()
    ]


def injury_table(rows: Sequence[Row]) -> Table:
    """Return how often each way names the injured module first, by injury."""
    cases = _cases(rows)
    injuries = list(dict.fromkeys(case["injury"] for case, _ in cases))
    lines = [[one, *_answers([c for c in cases if c[0]["injury"] == one])] for one in injuries]
    return Table(["injury", *NAMINGS], [*lines, ["all", *_answers(cases)]] if cases else [])


def net_table(rows: Sequence[Row]) -> Table:
    """Return how often each way names the injured module first, by net."""
    found = select(rows, experiment="injuries")
    nets = dict.fromkeys(row["what"] for row in found)
    lines = [[net, *_answers(_cases(select(found, what=net)))] for net in nets]
    return Table(["net", *NAMINGS], lines)


def measure_table(rows: Sequence[Row]) -> Table:
    """Return what was tried to name a module from its outputs beside healthy runs of other seeds."""
    found, every, lines = select(rows, experiment="injuries"), _cases(rows), []
    for measure in MEASURES:
        cases = _checked(every) if "older" in measure else every
        if "fall" in measure and "fall" not in cases[0][0]:
            continue
        odd = sum(oddness(*one, measure).max() > ALARMING for one in cases)
        healthy = [oddness(r["result"]["healthy"], r["result"], measure) for r in found]
        false = sum(int((one > ALARMING).sum()) for one in healthy)
        lines.append(
            [
                measure,
                _named(cases, partial(_most, measure)),
                f"{odd} of {len(cases)}",
                f"{false / max(len(healthy), 1):.2f}",
            ]
        )
    header = ["measure", "names the module", "called odd", "false per healthy net"]
    return Table(header, lines if found else [])


def healthy_table(rows: Sequence[Row]) -> Table:
    """Return the alarms on healthy nets: while they trained, and on their last checkpoints."""
    found = select(rows, experiment="injuries")
    healthy = [row["result"]["healthy"] for row in found]
    epochs = sum(row["config"]["epochs"] for row in found)
    counts = {
        "alarms, training": (sum(one["epochs with alarms"] for one in healthy), f"{epochs} epochs"),
        "alarms, checkpoint": (sum(len(one["alarms"]) for one in healthy), ""),
        "alarms, no record": (sum(len(one["alarms alone"]) for one in healthy), ""),
        "clocks, own record": (sum(_moved_first(one) is not None for one in healthy), ""),
        "clocks, older record": (
            sum(
                int((_ratios(row["result"]["healthy"], row["result"]) > UNUSUAL).sum())
                for row in found
            ),
            "",
        ),
    }
    if healthy and "own fall" in healthy[0]:
        falls = sum(_unusual_falls(row["result"]["healthy"], row["result"]).size for row in found)
        counts["score, older record"] = (falls, "")
    if healthy and "alarms, peers" in healthy[0]:
        beside = sum(len(one["alarms, peers"]) for one in healthy)
        counts["alarms beside other runs, no record"] = (beside, "")
    lines = [
        [name, extra or f"{len(healthy)} checkpoints", str(count), f"{count / len(healthy):.2f}"]
        for name, (count, extra) in counts.items()
        if healthy
    ]
    return Table(["on healthy nets", "looked at", "false alarms", "per net"], lines)


RULES = ("converged", "at rest", "published", "patience")
_RULE_NAMES = {
    "converged": "verdict “converged”",
    "at rest": "verdict at rest at all",
    "published": "CQI ≤ µ",
    "patience": "patience 10, best weights",
}


def _by_data(rows: Sequence[Row]) -> dict[str, list[Any]]:
    found = select(rows, experiment="stopping")
    names = list(dict.fromkeys(row["what"] for row in found))
    return {name: [row["result"] for row in select(found, what=name)] for name in names}


def _difference(scores: Sequence[float], full: Sequence[float]) -> str:
    """Format a paired difference in percentage points, with its 95 % interval where pairs differ."""
    differences = np.subtract(scores, full)
    mean = signed(float(differences.mean()))
    if len(differences) < 2 or not differences.any():
        return mean
    found = paired_comparison(full, scores)
    return f"{mean} ({signed(found.interval_low)} … {signed(found.interval_high)})"


def stopping_table(rows: Sequence[Row]) -> Table:
    """Return epochs saved and score given up against the full schedule, by data set and rule, over paired seeds."""
    lines = []
    for name, results in _by_data(rows).items():
        full = [one["full"] for one in results]
        for rule in RULES:
            stops = [one["stops"][rule] for one in results]
            saved = 1 - np.mean(
                [stop / one["epochs"] for stop, one in zip(stops, results, strict=True)]
            )
            short = [
                one["shortened"].get(str(stop)) for stop, one in zip(stops, results, strict=True)
            ]
            lines.append(
                [
                    f"{name}, {_RULE_NAMES[rule]}",
                    str(len(results)),
                    f"{np.mean(stops):.1f}",
                    percent(float(saved)),
                    percent(float(np.mean(full))),
                    _difference([one["scores"][rule] for one in results], full),
                    "–" if None in short else _difference(short, full),
                ]
            )
    header = [
        "data, rule",
        "seeds",
        "stops at",
        "saved",
        "full schedule",
        "− full, pp",
        "shortened − full, pp",
    ]
    return Table(header, lines)


def module_table(rows: Sequence[Row]) -> Table:
    """Return when the modules of the driving networks came to rest: the median over seeds, and the range."""
    found, lines = select(rows, experiment="driving_modules"), []
    for network in dict.fromkeys(row["what"] for row in found):
        results = [row["result"] for row in select(found, what=network)]
        for index, first in enumerate(results[0]["modules"]):
            same = [result["modules"][index] for result in results]
            lines.append(
                [
                    f"{network}: {first['name']}",
                    "" if first["parameters"] is None else f"{first['parameters']:,}",
                    f"{np.mean([one['drift'] for one in same]):.3f}",
                    _epochs([one["done_epoch"] for one in same]),
                    percent(float(np.mean([one["late_drift"] for one in same]))),
                    _epochs([_rest(one["rest"]) for one in same]),
                    str(sum(len(one["alarms"]) for one in same)),
                ]
            )
    header = [
        "module",
        "parameters",
        "drift in all",
        "90 % at",
        "late drift",
        "at rest since",
        "alarms",
    ]
    return Table(header, lines)


def _rest(verdict: Sequence[Any] | None) -> int | None:
    """Return since when a module rests; None where the verdict does not say that it does."""
    return verdict[1] if verdict is not None and verdict[0] in ("converged", "at_rest") else None


def _epochs(values: Sequence[int | None]) -> str:
    known = sorted(value for value in values if value is not None)
    if len(known) < len(values):
        return f"{len(known)} of {len(values)}" if known else "–"
    middle = float(np.median(known))
    return f"{middle:g}" if known[0] == known[-1] else f"{middle:g} ({known[0]} to {known[-1]})"


def depth_table(rows: Sequence[Row]) -> Table:
    """Return how well depth alone orders the epochs at which modules were done."""
    columns: dict[str, Column] = {
        "network": lambda row: f"{row['what']}, seed {row['seed']}",
        "ρ of depth": ("result.depth_correlation", "+.2f"),
        "even epoch": ("result.even_epoch", "d"),
    }
    return table(select(rows, experiment="driving_modules"), columns)
