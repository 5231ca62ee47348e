"""Readers of the box formats of KITTI, COCO, YOLO and Pascal VOC.

Each finds images and labels in the usual folders; `files.py` reports what is wrong with them.
"""

import json
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Unpack
from xml.etree import ElementTree

import yaml

from fmce.data.detection.files import DetectionFiles, JoinOptions, join_labels
from fmce.data.detection.labels import EVERY_CLASS, Classes, RawBox, by_stem, read_label_text
from fmce.data.image_files import first_names, list_images, read_stems, stem_of
from fmce.data.image_reader import DAMAGE_ERRORS, image_size

# The three classes of the benchmark; detecting a van as a car, or a seated person, is no mistake.
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


def kitti_detection(
    root: Path | str,
    split: str,
    **options: Unpack[JoinOptions],
) -> DetectionFiles:
    """Read KITTI's object set: image_2 and label_2.

    KITTI has no public validation labels. Not given in the paper: every fourth frame by name is "val", the
    others are "train".

    Args:
        root: Folder with image_2 and label_2, or with these in training/.
        split: "train" or "val".
        options: See `JoinOptions`.

    Raises:
        ValueError: If the folders are missing, a line cannot be read, or as in `join_labels`.
    """
    root = Path(root)
    root = root / "training" if (root / "training" / "image_2").is_dir() else root
    _require_folder(root / "label_2")
    chosen = [
        path
        for number, path in enumerate(list_images(root / "image_2"))
        if (number % _KITTI_VALIDATION == _KITTI_VALIDATION - 1) == (split == "val")
    ]
    labels = {
        stem_of(path.name): _kitti_boxes(root / "label_2" / f"{stem_of(path.name)}.txt")
        for path in chosen
    }
    return join_labels(chosen, labels, KITTI_NAMES, name=f"KITTI {split}", **options)


def _require_folder(path: Path) -> None:
    if not path.is_dir():
        raise ValueError(f"expected a folder of labels at {path}, found none")


def _kitti_boxes(path: Path) -> list[RawBox] | None:
    if not path.is_file():
        return None
    rows = []
    for number, line in enumerate(read_label_text(path).splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        # class, truncation, occlusion, angle, then left, top, right, bottom in pixels
        x1, y1, x2, y2 = _numbers(fields[4:8], 4, f"{path}, line {number}")
        rows.append(RawBox(fields[0], (x1, y1, x2, y2)))
    return rows


def _numbers(fields: Sequence[Any], count: int, where: str) -> list[float]:
    try:
        values = [float(value) for value in fields]
    except (TypeError, ValueError):
        values = []
    if len(values) != count:
        raise ValueError(f"expected {count} numbers of a box in {where}, got {fields}")
    return values


def coco_detection(
    images: Path | str,
    labels: Path | str,
    *,
    class_names: Sequence[str] = (),
    **options: Unpack[JoinOptions],
) -> DetectionFiles:
    """Read COCO's JSON: boxes of left, top, width and height; crowds are ignored regions.

    Args:
        images: Folder of images.
        labels: The JSON file.
        class_names: Categories of the file that are classes, id 0 first; all by default, in the order of
            their ids. Others are dropped.
        options: See `JoinOptions`.

    Raises:
        ValueError: If the JSON has another form, or as in `join_labels`.
    """
    path = Path(labels)
    text = read_label_text(path)
    try:
        content = json.loads(text)
        by_id = {c["id"]: str(c["name"]) for c in content["categories"]}
        files = {image["id"]: str(image["file_name"]) for image in content["images"]}
        every = tuple(dict.fromkeys(by_id[i] for i in sorted(by_id)))
        annotations = list(content.get("annotations") or [])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"expected COCO's JSON in {path}, got {error!r}") from error
    names = tuple(class_names) or every
    unknown = [name for name in names if name not in every]
    if unknown:
        raise ValueError(
            f"data.class_names has {', '.join(unknown)}, but {path} has the categories {', '.join(every)}"
        )
    out = read_stems(options.get("exclude", ()))
    kept = {i: name for i, name in files.items() if stem_of(name) not in out}
    raw: dict[str, list[RawBox]] = by_stem(((name, []) for name in kept.values()), str(path))
    for number, annotation in enumerate(annotations, 1):
        _add_coco(raw, annotation, by_id, files, f"{path}, annotation {number}")
    classes = Classes(names, dropped=frozenset(every) - frozenset(names))
    return join_labels(Path(images), raw, classes, name=str(path), **options)


