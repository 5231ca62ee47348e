"""BDD100K's detection labels in Scalabel's JSON: reading all releases, writing official predictions.

Boxes in these files are inclusive: their width is x2 − x1 + 1.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from torch import Tensor

from fmce.data.detection.files import DetectionFiles, JoinOptions, join_labels
from fmce.data.detection.labels import (
    Classes,
    RawBox,
    RawImage,
    by_stem,
    is_flagged,
    read_label_json,
    stated_size,
)

BDD100K_BOX_CLASSES = (
    *("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
    *("traffic light", "traffic sign"),
)
BDD100K_NAMES = Classes(
    BDD100K_BOX_CLASSES,
    renames={
        "bike": "bicycle",
        "motor": "motorcycle",
        "person": "pedestrian",
        "van": "car",
        "caravan": "car",
    },
    ignored={"other person": "pedestrian", "other vehicle": "car", "trailer": "truck"},
)


def read_scalabel(path: Path) -> dict[str, RawImage]:
    """Read the boxes of a Scalabel file: a list of frames, one frame, or frames under "frames".

    Labels without a box (lanes, drivable areas) are skipped. An image whose "labels" are null or missing
    gets None. The first release's files of one image have "objects" instead. The attributes "crowd" and "ignored" make
    an ignored region, as in the official evaluation.

    Raises:
        ValueError: If the file is no such JSON, names an image twice, or a label lacks its category or a
            number.
    """
    return by_stem(_frames(path), str(path))


def _frames(path: Path) -> Iterable[tuple[str, RawImage]]:
    content = read_label_json(path)
    frames = content.get("frames", [content]) if isinstance(content, dict) else content
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise ValueError(
            f"{path}: expected a list of frames, or one frame; export it as Scalabel's JSON"
        )
    whole = content.get("config") if isinstance(content, dict) else None
    every = whole.get("imageSize") if isinstance(whole, dict) else None
    for frame in frames:
        # The file of a single image names it outside the frame, or only by its own name.
        outside = content.get("name") if isinstance(content, dict) else None
        name = frame.get("name") or outside or path.stem
        labels = frame.get("labels", frame.get("objects"))
        known = frame.keys() & {"name", "labels", "objects", "frames"}
        if not isinstance(name, str) or not isinstance(labels, list | None) or not known:
            raise ValueError(
                f"{path}: expected frames with a name and a list of labels; export it as Scalabel's JSON"
            )
        size = frame.get("size") or every
        sides = (size.get("width"), size.get("height")) if isinstance(size, dict) else (None, None)
        boxes = None if labels is None else [*_boxes(labels, f"{path}, {name}")]
        yield name, RawImage(boxes, stated_size(*sides))


def _boxes(labels: Iterable[Any], where: str) -> Iterable[RawBox]:
    for label in labels:
        if not isinstance(label, dict):
            raise ValueError(f"expected labels as JSON objects in {where}, got {label!r}")
        box, category = label.get("box2d"), label.get("category")
        if box is None:
            continue
        try:
            x1, y1, x2, y2 = (float(box[side]) for side in ("x1", "y1", "x2", "y2"))
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise ValueError(f"expected box2d with x1, y1, x2, y2 in {where}, got {box}") from error
        if not isinstance(category, str):
            raise ValueError(f"expected a category beside the box {box} in {where}")
        yield RawBox(category, (x1, y1, x2 + 1, y2 + 1), _is_ignored(label, where))


def _is_ignored(label: Mapping[str, Any], where: str) -> bool:
    """Return whether the attribute "crowd" or "ignored" is set, a boolean or in some files its text."""
    attributes = label.get("attributes") or {}
    if not isinstance(attributes, dict):
        raise ValueError(f"expected attributes as a JSON object in {where}, got {attributes!r}")
    return any(is_flagged(v) for k, v in attributes.items() if k.lower() in ("crowd", "ignored"))


def bdd100k_detection(
    root: Path | str,
    split: str,
    **options: Unpack[JoinOptions],
) -> DetectionFiles:
    """Find BDD100K's detection set: images/100k/{split} and the labels of any release.

    Labels below `root`, in this order: labels/det_20/det_{split}.json;
    labels/bdd100k_labels_images_{split}.json; one file per image in labels/100k/{split}.

    Args:
        root: Folder of the data set.
        split: "train" or "val".
        options: See `JoinOptions`; 137 training images of det_20 have no annotation.

    Raises:
        ValueError: If images or labels are missing, or as in `join_labels`.
    """
    root = Path(root)
    images = root / "images" / "100k" / split
    lists = (
        root / "labels" / "det_20" / f"det_{split}.json",
        root / "labels" / f"bdd100k_labels_images_{split}.json",
    )
    single = root / "labels" / "100k" / split
    source = next((path for path in lists if path.is_file()), single)
    if not images.is_dir() or not source.exists():
        raise ValueError(
            f"expected images in {images} and labels in {', '.join(map(str, lists))} or {single}"
        )
    files = [source] if source.is_file() else sorted(source.glob("*.json"))
    labels = by_stem((frame for path in files for frame in _frames(path)), str(source))
    return join_labels(
        images,
        labels,
        BDD100K_NAMES,
        name=str(images),
        **options,
    )


def to_scalabel(
    names: Sequence[str],
    predictions: Sequence[Mapping[str, Tensor]],
    class_names: Sequence[str],
) -> list[dict[str, Any]]:
    """Return predictions for the JSON of BDD100K's evaluation, with inclusive boxes.

    Args:
        names: File names of the images.
        predictions: "boxes" (n,4), "labels" (n,) and "scores" (n,) of each image.
        class_names: Names of the class ids.
    """
    return [
        {"name": name, "labels": [*_rows(found, class_names)]}
        for name, found in zip(names, predictions, strict=True)
    ]


def _rows(found: Mapping[str, Tensor], class_names: Sequence[str]) -> Iterable[dict[str, Any]]:
    columns = (found[name].tolist() for name in ("boxes", "labels", "scores"))
    for number, ((x1, y1, x2, y2), label, score) in enumerate(zip(*columns, strict=True)):
        yield {
            "id": str(number),
            "category": class_names[label],
            "score": score,
            "box2d": {"x1": x1, "y1": y1, "x2": x2 - 1, "y2": y2 - 1},
        }
