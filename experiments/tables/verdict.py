"""The verdict on curves of known truth: errors, intervals, and what is called converged too early."""

from collections.abc import Sequence
from functools import partial

from experiments.result_rows import Column, Row, Table, select, table, value

BASELINES = ("published E_K", "patience 10", "moving average")


def errors(row: Row, estimator: str) -> str:
    """Format the median error and its 90th percentile, in epochs."""
    median, high = row["result"][estimator]["error"]
    return f"{median:g}, {high:.0f}"


def error_table(rows: Sequence[Row]) -> Table:
    """Return errors against the truth by kind and noise, with the intervals of the verdict."""
    columns: dict[str, Column] = {
        "curve": lambda row: f"{row['kind']}, noise {100 * row['noise']:g} %",
        "verdict": partial(errors, estimator="with rates"),
        "coverage": ("result.with rates.coverage", ".2f"),
        "width": ("result.with rates.width", "g"),
        "without rates": partial(errors, estimator="without rates"),
        **{name: partial(errors, estimator=name) for name in BASELINES},
    }
    return table(select(rows, experiment="verdict"), columns)


def early_table(rows: Sequence[Row]) -> Table:
    """Return how often a curve that is cut at rest and later falls was called converged."""
    key = "called converged before a later fall"
    cut = [
        r for r in select(rows, experiment="verdict") if r["result"][key]["with rates"] is not None
    ]
    columns: dict[str, Column] = {
        "curve": lambda row: f"{row['kind']}, noise {100 * row['noise']:g} %",
        "with rates": lambda row: value(row["result"][key], "with rates", ".2f"),
        "without rates": lambda row: value(row["result"][key], "without rates", ".2f"),
    }
    return table(cut, columns)


def prediction_table(rows: Sequence[Row]) -> Table:
    """Return how well the published E_K is predicted before it is reached."""
    made = [
        {"kind": row["kind"], "noise": row["noise"], **part}
        for row in select(rows, experiment="verdict")
        for part in row["result"].get("predicted E_K", ())
    ]
    columns: dict[str, Column] = {
        "curve": lambda row: f"{row['kind']}, noise {100 * row['noise']:g} %",
        "seen of the way": lambda row: f"{100 * row['seen']:.0f} %",
        "predicted": lambda row: f"{row['predicted']} of {row['curves']}",
        "median error / E_K": ("error", ".2f"),
        "coverage": ("coverage", ".2f"),
    }
    return table(made, columns)


def real_table(rows: Sequence[Row]) -> Table:
    """Return the verdicts on real curves by seed, beside the published E_K."""

    def verdicts(row: Row) -> str:
        return "; ".join(
            f"{v['epoch']} ({v['low']}–{v['high'] or '?'})" if v["epoch"] else v["state"]
            for v in row["result"]["verdicts"]
        )

    def covered(row: Row) -> str:
        truth, found = row["result"]["mean curve"]["epoch"], row["result"]["verdicts"]
        inside = [
            v for v in found if v["epoch"] and v["low"] <= truth <= (v["high"] or float("inf"))
        ]
        return f"{len(inside)} of {len(found)}"

    columns: dict[str, Column] = {
        "curves": lambda row: f"{row['kind']}, {len(row['result']['losses'])} seeds",
        "verdict by seed (interval)": verdicts,
        "mean curve": ("result.mean curve.epoch", "d"),
        "intervals that hold it": covered,
        "E_K by seed": lambda row: ", ".join(str(e or "–") for e in row["result"]["published"]),
        "E_K of the mean curve": ("result.mean curve.published", "d"),
    }
    return table(select(rows, experiment="verdict real"), columns)