def _add_coco(
    raw: dict[str, list[RawBox]],
    annotation: Any,
    categories: Mapping[Any, str],
    files: Mapping[Any, str],
    where: str,
) -> None:
    """Add the box of an annotation to those of its image; skip annotations without a box."""
    try:
        if annotation.get("bbox") is None:
            return
        kind, image = annotation["category_id"], annotation["image_id"]
        name = categories.get(kind, f"category {kind}")
        stem = stem_of(files[image]) if image in files else where
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"expected bbox, category_id and image_id in {where}, got {error!r}"
        ) from error
    x, y, w, h = _numbers(annotation["bbox"], 4, where)
    box = RawBox(name, (x, y, x + w, y + h), bool(annotation.get("iscrowd")))
    raw.setdefault(stem, []).append(box)


def yolo_detection(
    root: Path | str,
    split: str,
    *,
    class_names: Sequence[str] = (),
    **options: Unpack[JoinOptions],
) -> DetectionFiles:
    """Read YOLO's folders: images/{split} and labels/{split}/*.txt.

    A line has a class id, then centre x, centre y, width and height as fractions of the image and perhaps a
    confidence, which is ignored; or a class id and the corners x, y of a polygon, whose bounds are the box.
    Text files are nested like the images.

    Args:
        root: Folder with images/, labels/ and optionally data.yaml.
        split: "train" or "val".
        class_names: Names of the ids; data.yaml's `names` by default.
        options: See `JoinOptions`.

    Raises:
        ValueError: If folders or names are missing, a line cannot be read, a text file has no image in
            the same place, or as in `join_labels`.
    """
    root = Path(root)
    names = tuple(class_names) or _yolo_names(root / "data.yaml")
    folder, labels = root / "images" / split, root / "labels" / split
    images = list_images(folder)
    _require_folder(labels)
    left_out = read_stems(options.get("exclude", ()))
    _refuse_lone_texts(labels, {p.relative_to(folder).with_suffix("") for p in images}, left_out)
    raw = {
        stem_of(path.name): _yolo_boxes(
            labels / path.relative_to(folder).with_suffix(".txt"), path, names
        )
        for path in images
    }
    return join_labels(
        images,
        raw,
        Classes(names),
        name=f"{root}, {split}",
        **options,
    )


def _refuse_lone_texts(labels: Path, images: set[Path], left_out: Set[str]) -> None:
    """Refuse text files without an image, whose image may have been moved and would lose its objects."""
    texts = [path.relative_to(labels) for path in sorted(labels.rglob("*.txt"))]
    # Labelling tools put the names of the classes there too.
    texts = [t for t in texts if str(t) != "classes.txt" and t.stem not in left_out]
    alone = [str(t) for t in texts if t.with_suffix("") not in images]
    if alone:
        raise ValueError(
            f"{labels}: {first_names(alone)} have no image in the same place under images/; move or "
            "delete them, or exclude their stems"
        )


def _yolo_names(path: Path) -> tuple[str, ...]:
    """Return the list under "names", or the values of the mapping by their ids 0 … C − 1."""
    try:
        content = yaml.safe_load(read_label_text(path)) if path.is_file() else None
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise ValueError(f"expected YAML in {path}, got: {said}") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(
            f"expected names in {path}, a list or ids from 0 with a name each, got {names!r}; or name the "
            "classes in data.class_names"
        )
    return tuple(str(name) for name in names)


