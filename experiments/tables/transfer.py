"""Maturity scores on runs that were never seen, beside what they have to beat."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.result_rows import Row, Table, percent, select

PROTOCOLS = ("seed", "width", "recipe", "data", "architecture", "larger network")
_GOALS = {"seed": "≤ 0.25", "width": "≤ 0.25", "recipe": "≤ 0.35", "data": "≤ 0.40"}
_GOALS["architecture"] = _GOALS["data"]


def _rows(rows: Iterable[Row]) -> list[tuple[str, Mapping[str, Any]]]:
    known = {row["what"]: row["result"] for row in select(rows, experiment="transfer")}
    return [(name, known[name]) for name in PROTOCOLS if name in known]


def _shown(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _errors(one: Mapping[str, Any]) -> str:
    """Format mean absolute error, mean ρ and the worst run's."""
    rho, worst = (_shown(one[name], 3).lstrip("0") for name in ("rho", "rho_worst"))
    return f"{_shown(one['mae'])} / {rho} ({worst})"


def score_table(rows: Iterable[Row]) -> Table:
    """Return a line per protocol: the score within the run against raw phases, its interval, other forms."""
    lines = []
    for name, result in _rows(rows):
        raw = result["raw"]["score"]
        lines.append(
            (
                *(name, str(raw["runs"]), _errors(raw), _GOALS.get(name, "–")),
                *(percent(raw["covered"]), _shown(raw["width"], 1)),
                *(_errors(result[form]) for form in ("intermediate", "without labels")),
                *(_shown(result["snapshot"][key], 3) for key in ("rho", "rho_worst")),
            )
        )
    header = (
        *("new", "runs", "MAE / ρ (worst)", "goal", "in the 90 % interval", "its width"),
        *("intermediate modules", "without labels", "snapshot ρ", "worst"),
    )
    return Table(header, lines)


def baseline_table(rows: Iterable[Row]) -> Table:
    """Return a line per predictor, a column per protocol: mean absolute error against raw phases."""
    return _by_predictor(_rows(rows), "raw")


def _by_predictor(found: Sequence[tuple[str, Mapping[str, Any]]], target: str) -> Table:
    names = list(found[0][1][target]) if found else []
    lines = []
    for name in names:
        cells = []
        for _, result in found:
            best = min(v["mae"] for v in result[target].values() if v["mae"] is not None)
            text = _errors(result[target][name])
            cells.append(f"**{text}**" if result[target][name]["mae"] == best else text)
        lines.append(("score within the run" if name == "score" else name, *cells))
    return Table(("MAE / ρ (worst)", *(name for name, _ in found)), lines)


def unfinished_table(rows: Iterable[Row]) -> Table:
    """Return a line per share of the epochs seen: how far off the phase reached is."""
    found = _rows(rows)
    shares = sorted({s for _, r in found for s in r["unfinished"]["planned"]}, key=float)

    def mean(kind: str, share: str, key: str) -> float | None:
        values = [
            (result["unfinished"][kind][share][key], result["raw"]["score"]["runs"])
            for _, result in found
            if share in result["unfinished"][kind]
        ]
        if not values:
            return None
        return float(np.average([v for v, _ in values], weights=[n for _, n in values]))

    form: Callable[[float | None], str] = lambda v: "–" if v is None else percent(v)  # noqa: E731
    lines = [
        (
            percent(float(share)),
            *(_shown(mean("planned", share, "mae")), form(mean("planned", share, "covered"))),
            *(_shown(mean("unplanned", share, "mae")), form(mean("unplanned", share, "covered"))),
            _shown(mean("planned", share, "share of the schedule")),
        )
        for share in shares
    ]
    header = (
        *("epochs seen", "MAE, length planned", "in the interval"),
        *("MAE, length unknown", "in the interval", "share of the schedule"),
    )
    return Table(header, lines)


def driving_table(rows: Iterable[Row]) -> Table:
    """Return a line per network and module: scores by labels of positions, and without labels."""
    lines = []
    for row in select(rows, experiment="transfer_driving"):
        for module in row["result"]["modules"]:
            positions, free = module["labels of positions"], module["without labels"]
            lines.append(
                (
                    f"{row['what']}, seed {row['seed']}",
                    *(module["module"], _shown(positions["mae"]), _shown(positions["rho"], 3)),
                    *(percent(positions["covered"]), _shown(free["mae"]), _shown(free["rho"], 3)),
                    _shown(module["snapshot"]["rho"], 3),
                )
            )
    header = (
        *("network", "module", "MAE", "ρ", "in the 90 % interval"),
        *("MAE without labels", "ρ without labels", "snapshot ρ"),
    )
    return Table(header, lines)
