"""Labelled images for detection, whatever format their boxes came in; checked before they are used.

A format's reader gives raw boxes with the file's own class names; here the names become class ids,
and boxes that cannot be right are named. Resizing is not done here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from fmce.data.boxes import ImageBoxes, crop_boxes, image_boxes, pack_boxes, unpack_boxes
from fmce.data.image_files import (
    DAMAGE_ERRORS,
    IMAGE_SUFFIXES,
    ImageArray,
    ReadFailures,
    first_names,
    list_images,
    read_or_substitute,
    read_rgb,
    read_stems,
    stem_of,
)

Missing = Literal["empty", "skip", "error"]
EVERY_CLASS = "*"  # of a region in which nothing counts, whatever its class
# Annotators and inclusive ends go past the edge by about this much; such boxes are cut, not refused.
_TOLERANCE_PIXELS = 2.0


class RawBox(NamedTuple):
    """A box as a file has it.

    category: the file's name of the class. box: x1, y1, x2, y2, x2 and y2 exclusive. ignored: whether
    it is a region to be ignored.
    """

    category: str
    box: tuple[float, float, float, float]
    ignored: bool = False


RawLabels = Mapping[str, Sequence[RawBox] | None]
"""By stem of the image; None where the file names the image and gives no annotation."""


@dataclass(frozen=True)
class Classes:
    """What becomes of the class names in files.

    names: the classes, id 0 first.
    renames: other names for them.
    ignored: names whose boxes are regions to ignore for the class given.
    dropped: names that are no classes here.
    """

    names: tuple[str, ...]
    renames: Mapping[str, str] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()

    def knows(self, category: str) -> bool:
        """Tell whether a name is a class, another name of one, ignored or dropped."""
        known = (self.names, self.renames, self.ignored, self.dropped, (EVERY_CLASS,))
        return any(category in names for names in known)

    def to_boxes(self, raw: Iterable[RawBox]) -> ImageBoxes:
        """Turn raw boxes of known names into an image's boxes."""
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


class BoxedImage(NamedTuple):
    """An image uint8 (H, W, 3) and its boxes, cut at its edges."""

    image: ImageArray
    boxes: ImageBoxes


class DetectionFiles:
    """Images and their boxes; images are read on access, for a damaged one the next stands in.

    Attributes:
        name: What the set is called in messages.
        image_paths: Files, in order.
        boxes: Of each image, as in its file.
        class_names: Names of the class ids 0 … C − 1.
    """

    def __init__(
        self,
        image_paths: Sequence[Path],
        boxes: Sequence[ImageBoxes],
        class_names: Sequence[str],
        *,
        name: str,
        max_failure_rate: float = 0.01,
    ) -> None:
        """Keep files and boxes; no image is read yet.

        Args:
            image_paths: Images, at least one.
            boxes: Of each image.
            class_names: Names of the ids.
            name: What the set is called in messages.
            max_failure_rate: Share of failed reads, in [0, 1], above which reading raises.

        Raises:
            ValueError: No image.
        """
        if not image_paths:
            raise ValueError(f"{name}: expected at least one image with labels, found none.")
        self.name, self.class_names = name, tuple(class_names)
        self.image_paths, self.boxes = tuple(image_paths), tuple(boxes)
        self.failures = ReadFailures(len(self.image_paths), max_rate=max_failure_rate)

    def __len__(self) -> int:
        return len(self.image_paths)

    @property
    def stems(self) -> tuple[str, ...]:
        """Stems of the images, in order."""
        return tuple(stem_of(path.name) for path in self.image_paths)

    @property
    def damaged(self) -> tuple[str, ...]:
        """Images that could not be read so far."""
        return tuple(str(self.image_paths[i]) for i in self.failures.failed_items)

    def __getitem__(self, index: int) -> BoxedImage:
        """Read one item, or the next readable one in its place.

        Raises:
            IndexError: The index is out of range.
            UnreadableDataError: More reads than the set rate failed.
        """
        return read_or_substitute(
            index, len(self), self._read, self.failures, lambda i: str(self.image_paths[i])
        )

    def _read(self, index: int) -> BoxedImage:
        image = read_rgb(self.image_paths[index])
        (cut,) = unpack_boxes(crop_boxes(pack_boxes([self.boxes[index]]), *image.shape[:2]))
        return BoxedImage(
            image, ImageBoxes(*(cut[name].numpy() for name in ("boxes", "labels", "ignored")))
        )

    def tolerating(self, max_failure_rate: float) -> "DetectionFiles":
        """Return the set with another share of reads that may fail, and counts of its own."""
        return DetectionFiles(
            self.image_paths,
            self.boxes,
            self.class_names,
            name=self.name,
            max_failure_rate=max_failure_rate,
        )

    def select(self, indices: Iterable[int]) -> "DetectionFiles":
        """Return the set of the given items, with counts of its own."""
        chosen = list(indices)
        return DetectionFiles(
            [self.image_paths[i] for i in chosen],
            [self.boxes[i] for i in chosen],
            self.class_names,
            name=self.name,
            max_failure_rate=self.failures.max_rate,
        )

    def check(self) -> dict[str, int]:
        """Refuse boxes that cannot be right; of each image only the header is read.

        Returns:
            Boxes by class name, ignored ones under "ignored".

        Raises:
            ValueError: Boxes are inverted, empty or outside their image; the first are named.
        """
        problems = [p for i in range(len(self)) for p in self._problems(i)]
        if problems:
            raise ValueError(
                f"{self.name}, {len(problems)} boxes are wrong: "
                f"{first_names(problems, separator='; ')}"
            )
        labels = np.concatenate([b.labels[~b.ignored] for b in self.boxes])
        counts = np.bincount(labels, minlength=len(self.class_names)).tolist()
        ignored = sum(int(b.ignored.sum()) for b in self.boxes)
        return dict(zip(self.class_names, counts, strict=True)) | {"ignored": ignored}

    def _problems(self, index: int) -> list[str]:
        path, boxes = self.image_paths[index], self.boxes[index].boxes
        try:
            with Image.open(path) as image:
                width, height = image.size
        except DAMAGE_ERRORS:
            return []  # counted when it is read
        said = []
        for box in boxes.tolist():
            x1, y1, x2, y2 = box
            shown = f"{path.name}: {[round(v, 2) for v in box]}"
            if not (np.isfinite(box).all() and x1 < x2 and y1 < y2):
                said.append(f"{shown} is empty or inverted (x1 < x2 and y1 < y2 expected)")
            elif not (
                min(x1, y1) >= -_TOLERANCE_PIXELS
                and x2 <= width + _TOLERANCE_PIXELS
                and y2 <= height + _TOLERANCE_PIXELS
            ):
                said.append(f"{shown} is outside the image of {width}×{height} (width × height)")
        return said