def _yolo_boxes(path: Path, image: Path, names: Sequence[str]) -> list[RawBox] | None:
    if not path.is_file():
        return None
    lines = [line.split() for line in read_label_text(path).splitlines()]
    width, height = _size(image)
    rows = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        label, *fields = line
        x1, y1, x2, y2 = _yolo_corners(fields, f"{path}, line {number}")
        known = label.isdigit() and int(label) < len(names)
        box = (x1 * width, y1 * height, x2 * width, y2 * height)
        rows.append(RawBox(names[int(label)] if known else f"class {label}", box))
    return rows


def _yolo_corners(fields: Sequence[str], where: str) -> tuple[float, float, float, float]:
    """Return x1, y1, x2, y2 of a box with or without confidence, or of the bounds of a polygon."""
    if len(fields) < 6:
        x, y, w, h = _numbers(fields[:4], 4, where)
        return x - w / 2, y - h / 2, x + w / 2, y + h / 2
    if len(fields) % 2:
        raise ValueError(
            f"expected 4 numbers of a box, or x and y of a polygon's corners in {where}, got "
            f"{len(fields)} numbers"
        )
    corners = _numbers(fields, len(fields), where)
    across, down = corners[::2], corners[1::2]
    return min(across), min(down), max(across), max(down)


def _size(image: Path) -> tuple[int, int]:
    """Return width and height; any size for a damaged image, whose boxes are never used."""
    try:
        return image_size(image)
    except DAMAGE_ERRORS:
        return 1, 1  # counted when it is read


def voc_detection(
    root: Path | str,
    split: str,
    *,
    class_names: Sequence[str] = (),
    **options: Unpack[JoinOptions],
) -> DetectionFiles:
    """Read Pascal VOC's layout: JPEGImages, Annotations/*.xml, ImageSets/Main/{split}.txt.

    Boxes in the files count from 1 and are inclusive; difficult objects are ignored regions.

    Args:
        root: Folder with these folders, such as VOCdevkit/VOC2012.
        split: Name of the image list.
        class_names: The classes; VOC's twenty by default. Others are unknown.
        options: See `JoinOptions`.

    Raises:
        ValueError: If files are missing or cannot be read, or as in `join_labels`.
    """
    root = Path(root)
    chosen = root / "ImageSets" / "Main" / f"{split}.txt"
    if not chosen.is_file():
        raise ValueError(f"expected a list of images in {chosen}")
    wanted = {line.split()[0] for line in read_label_text(chosen).splitlines() if line.strip()}
    images = [p for p in list_images(root / "JPEGImages") if stem_of(p.name) in wanted]
    absent = sorted(wanted - {stem_of(p.name) for p in images})
    if absent:
        raise ValueError(f"{chosen} lists {', '.join(absent[:5])}, which JPEGImages does not hold")
    raw = {stem_of(p.name): _voc_boxes(root / "Annotations" / f"{p.stem}.xml") for p in images}
    classes = Classes(tuple(class_names) or VOC_CLASSES)
    return join_labels(images, raw, classes, name=f"{root}, {split}", **options)


def _voc_boxes(path: Path) -> list[RawBox] | None:
    if not path.is_file():
        return None
    try:
        tree = ElementTree.parse(path)  # noqa: S314  # the user's own labels
    except ElementTree.ParseError as error:
        raise ValueError(f"expected VOC's XML in {path}, got {error}") from error
    rows = []
    for thing in tree.iter("object"):
        sides = [thing.findtext(f"bndbox/{s}") for s in ("xmin", "ymin", "xmax", "ymax")]
        x1, y1, x2, y2 = _numbers(sides, 4, f"{path}, {thing.findtext('name')}")
        difficult = (thing.findtext("difficult") or "0").strip() == "1"
        # From 1 and inclusive: the pixels 1 … 4 are 0 … 4 here.
        rows.append(RawBox(thing.findtext("name") or "", (x1 - 1, y1 - 1, x2, y2), difficult))
    return rows
