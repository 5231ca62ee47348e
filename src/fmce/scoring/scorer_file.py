"""A scorer on disk: JSON with its digest, its tables to the last digit, since knots may lie close together."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fmce.digests import read_record, write_record
from fmce.files import reading
from fmce.scoring.intervals import Offsets
from fmce.scoring.monotone import MonotoneTable
from fmce.scoring.outlook import Outlook

_FORMAT = 1
_REMEDY = "fit and save it again, or install fmce again"


def write_scorer(
    path: Path,
    tables: Mapping[str, Mapping[str, MonotoneTable]],
    offsets: Mapping[str, Mapping[str, Offsets]],
    outlooks: Mapping[str, Outlook],
    card: Mapping[str, Any],
) -> None:
    """Write a scorer's parts, atomically."""
    fields = {
        "format": _FORMAT,
        "card": dict(card),
        "tables": {
            key: {name: [_floats(t.x), _floats(t.y)] for name, t in one.items()}
            for key, one in tables.items()
        },
        "offsets": {key: _plain_offsets(one) for key, one in offsets.items()},
        "outlooks": {
            key: {
                "weights": {name: _floats(w) for name, w in one.weights.items()},
                "offsets": _plain_offsets(one.offsets),
            }
            for key, one in outlooks.items()
        },
    }
    write_record(path, fields, indent=None)


def read_scorer(
    path: Path,
) -> tuple[
    dict[str, dict[str, MonotoneTable]],
    dict[str, dict[str, Offsets]],
    dict[str, Outlook],
    dict[str, Any],
]:
    """Read tables, offsets, outlooks and training card.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If it is damaged, or no scorer.
    """
    fields = read_record(path, ("format", "card", "tables", "offsets", "outlooks"), _REMEDY)
    if fields["format"] != _FORMAT:
        raise ValueError(f"{path} has format {fields['format']}, expected {_FORMAT}; {_REMEDY}")
    with reading(path, "a scorer", _REMEDY):
        tables = {
            key: {name: MonotoneTable(*_ascending(parts)) for name, parts in one.items()}
            for key, one in fields["tables"].items()
        }
        offsets = {key: _offsets(one) for key, one in fields["offsets"].items()}
        outlooks = {
            key: Outlook(
                {name: np.asarray(w, dtype=np.float64) for name, w in one["weights"].items()},
                _offsets(one["offsets"]),
            )
            for key, one in fields["outlooks"].items()
        }
        if not (tables.keys() <= offsets.keys() and all(offsets.values())):
            raise ValueError("tables without offsets")
    return tables, offsets, outlooks, fields["card"]


def _plain_offsets(offsets: Mapping[str, Offsets]) -> dict[str, list[list[float]]]:
    return {n: [_floats(o.at), _floats(o.low), _floats(o.high)] for n, o in offsets.items()}


def _offsets(parts: Mapping[str, Any]) -> dict[str, Offsets]:
    return {name: Offsets(*_ascending(columns)) for name, columns in parts.items()}


def _floats(values: Any) -> list[float]:
    return [float(v) for v in values]


def _ascending(parts: Any) -> list[np.ndarray[Any, Any]]:
    """Return columns of equal length whose first ascends, as float arrays."""
    columns = [np.asarray(part, dtype=np.float64) for part in parts]
    lengths = {column.shape for column in columns}
    if len(lengths) != 1 or not np.isfinite(columns).all() or (np.diff(columns[0]) < 0).any():
        raise ValueError("columns of unequal length, or knots that do not ascend")
    return columns
