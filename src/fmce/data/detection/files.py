"""Labelled images for detection, whatever the format of their boxes; checked before they are used.

The reader of a format gives raw boxes with the class names of the file; here they meet their images, and
errors name boxes that cannot be right. Resizing happens elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from fmce.console.log import logger
from fmce.data.detection.boxes import ImageBoxes, crop_image_boxes
from fmce.data.detection.labels import Classes, RawImage, RawLabels, by_stem
from fmce.data.image_files import Stems, first_names, list_images, read_stems, stem_of
from fmce.data.image_reader import DAMAGE_ERRORS, ImageArray, image_size, read_rgb
from fmce.data.labelled_files import LabelledFiles

Unannotated = Literal["empty", "skip", "error"]
# Annotators and inclusive ends exceed the edge by about this much; such boxes are cut, not refused.
_TOLERANCE_PIXELS = 2.0


class BoxedImage(NamedTuple):
    """An image uint8 (H,W,3) and its boxes, cut at its edges."""

    image: ImageArray
    boxes: ImageBoxes


@dataclass(eq=False, kw_only=True)
class DetectionFiles(LabelledFiles[BoxedImage]):
    """Images and their boxes.

    Attributes:
        boxes: Boxes of each image, as in its file.
        stated_sizes: Width and height of each image as its label file states them, else None.
    """

    boxes: Sequence[ImageBoxes]
    stated_sizes: Sequence[tuple[int, int] | None]
    per_image: ClassVar[tuple[str, ...]] = ("image_paths", "boxes", "stated_sizes")

    def read(self, index: int) -> BoxedImage:
        """Decode an image and cut its boxes at its edges; errors as in `LabelledFiles.read`."""
        image = read_rgb(self.image_paths[index])
        return BoxedImage(image, crop_image_boxes(self.boxes[index], *image.shape[:2]))

    def renumbered(self, class_names: Sequence[str], *, drop: bool = False) -> "DetectionFiles":
        """Return the set with the class ids of other names, such as those of the training images.

        Args:
            class_names: Names of the ids, including all of this set's classes.
            drop: Whether boxes of other classes are left out instead.

        Raises:
            ValueError: If `class_names` lacks a class of this set, and `drop` is False.
        """
        if not drop and not set(self.class_names) <= set(class_names):
            raise ValueError(
                f"{self.name} has the classes {', '.join(self.class_names)}, but the training images have "
                f"{', '.join(class_names)}; name those that both have (data.class_names)"
            )
        to = [class_names.index(n) if n in class_names else -1 for n in self.class_names]
        boxes = [_relabelled(boxes, np.array(to)) for boxes in self.boxes]
        return self._with(boxes=boxes, class_names=class_names)

    def require_boxes(self) -> None:
        """Refuse a set in which there is nothing to find.

        Raises:
            ValueError: If no image has a box that counts.
        """
        if all(boxes.ignored.all() for boxes in self.boxes):
            ignored = sum(len(boxes.ignored) for boxes in self.boxes)
            raise ValueError(
                f"{self.name}: expected boxes to find in {len(self)} images, got none and {ignored} to be "
                "ignored; check the place of the labels and their classes"
            )

    def check(self) -> dict[str, int]:
        """Refuse labels that cannot be right; only the header of each image is read.

        Returns:
            Boxes by class name, ignored ones under "ignored".

        Raises:
            ValueError: If boxes are inverted, empty or outside their image, or an image has another size than its
                label file states; the message names the first.
        """
        problems = [p for i in range(len(self)) for p in self._problems(i)]
        if problems:
            raise ValueError(
                f"{self.name}, {len(problems)} labels are wrong: "
                f"{first_names(problems, separator='; ')}"
            )
        labels = np.concatenate([b.labels[~b.ignored] for b in self.boxes])
        counts = np.bincount(labels, minlength=len(self.class_names)).tolist()
        ignored = sum(int(b.ignored.sum()) for b in self.boxes)
        return dict(zip(self.class_names, counts, strict=True)) | {"ignored": ignored}

    def _problems(self, index: int) -> list[str]:
        path = self.image_paths[index]
        try:
            width, height = image_size(path)
        except DAMAGE_ERRORS:
            return []  # counted when it is read
        stated = self.stated_sizes[index]
        if stated is not None and stated != (width, height):
            turned = (
                "; the labels may have been made without regard to its EXIF orientation"
                if stated == (height, width)
                else ""
            )
            return [
                f"{path} is {width}×{height}, its labels are for {stated[0]}×{stated[1]} "
                f"(width × height){turned}; take the images that were labelled, or scale the boxes"
            ]
        found = []
        for box in self.boxes[index].boxes.tolist():
            x1, y1, x2, y2 = box
            shown = f"{path.name}: {[round(v, 2) for v in box]}"
            if not (np.isfinite(box).all() and x1 < x2 and y1 < y2):
                found.append(f"{shown} is empty or inverted (x1 < x2 and y1 < y2 expected)")
            elif min(x1, y1, width - x2, height - y2) < -_TOLERANCE_PIXELS:
                found.append(f"{shown} is outside the image of {width}×{height} (width × height)")
        return found


class JoinOptions(TypedDict, total=False):
    """Options of `join_labels`, and so of every reader.

    Attributes:
        unannotated: What to do with an image that has no annotation, or null for one: take it as an image
            without objects ("empty", the default, as BDD100K's evaluation does), leave it out ("skip")
            or refuse the set ("error").
        exclude: Images to leave out.
    """

    unannotated: Unannotated
    exclude: Stems


def join_labels(
    images: Path | Sequence[Path],
    labels: RawLabels,
    classes: Classes,
    *,
    name: str,
    **options: Unpack[JoinOptions],
) -> DetectionFiles:
    """Join images and their raw boxes.

    Args:
        images: Folder of images, or the files.
        labels: What the label files say.
        classes: What becomes of the class names in the files.
        name: What messages call the set.
        options: See `JoinOptions`.

    Raises:
        ValueError: If class names are unknown, two images have one stem, annotations are missing,
            labels have no image, or nothing is left.
    """
    found = list_images(images) if isinstance(images, Path) else list(images)
    left_out, unannotated = read_stems(options.get("exclude", ())), options.get("unannotated")
    files = by_stem(((str(p), p) for p in found if stem_of(p.name) not in left_out), name)
    alone = sorted(labels.keys() - files.keys() - left_out)
    if alone:
        raise ValueError(
            f"{name}: labels of {first_names(alone)} have no image; exclude these stems"
        )
    classes.refuse_unknown(labels, name)
    raw = {stem: labels.get(stem, RawImage(None)) for stem in files}
    bare = [stem for stem, image in raw.items() if image.boxes is None]
    if bare and unannotated == "error":
        raise ValueError(
            f"{name}: {len(bare)} images have no annotation, {first_names(bare)}; take them as "
            "images without objects (unannotated='empty') or leave them out ('skip')"
        )
    if bare:
        fate = "are left out" if unannotated == "skip" else "count as images without objects"
        logger.info(
            "%s: %d of %d images have no annotation and %s", name, len(bare), len(raw), fate
        )
    taken = [
        stem for stem, image in raw.items() if unannotated != "skip" or image.boxes is not None
    ]
    return DetectionFiles(
        name=name,
        image_paths=[files[stem] for stem in taken],
        boxes=[classes.to_boxes(raw[stem].boxes or ()) for stem in taken],
        stated_sizes=[raw[stem].size for stem in taken],
        class_names=classes.names,
    )


def _relabelled(boxes: ImageBoxes, to: NDArray[np.int64]) -> ImageBoxes:
    """Return boxes with the class ids `to` (C,); those of id −1 are left out."""
    labels = to[boxes.labels]
    keep = labels >= 0
    return ImageBoxes(boxes.boxes[keep], labels[keep], boxes.ignored[keep])