def join_labels(
    images: Path | Sequence[Path],
    labels: RawLabels,
    classes: Classes,
    *,
    name: str,
    missing: Missing = "empty",
    exclude: Path | str | Iterable[str] = (),
    max_failure_rate: float = 0.01,
) -> DetectionFiles:
    """Put images and their raw boxes together.

    Args:
        images: Folder of images, or the files.
        labels: Raw boxes by stem.
        classes: What becomes of the files' class names.
        name: What the set is called in messages.
        missing: What to do with an image that has no annotation, or null for one: take it as an
            image without objects ("empty", as BDD100K's evaluation does), leave it out ("skip") or
            refuse the set ("error").
        exclude: Stems to leave out: a text file with one a line, or an iterable.
        max_failure_rate: Share of failed reads, in [0, 1], above which reading raises.

    Raises:
        ValueError: Class names are unknown, annotations are missing, labels have no image, or
            nothing is left.
    """
    found = list_images(images, IMAGE_SUFFIXES) if isinstance(images, Path) else list(images)
    left_out = read_stems(exclude)
    files = {stem_of(p.name): p for p in found if stem_of(p.name) not in left_out}
    alone = sorted(labels.keys() - files.keys() - left_out)
    if alone:
        raise ValueError(
            f"{name}: labels of {first_names(alone)} have no image; exclude these stems."
        )
    _refuse_unknown(labels, classes, name)
    bare = [stem for stem in files if labels.get(stem) is None]
    if bare and missing == "error":
        raise ValueError(
            f"{name}: {len(bare)} images have no annotation, {first_names(bare)}; take them as "
            "images without objects (missing='empty') or leave them out ('skip')."
        )
    taken = [stem for stem in files if missing != "skip" or labels.get(stem) is not None]
    return DetectionFiles(
        [files[stem] for stem in taken],
        [classes.to_boxes(labels.get(stem) or ()) for stem in taken],
        classes.names,
        name=name,
        max_failure_rate=max_failure_rate,
    )


def _refuse_unknown(labels: RawLabels, classes: Classes, name: str) -> None:
    wrong = [
        f"{stem}: {row.category!r}"
        for stem, rows in labels.items()
        for row in rows or ()
        if not classes.knows(row.category)
    ]
    if wrong:
        raise ValueError(
            f"{name}: {len(wrong)} boxes are of unknown class, {first_names(wrong)}; known are "
            f"{', '.join(classes.names)}."
        )
