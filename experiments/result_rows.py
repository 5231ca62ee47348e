"""Records and selects rows of results/ and formats their numbers in tables."""

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from fmce.files import read_json_lines, write_json_lines
from fmce.runs.log import environment

Row = Mapping[str, Any]
Column = tuple[str, str] | Callable[[Row], str]
"""A dotted path into a row with its format, or a function of the row."""


def select(rows: Iterable[Row], **fields: Any) -> list[Row]:
    """Return the rows whose fields have these values.

    >>> select([{"what": "a", "seed": 0}, {"what": "a", "seed": 1}], what="a", seed=1)
    [{'what': 'a', 'seed': 1}]
    """
    return [row for row in rows if all(row.get(k) == value for k, value in fields.items())]


def value(row: Any, path: str, form: str = "") -> str:
    """Format the value at a dotted path of a row; a dash where there is none.

    `form` is "%" for a fraction in percent, "pp" for a signed difference in percentage points, "epochs" for
    markers, else a format specification.

    >>> value({"result": {"accuracy": 0.5, "drift": None}}, "result.accuracy", "%")
    '50.00 %'
    >>> value({"result": {"drift": None}}, "result.drift", ".3f")
    '–'
    """
    for key in path.split("."):
        row = row.get(key) if row else None
    if form == "epochs":
        return epochs(row)
    if row is None:
        return "–"
    named = {"%": percent, "pp": signed}
    return named[form](row) if form in named else format(row, form)


class Table(NamedTuple):
    """A table of formatted cells."""

    header: Sequence[str]
    lines: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return the table in Markdown, first column left, numbers right."""
        rule = [":--", *["--:"] * (len(self.header) - 1)]
        lines = self.lines or [("not measured yet", *[""] * (len(self.header) - 1))]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in (self.header, rule, *lines))


def table(rows: Iterable[Row], columns: Mapping[str, Column]) -> Table:
    """Return a table with one line per row; `columns` maps headers to what they show."""
    lines = [
        [show(row) if callable(show) else value(row, *show) for show in columns.values()]
        for row in rows
    ]
    return Table(list(columns), lines)


def percent(fraction: float) -> str:
    """Format a fraction in percent."""
    return f"{100 * fraction:.2f} %"


def signed(fraction: float) -> str:
    """Format a difference of fractions in percentage points; no minus before a zero."""
    return f"{100 * fraction + 0.0:+.2f}".replace("-0.00", "+0.00")


def spread(arm: Row, mean: str = "mean", sd: str = "sd") -> str:
    """Format an arm's mean ± standard deviation in percent.

    >>> spread({"mean": 0.5, "sd": 0.01}), spread({"mean": 0.5, "sd": None})
    ('50.00 ± 1.00', '50.00')
    """
    deviation = "" if arm[sd] is None else f" ± {100 * arm[sd]:.2f}"
    return f"{100 * arm[mean]:.2f}{deviation}"


def interval(comparison: Row | None) -> str:
    """Format the interval of a paired difference; pairs without spread have none."""
    if comparison is None:
        return "–"
    low, high = comparison["interval_low"], comparison["interval_high"]
    if low is None:
        return "all equal" if comparison["n"] > 1 else "one pair"
    return f"{signed(low)} … {signed(high)}"


def epochs(markers: Sequence[int] | None) -> str:
    """Format markers, or `none`."""
    if markers is None:
        return "none"
    assert all(a < b for a, b in pairwise(markers)), "markers must rise"
    return ", ".join(map(str, markers))


def measured(row: Row) -> str:
    """Return when and with what a row was measured."""
    machine = row["environment"]
    cores = machine["gpu"] or f"{machine['cores']} CPU cores"
    return f"{row['date']}, torch {machine['torch']}, {cores}"


def record_result(path: Path, row: Mapping[str, Any], *, key: Sequence[str]) -> None:
    """Put a result row into a JSON-lines file, in place of an earlier row with the same key fields.

    Date and environment are added to the row.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = read_json_lines(path)
    row = {"date": datetime.date.today().isoformat(), **row, "environment": environment()}
    same = [n for n, old in enumerate(rows) if all(old.get(k) == row.get(k) for k in key)]
    kept = [old for n, old in enumerate(rows) if n not in same]
    # It keeps its place: pages made from the rows show them in the file's order.
    kept.insert(same[0] if same else len(kept), row)
    write_json_lines(path, kept)
