"""A scorer on disk: JSON with its digest, its tables rounded to what they carry."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fmce.digests import read_record, write_record
from fmce.files import reading
from fmce.scoring.intervals import Offsets
from fmce.scoring.monotone import MonotoneTable

_FORMAT = 1
_REMEDY = "fit and save it again, or install fmce again"


def write_scorer(
    path: Path,
    tables: Mapping[str, Mapping[str, MonotoneTable]],
    offsets: Mapping[str, Mapping[str, Offsets]],
    card: Mapping[str, Any],
) -> None:
    """Write a scorer's parts, atomically."""
    fields = {
        "format": _FORMAT,
        "card": dict(card),
        "tables": {
            key: {name: [_rounded(t.x), _rounded(t.y)] for name, t in one.items()}
            for key, one in tables.items()
        },
        "offsets": {
            key: {
                name: [_rounded(o.at), _rounded(o.low), _rounded(o.high)] for name, o in one.items()
            }
            for key, one in offsets.items()
        },
    }
    write_record(path, fields, indent=None)


def read_scorer(
    path: Path,
) -> tuple[dict[str, dict[str, MonotoneTable]], dict[str, dict[str, Offsets]], dict[str, Any]]:
    """Read tables, offsets and training card.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If it is damaged, or no scorer.
    """
    fields = read_record(path, ("format", "card", "tables", "offsets"), _REMEDY)
    if fields["format"] != _FORMAT:
        raise ValueError(f"{path} has format {fields['format']}, expected {_FORMAT}; {_REMEDY}")
    with reading(path, "a scorer", _REMEDY):
        tables = {
            key: {name: MonotoneTable(*_ascending(parts)) for name, parts in one.items()}
            for key, one in fields["tables"].items()
        }
        offsets = {
            key: {name: Offsets(*_ascending(parts)) for name, parts in one.items()}
            for key, one in fields["offsets"].items()
        }
    return tables, offsets, fields["card"]


def _rounded(values: Any) -> list[float]:
    return [float(f"{v:.5g}") for v in values]


def _ascending(parts: Any) -> list[np.ndarray[Any, Any]]:
    """Return columns of equal length whose first ascends, as float arrays."""
    columns = [np.asarray(part, dtype=np.float64) for part in parts]
    lengths = {column.shape for column in columns}
    if len(lengths) != 1 or not np.isfinite(columns).all() or (np.diff(columns[0]) < 0).any():
        raise ValueError("columns of unequal length, or knots that do not ascend")
    return columns
