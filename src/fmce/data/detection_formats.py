"""Boxes in the formats of KITTI, COCO, YOLO and Pascal VOC, brought to one form.

Each reader finds images and labels in the usual folders; `detection_files` names what is wrong.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml
from PIL import Image

from fmce.data.detection_files import (
    EVERY_CLASS,
    Classes,
    DetectionFiles,
    Missing,
    RawBox,
    join_labels,
)
from fmce.data.image_files import DAMAGE_ERRORS, list_images, stem_of

# The benchmark's three classes; a van is no mistake for a car, nor a seated person for a pedestrian.
KITTI_NAMES = Classes(
    ("car", "pedestrian", "cyclist"),
    renames={"Car": "car", "Pedestrian": "pedestrian", "Cyclist": "cyclist"},
    ignored={"Van": "car", "Person_sitting": "pedestrian", "DontCare": EVERY_CLASS},
    dropped=frozenset({"Truck", "Tram", "Misc"}),
)
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
_KITTI_VALIDATION = 4  # every fourth frame
Excluded = Path | str | Iterable[str]


def kitti_detection(
    root: Path | str, split: str, *, missing: Missing = "empty", exclude: Excluded = ()
) -> DetectionFiles:
    """Read KITTI's object set: image_2 and label_2.

    KITTI publishes no validation labels. Not given in the paper: every fourth frame in order of
    names is "val", the others are "train".

    Args:
        root: Folder with image_2 and label_2, or with training/ that holds them.
        split: "train" or "val".
        missing: As in `join_labels`.
        exclude: As in `join_labels`.

    Raises:
        ValueError: The folders are missing, a line cannot be read, or as in `join_labels`.
    """
    root = Path(root)
    root = root / "training" if (root / "training" / "image_2").is_dir() else root
    chosen = [
        path
        for number, path in enumerate(list_images(root / "image_2"))
        if (number % _KITTI_VALIDATION == _KITTI_VALIDATION - 1) == (split == "val")
    ]
    labels = {
        stem_of(path.name): _kitti_boxes(root / "label_2" / f"{stem_of(path.name)}.txt")
        for path in chosen
    }
    return join_labels(
        chosen, labels, KITTI_NAMES, name=f"KITTI {split}", missing=missing, exclude=exclude
    )


def _kitti_boxes(path: Path) -> list[RawBox] | None:
    if not path.is_file():
        return None
    rows = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        # class, truncation, occlusion, angle, then left, top, right, bottom in pixels
        values = _numbers(fields[4:8], 4, f"{path}, line {number}")
        rows.append(RawBox(fields[0], values))
    return rows


def _numbers(fields: Sequence[Any], count: int, where: str) -> tuple[float, float, float, float]:
    try:
        a, b, c, d = (float(value) for value in fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected {count} numbers of a box in {where}, got {fields}.") from error
    return a, b, c, d


def coco_detection(
    images: Path | str,
    labels: Path | str,
    *,
    class_names: Sequence[str] = (),
    missing: Missing = "empty",
    exclude: Excluded = (),
) -> DetectionFiles:
    """Read COCO's JSON: left, top, width and height; crowds are ignored regions.

    Args:
        images: Folder of images.
        labels: The JSON.
        class_names: Which categories are classes, id 0 first; all of the file's by default, in the
            order of their ids. Others are dropped.
        missing: As in `join_labels`, for images that the JSON does not list.
        exclude: As in `join_labels`.

    Raises:
        ValueError: The JSON is of another form, or as in `join_labels`.
    """
    path = Path(labels)
    try:
        content = json.loads(path.read_text("utf-8"))
        by_id = {c["id"]: c["name"] for c in content["categories"]}
        stems = {image["id"]: stem_of(image["file_name"]) for image in content["images"]}
        annotations = content.get("annotations") or []
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"expected COCO's JSON in {path}, got {error!r}.") from error
    raw: dict[str, list[RawBox] | None] = {stem: [] for stem in stems.values()}
    for annotation in annotations:
        if annotation.get("bbox") is None:
            continue
        where = f"{path}, annotation {annotation.get('id')}"
        x, y, w, h = _numbers(annotation["bbox"], 4, where)
        name = by_id.get(annotation["category_id"], f"category {annotation['category_id']}")
        rows = raw.setdefault(stems.get(annotation["image_id"], where), [])
        assert rows is not None
        rows.append(RawBox(name, (x, y, x + w, y + h), bool(annotation.get("iscrowd"))))
    every = tuple(by_id[i] for i in sorted(by_id))
    names = tuple(class_names) or every
    classes = Classes(names, dropped=frozenset(every) - frozenset(names))
    return join_labels(Path(images), raw, classes, name=str(path), missing=missing, exclude=exclude)


def yolo_detection(
    root: Path | str,
    split: str,
    *,
    class_names: Sequence[str] = (),
    missing: Missing = "empty",
    exclude: Excluded = (),
) -> DetectionFiles:
    """Read YOLO's folders: images/{split} and labels/{split}/*.txt.

    A line is a class id, then centre x, centre y, width and height as shares of the image.

    Args:
        root: Folder with images/, labels/ and perhaps data.yaml.
        split: "train" or "val".
        class_names: Names of the ids; data.yaml's `names` by default.
        missing: As in `join_labels`, for images without a text file.
        exclude: As in `join_labels`.

    Raises:
        ValueError: Folders or names are missing, a line cannot be read, or as in `join_labels`.
    """
    root = Path(root)
    names = tuple(class_names) or _yolo_names(root / "data.yaml")
    images = list_images(root / "images" / split)
    raw = {
        stem_of(path.name): _yolo_boxes(
            root / "labels" / split / f"{stem_of(path.name)}.txt", path, names
        )
        for path in images
    }
    return join_labels(
        images, raw, Classes(names), name=f"{root}, {split}", missing=missing, exclude=exclude
    )


def _yolo_names(path: Path) -> tuple[str, ...]:
    names = yaml.safe_load(path.read_text("utf-8")).get("names") if path.is_file() else None
    if not names:
        raise ValueError(f"expected names in {path}; name the classes (data.class_names) instead.")
    values = [names[key] for key in sorted(names)] if isinstance(names, dict) else names
    return tuple(str(name) for name in values)


def _yolo_boxes(path: Path, image: Path, names: Sequence[str]) -> list[RawBox] | None:
    if not path.is_file():
        return None
    lines = [line.split() for line in path.read_text("utf-8").splitlines() if line.strip()]
    width, height = _size(image)
    rows = []
    for number, (label, *fields) in enumerate(lines, 1):
        x, y, w, h = _numbers(fields[:4], 4, f"{path}, line {number}")
        box = (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
        known = label.isdigit() and int(label) < len(names)
        rows.append(RawBox(names[int(label)] if known else f"class {label}", box))
    return rows


def _size(image: Path) -> tuple[int, int]:
    """Return width and height; of a damaged image any will do, since its boxes are never used."""
    try:
        with Image.open(image) as opened:
            return opened.size
    except DAMAGE_ERRORS:
        return 1, 1  # counted when it is read


def voc_detection(
    root: Path | str,
    split: str,
    *,
    class_names: Sequence[str] = (),
    missing: Missing = "empty",
    exclude: Excluded = (),
) -> DetectionFiles:
    """Read Pascal VOC's layout: JPEGImages, Annotations/*.xml, ImageSets/Main/{split}.txt.

    Boxes count from 1 and are inclusive; difficult objects are ignored regions.

    Args:
        root: Folder with these folders, such as VOCdevkit/VOC2012.
        split: Name of the image list.
        class_names: The classes; VOC's twenty by default. Others are unknown.
        missing: As in `join_labels`, for listed images without annotations.
        exclude: As in `join_labels`.

    Raises:
        ValueError: Files are missing or cannot be read, or as in `join_labels`.
    """
    root = Path(root)
    chosen = root / "ImageSets" / "Main" / f"{split}.txt"
    if not chosen.is_file():
        raise ValueError(f"expected a list of images in {chosen}.")
    wanted = {line.split()[0] for line in chosen.read_text("utf-8").splitlines() if line.strip()}
    images = [p for p in list_images(root / "JPEGImages") if stem_of(p.name) in wanted]
    absent = sorted(wanted - {stem_of(p.name) for p in images})
    if absent:
        raise ValueError(f"{chosen} lists {', '.join(absent[:5])}, which JPEGImages does not hold.")
    raw = {stem_of(p.name): _voc_boxes(root / "Annotations" / f"{p.stem}.xml") for p in images}
    classes = Classes(tuple(class_names) or VOC_CLASSES)
    return join_labels(
        images, raw, classes, name=f"{root}, {split}", missing=missing, exclude=exclude
    )


def _voc_boxes(path: Path) -> list[RawBox] | None:
    if not path.is_file():
        return None
    try:
        tree = ElementTree.parse(path)  # noqa: S314  # the user's own labels
    except ElementTree.ParseError as error:
        raise ValueError(f"expected VOC's XML in {path}, got {error}.") from error
    rows = []
    for thing in tree.iter("object"):
        sides = [thing.findtext(f"bndbox/{s}") for s in ("xmin", "ymin", "xmax", "ymax")]
        x1, y1, x2, y2 = _numbers(sides, 4, f"{path}, {thing.findtext('name')}")
        difficult = (thing.findtext("difficult") or "0").strip() == "1"
        # From 1 and inclusive: the pixels 1 … 4 are 0 … 4 here.
        rows.append(RawBox(thing.findtext("name") or "", (x1 - 1, y1 - 1, x2, y2), difficult))
    return rows
