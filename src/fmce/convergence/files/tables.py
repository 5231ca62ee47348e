"""Read a training log as a table of named cells: CSV, TSV, JSON lines or JSON.

Holds no equation. It names file, line and value of whatever it cannot read; which cells are losses
is decided in ``curve_files.py``.
"""

import csv
import difflib
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

DELIMITERS = {".csv": ",", ".tsv": "\t"}
_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")


class Row(NamedTuple):
    """One line or record: where it stands and its cells, without the empty ones."""

    place: str  # "line 7" or "record 7"
    cells: dict[str, object]


class Table(NamedTuple):
    """A log file: at least one row, and the names that occur in any of them."""

    source: Path
    columns: tuple[str, ...]
    rows: list[Row]


def read_table(path: Path) -> Table:
    """Read a log file in the format that its suffix says.

    Args:
        path: A CSV or TSV file with a header line, JSON lines, or JSON: a list of objects, a list of
            losses, or an object of equally long lists.

    Returns:
        The table, with the keys of nested objects joined by dots and numbers read as numbers.

    Raises:
        ValueError: The file is missing, empty, damaged, or of another format.
    """
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise ValueError(
            f"{path}: expected a file ending in {', '.join(_SUFFIXES)}; got "
            f"{path.suffix or 'no suffix'}: rename or convert it"
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(_parse(path, suffix, file))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text; got {error}") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    if not rows:
        raise ValueError(f"{path}: holds no values; expected a row or record per epoch or step")
    return Table(path, tuple(dict.fromkeys(name for row in rows for name in row.cells)), rows)


def _parse(path: Path, suffix: str, file: Iterable[str]) -> Iterator[Row]:
    if suffix in DELIMITERS:
        return _csv_rows(path, file, DELIMITERS[suffix])
    if suffix == ".json":
        return _json_list(path, "".join(file))
    return _json_lines(path, file)


def _csv_rows(path: Path, file: Iterable[str], delimiter: str) -> Iterator[Row]:
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    try:
        first = next(filter(None, reader), [])  # blank lines read as []
        header = _csv_header(path, first, delimiter)
        for cells in reader:
            if any(cell.strip() for cell in cells[len(header) :]):
                raise ValueError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells under a header of "
                    f"{len(header)}: quote cells that hold a {delimiter!r}"
                )
            pairs = zip(header, map(str.strip, cells), strict=False)
            # Unnamed columns are row numbers that a data frame wrote along.
            filled: dict[str, object] = {
                name: _number_or_text(cell) for name, cell in pairs if name and cell
            }
            if filled or len(cells) > 1:  # a blank line is no row, a line of empty cells is
                yield Row(f"line {reader.line_num}", filled)
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: broken table: {error}") from error


def _csv_header(path: Path, cells: list[str], delimiter: str) -> list[str]:
    header = [cell.strip() for cell in cells]
    other = next((d for d in ",;\t" if d in header[0]), None) if len(header) == 1 else None
    if other is not None:
        raise ValueError(
            f"{path}, line 1: expected columns separated by {delimiter!r}; got {other!r}: save it with "
            f"{delimiter!r}, and decimal points"
        )
    named = [name for name in header if name]
    if named and all(isinstance(_number_or_text(name), float) for name in named):
        raise ValueError(f"{path}, line 1: expected column names; got numbers: add a header line")
    twice = [name for name in dict.fromkeys(named) if named.count(name) > 1]
    if twice:
        raise ValueError(f"{path}, line 1: column {twice[0]!r} occurs twice: rename one")
    return header


def _number_or_text(cell: str) -> float | str:
    try:
        return cell if "_" in cell else float(cell)  # Python would read 1_000 as a number
    except ValueError:
        return cell


def _json_lines(path: Path, file: Iterable[str]) -> Iterator[Row]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            place = f"line {number}"
            yield Row(place, _flat_record(path, place, _parse_json(path, place, line)))


def _json_list(path: Path, text: str) -> Iterator[Row]:
    if not text.strip():
        return
    records = _parse_json(path, "text", text)
    if isinstance(records, dict):
        records = _records_of(path, records)
    if not isinstance(records, list):
        raise ValueError(
            f"{path}: expected a list of objects or of losses, or an object of lists; got "
            f"{_json_type(records)}"
        )
    for number, record in enumerate(records, start=1):
        place = f"record {number}"
        # A bare number is a loss.
        record = {"loss": record} if is_number(record) else record
        yield Row(place, _flat_record(path, place, record))


def _records_of(path: Path, columns: dict[str, Any]) -> list[dict[str, Any]]:
    """Return an object of lists, one an epoch's values, as a list of objects; other entries are left out."""
    lists = {name: values for name, values in columns.items() if isinstance(values, list)}
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) != 1:
        found = ", ".join(f"{n!r} of {length}" for n, length in lengths.items()) or "no list"
        raise ValueError(
            f"{path}: expected an object of lists of one length; got {found}: name the file .jsonl if it holds an "
            "object a line"
        )
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def _parse_json(path: Path, place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}, {place}: no valid JSON: {error}") from error


def _flat_record(path: Path, place: str, record: Any) -> dict[str, object]:
    if not isinstance(record, dict):
        raise ValueError(f"{path}, {place}: expected an object; got {_json_type(record)}")
    flat: dict[str, object] = {}
    pending = [("", record)]
    while pending:
        prefix, nested = pending.pop(0)
        for name, value in nested.items():
            if isinstance(value, dict):
                pending.append((f"{prefix}{name}.", value))
            elif value is not None:
                # Outer names come first, so a key that itself holds the dot wins.
                flat.setdefault(prefix + name, value)
    return flat


def _json_type(value: object) -> str:
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return repr(value)[:40]


def check_name(table: Table, name: str) -> str:
    """Return the name of a column that holds values, or refuse it with the nearest ones.

    Args:
        table: The log.
        name: Column or dotted key.

    Returns:
        The same name.

    Raises:
        ValueError: No row has a value of this name.
    """
    if name in table.columns:
        return name
    near = difflib.get_close_matches(name, table.columns, n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise ValueError(f"{table.source}: has no values {name!r}; {hint}It has: {listing(table)}")


def listing(table: Table) -> str:
    """Return the column names for an error message, the first 20 of them.

    Args:
        table: The log.

    Returns:
        The names, separated by commas.
    """
    shown = ", ".join(table.columns[:20])
    return shown + (f" and {len(table.columns) - 20} more" if len(table.columns) > 20 else "")


def is_number(cell: object) -> TypeGuard[int | float]:
    """Return whether a cell was read as a number; truth values and quoted JSON numbers are none.

    Args:
        cell: What a row holds.

    Returns:
        True for int and float.
    """
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def read_number(table: Table, row: Row, name: str) -> float:
    """Return a cell as a finite number, or refuse it with file, line and value.

    Args:
        table: The log.
        row: One of its rows.
        name: Column or dotted key.

    Returns:
        The number.

    Raises:
        ValueError: The cell is empty, or holds no finite number.
    """
    if name not in row.cells:
        raise ValueError(
            f"{table.source}, {row.place}: {name!r} has no value; fill it in, or pass epoch_column "
            "(--epoch-column) to average each epoch over the rows that have one"
        )
    cell = row.cells[name]
    try:
        number = float(cell) if is_number(cell) else math.nan
    except OverflowError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(
            f"{table.source}, {row.place}: {name!r} must be a finite number; got {str(cell)[:40]!r}"
        )
    return number
