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
