"""Labels for detection as in the files: raw boxes by the stems of their images, and class names.

The readers of all formats share this form; here the names become class ids.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from fmce.data.detection.boxes import ImageBoxes, image_boxes
from fmce.data.image_files import first_names, stem_of
from fmce.files import read_text

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


RawLabels = Mapping[str, Sequence[RawBox] | None]
"""Raw boxes by stem of the image; None where the file lists the image without annotation."""


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
            for stem, rows in labels.items()
            for row in rows or ()
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


def read_label_text(path: Path) -> str:
    """Read a file of labels.

    Raises:
        ValueError: If it cannot be read or is not UTF-8.
    """
    try:
        return read_text(path, "labels")
    except OSError as error:
        raise ValueError(str(error)) from error
