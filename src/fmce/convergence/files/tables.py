"""Read a training log as a table, whatever its form: CSV, TSV, JSON lines, JSON, text with JSON in it, Parquet.

The form is told by the content, not by the file's name. Holds no equation; which cells are losses is decided in
`curves.py`. pandas is imported when a file is read, so that a run folder is judged without it.
"""

import contextlib
import difflib
import io
import json
import math
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmce.convergence.files.records import Parsed, document, records, text_blocks
from fmce.convergence.files.writers import WRITERS, Writer, writer_of
from fmce.files import read_text, reading

if TYPE_CHECKING:
    import pandas as pd

FORMS = ("csv", "tsv", "json", "jsonl")
"""Words of `--format` for custom logs; the others are those of `WRITERS`."""
_TITLES = {"table": "a table", "records": "JSON records", "lists": "JSON lists", "text": "text"}
_MISSING = ["", "None", "none", "null", "NULL", "NA", "n/a", "N/A", "-", "--"]
_EXPECTED = "a log with a row or record per epoch or step"


@dataclass
class Table:
    """A log file: at least one row.

    Args:
        source: The file or folder.
        frame: Named columns; the index is the place of each row. Empty cells are missing.
        unit: What the index counts: "line", "record", "step" or "point".
        title: What the file was read as.
        writer: The program that wrote it, if it is a known one.
        notes: What was passed over, cut off or renamed, one sentence each.
        part: Number of the file that each row came from, of event files; they may each begin anew.
        elsewhere: Folders below with event files of their own, which were searched too.
    """

    source: Path
    frame: "pd.DataFrame"
    unit: str
    title: str
    writer: Writer | None = None
    notes: list[str] = field(default_factory=list)
    part: "pd.Series[int] | None" = None
    elsewhere: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that hold values."""
        return tuple(map(str, self.frame.columns))

    def place(self, row: Any) -> str:
        """Return where a row stands, for a message."""
        step = f" (step {self.frame['step'][row]})" if self.unit == "point" else ""
        return f"{self.source}, {self.unit} {row}{step}"

    @cached_property
    def numbers(self) -> "pd.DataFrame":
        """The cells as numbers; NaN where they are none, as truth values and texts such as "1_000"."""
        return self.frame.apply(_numbers_of)

    def is_numeric(self, name: str, rows: "pd.Index[Any] | slice" = slice(None)) -> bool:
        """Return whether every value of a column is a number."""
        return bool((self.numbers[name].notna() | self.frame[name].isna())[rows].all())

    def finite(self, name: str, *, strict: bool = True) -> "pd.Series[float]":
        """Return a column's numbers where it has values.

        Args:
            name: The column.
            strict: Refuse what is no finite number; otherwise it counts as missing.

        Raises:
            ValueError: If a value is no finite number; it is named with its row.
        """
        cells, numbers = self.frame[name], self.numbers[name]
        is_finite = numbers.abs() < math.inf
        bad = cells[cells.notna() & ~is_finite]
        if strict and len(bad):
            raise ValueError(
                f"{self.place(bad.index[0])}: {name!r} must be a finite number, got {str(bad.iloc[0])[:40]!r}; remove "
                "that row, or choose others with --where"
            )
        return numbers[is_finite]

    def check(self, name: str) -> str:
        """Return the name of a column, or refuse one that does not exist with the nearest ones."""
        if name in self.columns:
            return name
        near = difflib.get_close_matches(name, self.columns, n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise ValueError(f"{self.source}: has no values {name!r}; {hint}It has: {self.listing()}")

    def listing(self) -> str:
        """Return the names for a message, the first 20 of them."""
        more = f" and {len(self.columns) - 20} more" if len(self.columns) > 20 else ""
        return ", ".join(self.columns[:20]) + more


def counted(count: int, what: str) -> str:
    """Return a number with its noun, such as "1 row" or "2 rows"."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def as_number(cell: object) -> float:
    """Return a cell as a number; NaN if it is none. Truth values and texts such as "1_000" are none.

    >>> as_number("2.5"), as_number(True)
    (2.5, nan)
    """
    if isinstance(cell, bool) or (isinstance(cell, str) and "_" in cell):
        return math.nan
    try:
        return float(cell)  # type: ignore[arg-type]
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        return math.nan


