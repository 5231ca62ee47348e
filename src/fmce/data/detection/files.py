"""Labelled images for detection, whatever format their boxes came in; checked before they are used.

A format's reader gives raw boxes with the file's own class names; here they meet their images, and
boxes that cannot be right are named. Resizing is not done here.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fmce.data.detection.boxes import ImageBoxes, crop_boxes, pack_boxes, unpack_boxes
from fmce.data.detection.labels import Classes, RawLabels, by_stem
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

UnannotatedImages = Literal["empty", "skip", "error"]
# Annotators and inclusive ends go past the edge by about this much; such boxes are cut, not refused.
_TOLERANCE_PIXELS = 2.0


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

    def renumbered(self, class_names: Sequence[str], *, drop: bool = False) -> "DetectionFiles":
        """Return the set with the class ids of other names, such as those of the training images.

        Args:
            class_names: Names of the ids, all of this set's among them.
            drop: Whether boxes of other classes are left out instead.

        Raises:
            ValueError: Not all of this set's classes are among them, and `drop` is False.
        """
        if not drop and not set(self.class_names) <= set(class_names):
            raise ValueError(
                f"{self.name} has the classes {', '.join(self.class_names)}, but the training images have "
                f"{', '.join(class_names)}; name those that both have (data.class_names)."
            )
        to = [class_names.index(n) if n in class_names else -1 for n in self.class_names]
        return DetectionFiles(
            self.image_paths,
            [_relabelled(boxes, np.array(to)) for boxes in self.boxes],
            class_names,
            name=self.name,
            max_failure_rate=self.failures.max_rate,
        )

    def require_boxes(self) -> None:
        """Refuse a set in which there is nothing to find.

        Raises:
            ValueError: No image has a box that is not to be ignored.
        """
        if all(boxes.ignored.all() for boxes in self.boxes):
            ignored = sum(len(boxes.ignored) for boxes in self.boxes)
            raise ValueError(
                f"{self.name}: expected boxes to find in {len(self)} images, got none and {ignored} to be "
                "ignored; are the labels where they belong, and of these classes?"
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
    unannotated: UnannotatedImages = "empty",
    exclude: Path | str | Iterable[str] = (),
    max_failure_rate: float = 0.01,
) -> DetectionFiles:
    """Put images and their raw boxes together.

    Args:
        images: Folder of images, or the files.
        labels: Raw boxes by stem.
        classes: What becomes of the files' class names.
        name: What the set is called in messages.
        unannotated: What to do with an image that has no annotation, or null for one: take it as an
            image without objects ("empty", as BDD100K's evaluation does), leave it out ("skip") or
            refuse the set ("error").
        exclude: Stems to leave out: a text file with one a line, or an iterable.
        max_failure_rate: Share of failed reads, in [0, 1], above which reading raises.

    Raises:
        ValueError: Class names are unknown, two images have one stem, annotations are missing,
            labels have no image, or nothing is left.
    """
    found = list_images(images, IMAGE_SUFFIXES) if isinstance(images, Path) else list(images)
    left_out = read_stems(exclude)
    files = by_stem(((str(p), p) for p in found if stem_of(p.name) not in left_out), name)
    alone = sorted(labels.keys() - files.keys() - left_out)
    if alone:
        raise ValueError(
            f"{name}: labels of {first_names(alone)} have no image; exclude these stems."
        )
    classes.refuse_unknown(labels, name)
    bare = [stem for stem in files if labels.get(stem) is None]
    if bare and unannotated == "error":
        raise ValueError(
            f"{name}: {len(bare)} images have no annotation, {first_names(bare)}; take them as "
            "images without objects (unannotated='empty') or leave them out ('skip')."
        )
    taken = [stem for stem in files if unannotated != "skip" or labels.get(stem) is not None]
    return DetectionFiles(
        [files[stem] for stem in taken],
        [classes.to_boxes(labels.get(stem) or ()) for stem in taken],
        classes.names,
        name=name,
        max_failure_rate=max_failure_rate,
    )


def _relabelled(boxes: ImageBoxes, to: NDArray[np.int64]) -> ImageBoxes:
    """Return boxes with `to`'s class ids; those of id −1 are left out."""
    labels = to[boxes.labels]
    keep = labels >= 0
    return ImageBoxes(boxes.boxes[keep], labels[keep], boxes.ignored[keep])
