"""Scalars of TensorBoard event files as a table, for `fmce phases`. Needs the extra `tensorboard`, never torch."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fmce.console.log import logger
from fmce.convergence.files.curves import CurveOptions, LossCurve, curve_of
from fmce.convergence.files.tables import Table
from fmce.convergence.files.writers import USUAL_LOSSES, spelled
from fmce.files import reading

_MARK = "tfevents"
# Length and two checksums that the file format puts around each record.
_FRAME_BYTES = 16


def holds_events(source: Path) -> bool:
    """Return whether a path is an event file, or a folder with at least one in it or below."""
    if source.is_dir():
        return next(source.rglob(f"*{_MARK}*"), None) is not None
    return _MARK in source.name


def read_event_curve(
    source: Path,
    options: CurveOptions = CurveOptions(),  # noqa: B008 (frozen, so one instance may be shared)
) -> LossCurve:
    """Read the losses that a tag holds in the event files of a training.

    All event files of a folder count as one training, in the order in which they were begun. Tags of folders below
    it (`add_scalars` makes them) are searched where the folder's own do not decide, as "FOLDER/TAG".

    A scalar that holds epochs makes averages of the points of each; else each point is an epoch. What else holds of
    a curve is in `curves.read_curve`.

    Args:
        source: An event file, or the folder of one training's.
        options: Names of the tags, and which points count.

    Raises:
        ValueError: If there are no event files, several trainings, or no such tag (those found are named);
            or the points make no curve, as in `read_curve`.
        ModuleNotFoundError: If tensorboard is not installed.
    """
    return curve_of(read_events(source, options), options)


def read_events(source: Path, options: CurveOptions) -> Table:
    """Return the scalars of a training as a table: a row a step, a column a tag; see `read_event_curve`."""
    files = _files(source)
    home = files[0].parent
    rows = _rows(dict.fromkeys(files, ""))
    tags = {tag for row in rows for tag in row}
    below = sorted({*home.rglob(f"*{_MARK}*")} - {*files}) if source.is_dir() else []
    folders = {path: path.parent.relative_to(home).as_posix() for path in below}
    elsewhere = tuple(dict.fromkeys(folders.values()))
    decided = options.column in tags if options.column else {*map(spelled, tags)} & {*USUAL_LOSSES}
    notes = []
    if elsewhere and not decided:
        rows = _rows(dict.fromkeys(files, "") | {p: f"{name}/" for p, name in folders.items()})
    elif elsewhere:
        notes.append(f"event files in {', '.join(elsewhere[:5])} are passed over")
        elsewhere = ()
    if not rows:
        raise ValueError(
            f"{source}: its event files hold no scalars; log the loss as one with add_scalar"
        )
    import pandas as pd

    frame = pd.DataFrame(rows)
    part, title = frame.pop("part"), "TensorBoard event files"
    return Table(source, frame, "point", title, None, notes, part, elsewhere)


def _files(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    here = sorted(path for path in source.glob(f"*{_MARK}*") if path.is_file())
    if here:
        return here
    below = sorted({str(path.parent) for path in source.rglob(f"*{_MARK}*")})
    if len(below) == 1:
        return _files(Path(below[0]))
    found = f"name one of {', '.join(below[:10])}" if below else "it holds none"
    raise ValueError(f"{source}: expected the event files of one training; {found}")


def _rows(files: Mapping[Path, str]) -> list[dict[str, Any]]:
    """Return the scalars as they were written, the file begun first first; tags of one step share a row.

    Args:
        files: What stands before the tags of each.
    """
    loaded = [(prefix, _events(path)) for path, prefix in files.items()]
    loaded.sort(key=lambda pair: float(pair[1][0].wall_time) if pair[1] else 0.0)
    rows: list[dict[str, Any]] = []
    for part, (prefix, events) in enumerate(loaded):
        for event in events:
            for value in event.summary.value:
                scalar = _number(value)
                if scalar is None:
                    continue
                row, tag = {"part": part, "step": int(event.step)}, f"{prefix}{value.tag}"
                if not rows or tag in rows[-1] or rows[-1].items() & row.items() != row.items():
                    rows.append(row)
                # As text, NaN is no missing value.
                rows[-1][tag] = scalar if math.isfinite(scalar) else str(scalar)
    return rows


def _events(path: Path) -> list[Any]:
    try:
        from tensorboard.backend.event_processing.event_file_loader import (
            EventFileLoader,
            RawEventFileLoader,
        )
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "reading TensorBoard event files needs the package tensorboard; install fmce[tensorboard]"
        ) from error
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ValueError(f"{path}: expected an event file, got: {error.strerror}") from error
    # The reader ends silently at what it cannot read.
    with reading(path, "TensorBoard's events"):
        records = RawEventFileLoader(str(path)).Load()
        lost = size - sum(len(record) + _FRAME_BYTES for record in records)
        events = list(EventFileLoader(str(path)).Load())
    if lost > 0:
        logger.warning(
            f"{path}: its last {lost} of {size} bytes are cut short or damaged, and left out"
        )
    return events


def _number(value: Any) -> float | None:
    """Return a scalar summary's value; None for histograms, images and texts."""
    from tensorboard.util import tensor_util

    if value.metadata.plugin_data.plugin_name != "scalars":
        return None
    # A few bytes may claim any shape, which would be filled.
    if any(dimension.size != 1 for dimension in value.tensor.tensor_shape.dim):
        return None
    try:
        array = tensor_util.make_ndarray(value.tensor)
    except (TypeError, ValueError):  # of a kind that holds no number
        return None
    return float(array.reshape(-1)[0]) if array.size == 1 else None
