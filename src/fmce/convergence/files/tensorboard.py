"""A loss curve from TensorBoard event files, for `fmce phases`. Needs the extra `tensorboard`, never torch."""

import difflib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fmce.console.log import logger
from fmce.convergence.files.curves import LossCurve, curve_of
from fmce.convergence.files.tables import Row, Table

_MARK = "tfevents"
_USUAL_TAGS = ("loss", "train_loss", "train/loss", "loss/train", "train_loss_epoch")
# Length and two checksums that the file format puts around each record.
_FRAME_BYTES = 16


class ScalarPoint(NamedTuple):
    """One value of a tag."""

    step: int
    value: float


def holds_events(source: Path) -> bool:
    """Return whether a path is an event file, or a folder with at least one in it or below."""
    if source.is_dir():
        return next(source.rglob(f"*{_MARK}*"), None) is not None
    return _MARK in source.name


def read_event_curve(
    source: Path,
    *,
    tag: str | None = None,
    epoch_tag: str | None = None,
    lr_tag: str | None = None,
) -> LossCurve:
    """Read the losses that a tag holds in the event files of a training.

    All event files of a folder count as one training, in the order in which they were begun. Where a
    training was restarted, and so its steps go back, what was written later holds from there on.

    Each point of the tag is one epoch, in the order of steps, whatever their distance. With
    `epoch_tag` the points of one epoch are averaged instead, unweighted.

    Args:
        source: an event file, or the folder of one training's.
        tag: scalar that holds the loss; one with a usual name, or the only one, by default.
        epoch_tag: scalar written at the same steps that holds the epoch, such as Lightning's `epoch`.
        lr_tag: scalar that holds the learning rate; at each step its latest value counts.

    Raises:
        ValueError: there are no event files, several trainings, or no such tag (those found are named);
            or the points make no curve, as in `curve_files.read_curve`.
        ModuleNotFoundError: tensorboard is not installed.
    """
    points = _latest(_scalars(_files(source)))
    if not points:
        raise ValueError(f"{source}: its event files hold no scalars; expected the loss as one")
    name = _loss_tag(source, list(points), tag)
    for other in filter(None, (epoch_tag, lr_tag)):
        _check_tag(source, list(points), other)
    # A scalar called "epoch" betrays a point per step, which must not pass for one per epoch.
    beside = epoch_tag or ("epoch" if "epoch" in points and name != "epoch" else None)
    rows = _rows(points, name, beside, lr_tag)
    columns = tuple(dict.fromkeys(filter(None, (name, beside, lr_tag))))
    return curve_of(Table(source, columns, rows), name, epoch_tag, lr_tag)


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


def _scalars(files: Sequence[Path]) -> Iterator[tuple[str, ScalarPoint]]:
    """Yield tags and points as they were written, the file begun first first."""
    loaded = [_events(path) for path in files]
    for events in sorted(loaded, key=lambda events: float(events[0].wall_time) if events else 0.0):
        for event in events:
            for value in event.summary.value:
                number = _number(value)
                if number is not None:
                    yield str(value.tag), ScalarPoint(int(event.step), number)


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
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    # The reader ends silently at what it cannot read.
    lost = size - sum(len(record) + _FRAME_BYTES for record in RawEventFileLoader(str(path)).Load())
    if lost > 0:
        logger.warning(
            f"{path}: its last {lost} of {size} bytes are cut short or damaged, and left out"
        )
    return list(EventFileLoader(str(path)).Load())


def _number(value: Any) -> float | None:
    """Return a scalar summary's value; None for histograms, images and texts."""
    from tensorboard.util import tensor_util

    if value.metadata.plugin_data.plugin_name != "scalars":
        return None
    array = tensor_util.make_ndarray(value.tensor)
    return float(array.reshape(-1)[0]) if array.size == 1 else None


def _latest(written: Iterator[tuple[str, ScalarPoint]]) -> dict[str, list[ScalarPoint]]:
    """Return each tag's points in the order of steps, less those that a restart wrote anew."""
    points: dict[str, list[ScalarPoint]] = {}
    for tag, point in written:
        kept = points.setdefault(tag, [])
        while kept and kept[-1].step >= point.step:
            kept.pop()
        kept.append(point)
    return points


def _loss_tag(source: Path, tags: Sequence[str], asked: str | None) -> str:
    if asked is not None:
        return _check_tag(source, tags, asked)
    named = {tag.lower(): tag for tag in reversed(tags)}
    for usual in _USUAL_TAGS:
        if usual in named:
            return named[usual]
    if len(tags) == 1:
        return tags[0]
    raise ValueError(
        f"{source}: which tag is the loss? Name it with tag (--tag), one of: {_listing(tags)}"
    )


def _check_tag(source: Path, tags: Sequence[str], name: str) -> str:
    if name in tags:
        return name
    near = difflib.get_close_matches(name, tags, n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise ValueError(f"{source}: has no scalar {name!r}; {hint}It has: {_listing(tags)}")


def _listing(tags: Sequence[str]) -> str:
    more = f" and {len(tags) - 20} more" if len(tags) > 20 else ""
    return ", ".join(sorted(tags)[:20]) + more


def _rows(
    points: dict[str, list[ScalarPoint]], name: str, epoch_tag: str | None, lr_tag: str | None
) -> list[Row]:
    """Return a row for each point of the loss, with what the other tags say at its step."""
    epochs = dict(points[epoch_tag]) if epoch_tag else {}
    rates = points[lr_tag] if lr_tag else []
    rate_steps = [step for step, _ in rates]
    rows = []
    for step, value in points[name]:
        cells: dict[str, object] = {name: value}
        if epoch_tag and step in epochs:
            cells[epoch_tag] = epochs[step]
        if lr_tag and (before := bisect_right(rate_steps, step)):
            cells[lr_tag] = rates[before - 1].value
        rows.append(Row(f"step {step}", cells))
    return rows
