"""Labels for detection as in the files: raw boxes by the stems of their images, and class names.

The readers of all formats share this form; here the names become class ids.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from fmce.data.detection.boxes import ImageBoxes, image_boxes
from fmce.data.image_files import first_names, list_images, stem_of
from fmce.files import read_json, read_text

_T = TypeVar("_T")
EVERY_CLASS = "*"  # class of a region in which nothing counts


class RawBox(NamedTuple):
    """A box as in the file.

    Attributes:
        category: Class name in the file.
        box: x1, y1, x2, y2 in pixels, x2 and y2 exclusive.
        ignored: Whether it is a region to be ignored.
    """

    category: str
    box: tuple[float, float, float, float]
    ignored: bool = False


class RawImage(NamedTuple):
    """What a label file says of an image.

    Attributes:
        boxes: Its boxes; None where the file lists it without annotation.
        size: Width and height in pixels, where the file states them.
    """

    boxes: Sequence[RawBox] | None
    size: tuple[int, int] | None = None


RawLabels = Mapping[str, RawImage]
"""What files say of images, by stem."""


@dataclass(frozen=True)
class Classes:
    """What becomes of the class names in files.

    Attributes:
        names: The classes, id 0 first, all different.
        renames: Other name → class.
        ignored: Name → class for which its boxes are ignored regions.
        dropped: Names that are no classes here.
    """

    names: tuple[str, ...]
    renames: Mapping[str, str] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"expected different class names, got {', '.join(self.names)}")

    def knows(self, category: str) -> bool:
        """Return whether a name is a class, another name of one, ignored or dropped."""
        known = (self.names, self.renames, self.ignored, self.dropped, (EVERY_CLASS,))
        return any(category in names for names in known)

    def refuse_unknown(self, labels: RawLabels, where: str) -> None:
        """Refuse raw boxes of unknown classes.

        Raises:
            ValueError: If there are any; the message names the first.
        """
        wrong = [
            f"{stem}: {row.category!r}"
            for stem, image in labels.items()
            for row in image.boxes or ()
            if not self.knows(row.category)
        ]
        if wrong:
            raise ValueError(
                f"{where}: {len(wrong)} boxes have an unknown class, {first_names(wrong)}; known are "
                f"{', '.join(self.names)}"
            )

    def to_boxes(self, raw: Iterable[RawBox]) -> ImageBoxes:
        """Convert raw boxes of known names to the boxes of an image."""
        boxes, labels, ignored = [], [], []
        for category, box, crowd in raw:
            if category in self.dropped:
                continue
            name = self.ignored.get(category, self.renames.get(category, category))
            which = self.names if name == EVERY_CLASS else (name,)
            boxes += [box] * len(which)
            labels += [self.names.index(n) for n in which]
            ignored += [crowd or category in self.ignored or name == EVERY_CLASS] * len(which)
        return image_boxes(boxes, labels, ignored)


def stated_size(width: Any, height: Any) -> tuple[int, int] | None:
    """Return width and height as a file states them; None where it does not, or with 0.

    >>> stated_size("640", 360.0), stated_size(None, 360), stated_size(0, 0)
    ((640, 360), None, None)
    """
    try:
        size = round(float(width)), round(float(height))
    except (TypeError, ValueError, OverflowError):
        return None
    return size if min(size) > 0 else None


def is_flagged(value: Any) -> bool:
    """Return whether an attribute is set: true, a number other than 0, or their text.

    >>> [is_flagged(value) for value in (True, 1, "true", "1", False, None, "0", "False", "")]
    [True, True, True, True, False, False, False, False, False]
    """
    if isinstance(value, str):
        return value.strip().lower() not in ("", "0", "false", "no", "none", "null")
    return bool(value)


def by_stem(named: Iterable[tuple[str, _T]], where: str) -> dict[str, _T]:
    """Return values by the stems of their images, as labels and leak rules use stems.

    Args:
        named: Paths of images, and a value for each.
        where: Where they come from, for the message.

    Raises:
        ValueError: If two images have one stem.
    """
    values: dict[str, _T] = {}
    names: dict[str, str] = {}
    for name, value in named:
        stem = stem_of(name)
        if stem in names:
            raise ValueError(
                f"{where}: expected one image per name, got {names[stem]} and {name}; rename one of "
                "them, or leave one out"
            )
        names[stem], values[stem] = name, value
    return values


def read_label_json(path: Path) -> Any:
    """Read a JSON file of labels.

    Raises:
        ValueError: If it cannot be read or is no JSON.
    """
    try:
        return read_json(path)
    except OSError as error:
        raise ValueError(str(error)) from error


def read_label_text(path: Path) -> str:
    """Read a file of labels.

    Raises:
        ValueError: If it cannot be read or is not UTF-8.
    """
    try:
        return read_text(path, "labels")
    except OSError as error:
        raise ValueError(str(error)) from error


def by_place(folder: Path, ending: str) -> dict[str, Path]:
    """Return the label files of a folder by their place in it without ending, which may be in capitals."""
    if not folder.is_dir():
        raise ValueError(f"expected a folder of labels at {folder}, found none")
    return {place(path, folder): path for path in list_images(folder, (ending,))}


def place(path: Path, folder: Path) -> str:
    """Return the path of a file below a folder, without ending, as labels and images share it."""
    return path.relative_to(folder).with_suffix("").as_posix()


def numbers(fields: Sequence[Any], count: int, where: str) -> list[float]:
    """Return `count` fields of a box as numbers; `where` names them in the error."""
    try:
        values = [float(value) for value in fields]
    except (OverflowError, TypeError, ValueError):
        values = []
    if len(values) != count:
        raise ValueError(
            f"expected {count} numbers of a box in {where}, got {fields}; correct that line"
        )
    return values