def _numbers_of(cells: "pd.Series[Any]") -> "pd.Series[float]":
    from pandas.api.types import infer_dtype

    values = cells.dropna()
    kind = infer_dtype(values)
    if kind == "string" and "_" not in "".join(values):
        # Most columns hold numbers alone, which are quick to read together.
        with contextlib.suppress(ValueError):
            return values.astype(float).reindex(cells.index)
    if kind == "string":
        values = values.map({text: as_number(text) for text in values.unique()})
    elif values.dtype.kind not in "iuf":
        values = values.map(as_number)
    return values.astype(float).reindex(cells.index)


def read_table(path: Path, asked: str | None = None) -> Table:
    """Read a log file.

    Args:
        path: The file.
        asked: Word of `--format`: a known writer's, or csv, tsv, json or jsonl. By default the content decides.

    Raises:
        ValueError: If it is empty, damaged, of another kind, or no such format is known.
        OSError: If it cannot be read.
        ModuleNotFoundError: If it is a Parquet file and pyarrow is not installed.
    """
    known = [*FORMS, *dict.fromkeys(writer.name for writer in WRITERS)]
    if asked is not None and asked not in known:
        raise ValueError(f"unknown format {asked!r}; expected one of {', '.join(known)}")
    notes: list[str] = []
    with reading(path, _EXPECTED):
        with path.open("rb") as file:
            parquet = file.read(4) == b"PAR1"
        text = "" if parquet else _without_tail(read_text(path, _EXPECTED), notes)
    try:
        parsed = _parquet(path) if parquet else _parse(text, asked, notes)
        frame = parsed.frame.dropna(axis="columns", how="all")
        if frame.empty:
            raise ValueError(f"expected {_EXPECTED}, got no values; write or export it again")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    names = (*map(str, frame.columns), *parsed.where)
    writer = None if asked in FORMS else writer_of(parsed.layout, names, asked)
    tag = re.search(r"tag-(.+)", path.stem)  # TensorBoard names its downloads so
    if tag and "Value" in frame:
        frame = frame.rename(columns={"Value": tag[1]})
    unit = "record" if parsed.layout == "lists" or parsed.where else "line"
    title = writer.title if writer else _TITLES[parsed.layout]
    return Table(path, frame, unit, title, writer, notes)


def _parquet(path: Path) -> Parsed:
    import pandas as pd

    try:
        return Parsed("table", pd.read_parquet(path).reset_index(drop=True))
    except ImportError as error:
        raise ModuleNotFoundError(
            f"{path} is a Parquet file, which needs the package pyarrow; install fmce[tables]"
        ) from error


def _without_tail(text: str, notes: list[str]) -> str:
    """Return the text up to where a crash cut it off."""
    body = text.rstrip("\0")
    if len(body) < len(text):
        end = body.rfind("\n") + 1
        lost = ", in the middle of a line, which is left out" if end < len(body) else ""
        notes.append(f"NUL bytes at the end: the file was cut off by a crash or a full disk{lost}")
        body = body[:end]
    return body


def _parse(text: str, asked: str | None, notes: list[str]) -> Parsed:
    import pandas as pd

    if not text.strip():
        return Parsed("table", pd.DataFrame())
    if asked in ("csv", "tsv"):
        return Parsed("table", _read_csv(text, "," if asked == "csv" else "\t", notes))
    failed = None
    if asked != "jsonl" and text.lstrip()[0] in "[{":
        try:
            return document(json.loads(text, parse_constant=str), notes)
        except (json.JSONDecodeError, RecursionError) as error:
            failed = error
    if failed or asked == "jsonl" or re.search(r"\{.*['\"]\w+['\"] *:.*\}\s*$", text, re.MULTILINE):
        found = records(text, notes)
        if found is not None:
            return found
    if failed or asked in ("json", "jsonl"):
        raise ValueError(
            f"no valid JSON ({failed or 'no line holds an object'}); write or export it again"
        )
    blocks = text_blocks(text) if "train_loss " in text else None
    return blocks or Parsed("table", _read_csv(text, None, notes))


