"""Reader of YOLO's text files, whose numbers of columns alone do not tell what a line is."""

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Literal, NamedTuple, Unpack

import yaml

from fmce.console.log import logger
from fmce.data.detection.files import DetectionFiles, JoinOptions, join_labels
from fmce.data.detection.labels import (
    Classes,
    RawBox,
    RawImage,
    by_place,
    numbers,
    place,
    read_label_text,
)
from fmce.data.image_files import first_names, list_images, read_stems, stem_of
from fmce.data.image_reader import DAMAGE_ERRORS, image_size

LongLines = Literal["auto", "box", "polygon"]
_YOLO_BOX = 6  # most columns of a box: class, centre, size, confidence
_COLUMNS = {
    "box": "boxes with further values behind them",
    "polygon": "polygons, whose bounds are the boxes",
}


def yolo_detection(
    root: Path | str,
    split: str,
    *,
    class_names: Sequence[str] = (),
    columns: LongLines = "auto",
    **options: Unpack[JoinOptions],
) -> DetectionFiles:
    """Read YOLO's folders: images/{split} and labels/{split}/*.txt.

    A line has a class id, then centre x, centre y, width and height as fractions of the image and perhaps a
    confidence, which is ignored. More columns are the corners x, y of a polygon, whose bounds are the box, or a box
    with a track id or keypoints behind it: see `columns`. Text files are nested like the images.

    Args:
        root: Folder with images/, labels/ and optionally data.yaml.
        split: "train" or "val".
        class_names: Names of the ids; data.yaml's `names` by default.
        columns: What lines of more than 6 columns are: a "box" with further values behind it, or a "polygon". "auto"
            takes boxes where data.yaml has `kpt_shape`, polygons where odd numbers of columns vary, and refuses others.
        options: See `JoinOptions`.

    Raises:
        ValueError: If folders or names are missing, a line cannot be read, a text file has no image in
            the same place, or as in `join_labels`.
    """
    root = Path(root)
    about = _yolo_yaml(root / "data.yaml")
    names = tuple(class_names) or _yolo_names(about, root / "data.yaml")
    folder, labels = root / "images" / split, root / "labels" / split
    images = {place(path, folder): path for path in list_images(folder)}
    texts = by_place(labels, ".txt")
    left_out = read_stems(options.get("exclude", ()))
    _refuse_lone_texts(labels, texts.keys() - images.keys(), left_out)
    lines = {
        key: _yolo_lines(texts[key])
        for key, image in images.items()
        if key in texts and stem_of(image.name) not in left_out
    }
    every = [line for found in lines.values() for line in found]
    if columns == "auto":
        columns = "box" if about.get("kpt_shape") else _yolo_columns(every)
    long = sorted({len(line.fields) for line in every if len(line.fields) > _YOLO_BOX})
    if long:
        logger.info(
            "%s: lines of %s columns are read as %s",
            labels,
            first_names([*map(str, long)]),
            _COLUMNS[columns],
        )
    raw = {
        stem_of(path.name): _yolo_boxes(lines.get(key), path, names, columns)
        for key, path in images.items()
    }
    return join_labels([*images.values()], raw, Classes(names), name=f"{root}, {split}", **options)


class _YoloLine(NamedTuple):
    """The columns of a line, and where it stands."""

    fields: list[str]
    where: str


def _yolo_lines(path: Path) -> list[_YoloLine]:
    rows = enumerate(read_label_text(path).splitlines(), 1)
    return [_YoloLine(row.split(), f"{path}, line {number}") for number, row in rows if row.strip()]


def _yolo_columns(lines: Sequence[_YoloLine]) -> LongLines:
    """Return what the long lines of a set are: numbers of columns that vary, all odd, are polygons."""
    long = [line for line in lines if len(line.fields) > _YOLO_BOX]
    counts = {len(line.fields) for line in long}
    if long and (len(counts) == 1 or any(count % 2 == 0 for count in counts)):
        odd = "" if any(count % 2 == 0 for count in counts) else "a polygon, or "
        raise ValueError(
            f"expected lines of 5 columns, or 6 with a confidence, in {long[0].where}, got {len(long[0].fields)}: "
            f"{odd}a box with a track id or keypoints behind it? Say which: --set data.label_columns=box"
            + (" (or polygon)" if odd else "")
        )
    return "polygon"


def _refuse_lone_texts(labels: Path, places: Set[str], left_out: Set[str]) -> None:
    """Refuse text files without an image, whose image may have been moved and would lose its objects."""
    # Labelling tools put the names of the classes there too.
    alone = sorted(p for p in places if p != "classes" and stem_of(p) not in left_out)
    if alone:
        raise ValueError(
            f"{labels}: {first_names([f'{key}.txt' for key in alone])} have no image in the same place under "
            "images/; move or delete them, or exclude their stems"
        )


def _yolo_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(read_label_text(path)) if path.is_file() else None
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{path} is not valid YAML ({said}); correct it there") from error
    return content if isinstance(content, dict) else {}


def _yolo_names(about: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Return the list under "names", or the values of the mapping by their ids 0 … C − 1."""
    names = about.get("names")
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(
            f"expected names in {path}, a list or ids from 0 with a name each, got {names!r}; add them, or name the "
            "classes in data.class_names"
        )
    return tuple(str(name) for name in names)


def _yolo_boxes(
    lines: Sequence[_YoloLine] | None, image: Path, names: Sequence[str], columns: LongLines
) -> RawImage:
    if lines is None:
        return RawImage(None)
    width, height = _size(image)
    rows = []
    for (label, *fields), where in lines:
        x1, y1, x2, y2 = _yolo_corners(fields, where, columns)
        known = label.isdigit() and int(label) < len(names)
        box = (x1 * width, y1 * height, x2 * width, y2 * height)
        rows.append(RawBox(names[int(label)] if known else f"class {label}", box))
    return RawImage(rows)


def _yolo_corners(
    fields: Sequence[str], where: str, columns: LongLines
) -> tuple[float, float, float, float]:
    """Return x1, y1, x2, y2 of a box, or of the bounds of a polygon."""
    if columns == "polygon" and len(fields) >= _YOLO_BOX:
        if len(fields) % 2:
            raise ValueError(
                f"expected x and y of a polygon's corners in {where}, got {len(fields)} numbers"
            )
        corners = numbers(fields, len(fields), where)
        across, down = corners[::2], corners[1::2]
        return min(across), min(down), max(across), max(down)
    x, y, w, h = numbers(fields[:4], 4, where)
    if len(fields) == _YOLO_BOX - 1 and not 0 <= numbers(fields[4:], 1, where)[0] <= 1:
        raise ValueError(
            f"expected a confidence from 0 to 1 as column 6 in {where}, got {fields[4]}; if it is an angle, save "
            "upright boxes, if a track id, drop it or put a confidence before it"
        )
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def _size(image: Path) -> tuple[int, int]:
    """Return width and height; any size for a damaged image, whose boxes are never used."""
    try:
        return image_size(image)
    except DAMAGE_ERRORS:
        return 1, 1  # counted when it is read
