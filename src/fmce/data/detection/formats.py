"""Readers of the box formats of KITTI, COCO and Pascal VOC.

Each finds images and labels in the usual folders; `files.py` reports what is wrong with them.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack
from xml.etree import ElementTree

from fmce.data.detection.files import DetectionFiles, JoinOptions, join_labels
from fmce.data.detection.labels import (
    EVERY_CLASS,
    Classes,
    RawBox,
    RawImage,
    by_place,
    by_stem,
    is_flagged,
    numbers,
    read_label_json,
    read_label_text,
    stated_size,
)
from fmce.data.image_files import first_names, list_images, read_stems, stem_of
from fmce.files import read_text, reading

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
_KITTI_COLUMNS = (15, 16)


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
    chosen = [
        path
        for number, path in enumerate(list_images(root / "image_2"))
        if (number % _KITTI_VALIDATION == _KITTI_VALIDATION - 1) == (split == "val")
    ]
    texts = by_place(root / "label_2", ".txt")
    labels = {stem_of(path.name): _kitti_boxes(texts.get(path.stem)) for path in chosen}
    return join_labels(chosen, labels, KITTI_NAMES, name=f"KITTI {split}", **options)


def _kitti_boxes(path: Path | None) -> RawImage:
    if path is None:
        return RawImage(None)
    rows = []
    for number, line in enumerate(read_label_text(path).splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) not in _KITTI_COLUMNS:
            raise ValueError(
                f"expected KITTI's 15 columns, or 16 with a score, in {path}, line {number}, got {len(fields)}; "
                "correct that line"
            )
        # class, truncation, occlusion, angle, then left, top, right, bottom in pixels
        x1, y1, x2, y2 = numbers(fields[4:8], 4, f"{path}, line {number}")
        rows.append(RawBox(fields[0], (x1, y1, x2, y2)))
    return RawImage(rows)


def coco_detection(
    images: Path | str,
    labels: Path | str,
    *,
    class_names: Sequence[str] = (),
    **options: Unpack[JoinOptions],
) -> DetectionFiles:
    """Read COCO's JSON: boxes of left, top, width and height; those with "iscrowd" or "ignore" are ignored regions.

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
    content = read_label_json(path)
    with reading(path, "COCO's JSON", "export it with images, annotations and categories"):
        by_id = {c["id"]: str(c["name"]) for c in content["categories"]}
        files = {image["id"]: str(image["file_name"]) for image in content["images"]}
        sizes = {
            stem_of(str(image["file_name"])): stated_size(image.get("width"), image.get("height"))
            for image in content["images"]
        }
        every = tuple(dict.fromkeys(by_id[i] for i in sorted(by_id)))
        annotations = list(content.get("annotations") or [])
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
    labelled = {stem: RawImage(boxes, sizes.get(stem)) for stem, boxes in raw.items()}
    return join_labels(Path(images), labelled, classes, name=str(path), **options)


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
    x, y, w, h = numbers(annotation["bbox"], 4, where)
    ignored = is_flagged(annotation.get("iscrowd")) or is_flagged(annotation.get("ignore"))
    box = RawBox(name, (x, y, x + w, y + h), ignored)
    raw.setdefault(stem, []).append(box)


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
    images = {stem_of(path.name): path for path in list_images(root / "JPEGImages")}
    texts = by_place(root / "Annotations", ".xml")
    lines = [line.strip() for line in read_label_text(chosen).splitlines() if line.strip()]
    # Lists of one class have 1, 0 or −1 behind the name, which may have blanks itself.
    names = [n if stem_of(n) in images else re.sub(r"\s+-?[01]$", "", n) for n in lines]
    absent = [name for name in names if stem_of(name) not in images]
    if absent:
        raise ValueError(
            f"{chosen} lists {first_names(absent)}, which JPEGImages does not hold; correct the list"
        )
    wanted = sorted({stem_of(name) for name in names}, key=lambda stem: images[stem].as_posix())
    raw = {stem: _voc_image(texts.get(images[stem].stem)) for stem in wanted}
    classes = Classes(tuple(class_names) or VOC_CLASSES)
    chosen_images = [images[stem] for stem in wanted]
    return join_labels(chosen_images, raw, classes, name=f"{root}, {split}", **options)


def _voc_image(path: Path | None) -> RawImage:
    if path is None:
        return RawImage(None)
    try:
        tree = ElementTree.fromstring(_xml_text(path))  # noqa: S314  # the user's own labels
    except (ElementTree.ParseError, LookupError) as error:
        raise ValueError(
            f"{path}: expected VOC's XML, got {error}; write or export it again"
        ) from error
    rows = []
    for thing in tree.iter("object"):
        sides = [thing.findtext(f"bndbox/{s}") for s in ("xmin", "ymin", "xmax", "ymax")]
        x1, y1, x2, y2 = numbers(sides, 4, f"{path}, {thing.findtext('name')}")
        ignored = any(is_flagged(thing.findtext(flag)) for flag in ("difficult", "ignore"))
        # From 1 and inclusive: the pixels 1 … 4 are 0 … 4 here.
        name = (thing.findtext("name") or "").strip()
        rows.append(RawBox(name, (x1 - 1, y1 - 1, x2, y2), ignored))
    return RawImage(rows, stated_size(tree.findtext("size/width"), tree.findtext("size/height")))


def _xml_text(path: Path) -> str:
    """Read an XML file in the encoding that it declares, which Python's parser knows only in part."""
    with reading(path, "VOC's XML", "save it as UTF-8"):
        declared = re.match(rb"\s*<\?xml[^>]*?encoding=[\"']([\w.-]+)", path.read_bytes())
        if declared is None:
            return read_text(path, "VOC's XML")
        name = declared[1].decode().lower()
        # Programs that declare GB2312 or GBK write what its successor adds, too.
        return path.read_bytes().decode("gb18030" if name in ("gb2312", "gbk") else name)