def _read_csv(text: str, separator: str | None, notes: list[str]) -> "pd.DataFrame":
    """Return the columns of a table with a header line; comments, and the header where it is repeated, are no rows."""
    import pandas as pd

    lines = text.split("\n")
    first = next((i for i, line in enumerate(lines) if line.strip() and line[0] != "#"), 0)
    separator = separator or _separator(lines[first:])
    above = lines[first - 1].lstrip("# ") if first else ""
    cells, named = (len(re.split(separator, line)) for line in (lines[first], above))
    if first and named == cells and _all_numbers(re.split(separator, lines[first])):
        first -= 1  # NumPy writes the header as a comment
        lines[first] = above
    comments = sum(line.startswith("#") for line in lines) if "#" in text else 0
    if comments:
        notes.append(f"{counted(comments, 'comment line')} passed over")
    # A line may end with more separators than the header has; missing cells are empty in any case.
    ends = " " if separator == r"\s+" else f" {separator}"
    body = lines[first:]
    if comments or any(f"{end}\n" in text or text.endswith(end) for end in ends):
        body = ["" if line.startswith("#") else line.rstrip(ends) or line for line in body]
    try:
        frame = pd.read_csv(
            io.StringIO("\n".join(body)),
            sep=separator,
            header=None,
            dtype=object,
            na_values=_MISSING,
            keep_default_na=False,
            skip_blank_lines=False,
            skipinitialspace=True,
        )
    except pd.errors.ParserError as error:
        counts = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
        if counts is None:
            raise ValueError(
                f"broken table; fix or export it again: {' '.join(str(error).split())}"
            ) from error
        raise ValueError(
            f"line {int(counts[2]) + first}: {counts[3]} cells under a header of {counts[1]}; quote cells that hold a "
            f"{separator!r}"
        ) from error
    frame.index = frame.index + first + 1
    if text[-1] != "\n" and lines[-1].count(separator) < lines[first].count(separator):
        notes.append(f"line {len(lines)}, the last, is cut short and left out")
        frame = frame[:-1]
    rows = _named(frame, notes)
    decimal_comma = separator == ";"
    return rows.replace(r"^(-?\d*),(\d+)", r"\1.\2", regex=True) if decimal_comma else rows


def _separator(lines: list[str]) -> str:
    found = max(",;\t|", key=lines[0].count)
    if found in lines[0]:
        return found
    words = len(lines[0].split())
    return r"\s+" if words > 1 and all(len(line.split()) in (0, words) for line in lines) else ","


def _all_numbers(cells: list[str]) -> bool:
    filled = [as_number(cell) for cell in cells if cell.strip()]
    return bool(filled) and not any(map(math.isnan, filled))


def _named(frame: "pd.DataFrame", notes: list[str]) -> "pd.DataFrame":
    """Take the first row for the names of the columns, and leave it out wherever it is repeated."""
    header = frame.iloc[0].dropna()
    names = header.str.strip()
    if _all_numbers(list(names)):
        raise ValueError(
            f"line {header.name}: expected column names; got numbers: add a header line"
        )
    twice = names[names.duplicated()]
    if len(twice):
        raise ValueError(f"line {header.name}: column {twice.iloc[0]!r} occurs twice; rename one")
    repeated = (frame[header.index] == header).all(axis="columns")
    again = [str(place) for place in frame.index[repeated][1:]]
    if again:
        notes.append(f"the header is repeated in line {', '.join(again[:5])} and passed over")
    # Unnamed columns are row numbers that a data frame wrote along.
    rows = frame.loc[~repeated, header.index].set_axis(list(names), axis="columns")
    rows = rows.dropna(axis="index", how="all")
    # Markdown draws a line below the names.
    drawn = len(rows) > 0 and rows.iloc[0].astype(str).str.fullmatch(r"[-: ]+").all()
    return rows[1:] if drawn else rows
