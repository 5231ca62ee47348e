"""Unlabelled frames in nested folders, in a fixed order, without excluded stems; BDD100K's leak rule is built in."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from fmce.data.image_files import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    Stems,
    first_names,
    list_images,
    read_stems,
    stem_of,
    walk_files,
)
from fmce.files import read_json

# The name of a BDD100K video, which begins the names of its frames: "b1c81faa-3df17267-0000001".
_BDD100K_VIDEO = re.compile(r"([0-9a-f]{8}-[0-9a-f]{8})(?:[-_].*)?")
_HELD_OUT_SETS = ("10k val", "10k test", "100k val", "100k test")
_SEGMENTATION_LABELS = frozenset({"sem_seg", "ins_seg", "pan_seg", "masks", "seg", "colormaps"})


def _video_of(name: str) -> str | None:
    match = _BDD100K_VIDEO.fullmatch(name)
    return match[1] if match else None


def is_excluded(path: Path, exclude: frozenset[str]) -> bool:
    """Return whether a frame is excluded: its stem, or the BDD100K video that stem or folder name.

    >>> held_out = frozenset({"b1c81faa-3df17267"})
    >>> is_excluded(Path("clips/b1c81faa-3df17267-0000001.jpg"), held_out)
    True
    >>> is_excluded(Path("clips/b1c81faa-3df17268.jpg"), held_out)
    False
    """
    return not excluding_names(path).isdisjoint(exclude)


def excluding_names(path: Path) -> set[str | None]:
    """Return the names by which a list may exclude a frame: its stem, and the videos that stem and folder name."""
    stem = stem_of(path.name)
    return {stem, _video_of(stem), _video_of(path.parent.name)}


def is_excluded_name(stem: str, exclude: frozenset[str]) -> bool:
    """Return whether a stem is listed, or for names of BDD100K's pattern its video.

    >>> is_excluded_name("b1c81faa-3df17267-0000001", frozenset({"b1c81faa-3df17267"}))
    True
    """
    return stem in exclude or _video_of(stem) in exclude


def list_frames(
    roots: Path | str | Sequence[Path | str], *, exclude: Stems = ()
) -> tuple[Path, ...]:
    """Return the frames of one or several folders, nested or not: by root, sorted by path inside each.

    A file that several roots reach appears once.

    Raises:
        ValueError: If a folder is missing or no image is left.
    """
    folders = [Path(roots)] if isinstance(roots, str | Path) else [Path(root) for root in roots]
    out = read_stems(exclude)
    seen: set[str] = set()  # shared, so that overlapping roots list no file twice
    found = [path for folder in folders for path in list_images(folder, seen=seen, aloud=True)]
    kept = tuple(path for path in found if not is_excluded(path, out))
    if not kept:
        where = first_names([str(folder) for folder in folders])
        raise ValueError(
            f"expected frames ({', '.join(IMAGE_SUFFIXES)}) in {where}, found {len(found)} images, "
            f"{len(found)} of them excluded"
        )
    return kept


def bdd100k_excluded_stems(root: Path | str) -> frozenset[str]:
    """Return stems and videos of BDD100K's val and test sets, 10k and 100k, which no pool may contain.

    The train set of 10k overlaps the val set of 100k, so the held-out stems of both are needed. They come
    from images and labels in folders named val or test, and from the frames and videos that label lists
    such as det_val.json name. The root holds images/ and labels/.

    Raises:
        ValueError: If the folder is missing, holds no val or test set, or a label list is no JSON.

    Warns:
        UserWarning: If one of the four sets is missing, so that its stems are not excluded.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"expected BDD100K's folder, found none at {root}")
    stems: set[str] = set()
    found: set[str] = set()
    for path in walk_files(root):
        split = _held_out_split(path.relative_to(root))
        names = _names_in(path) if split else []
        if names:
            stems.update(names)
            stems.update(video for video in map(_video_of, names) if video)
            found.add(f"{_collection(path.relative_to(root))} {split}")
    if not stems:
        raise ValueError(
            f"expected BDD100K's val and test sets below {root} (images/10k/val, det_val.json, …), "
            "found none; without them its leak rule cannot be kept"
        )
    absent = [name for name in _HELD_OUT_SETS if name not in found]
    if absent:
        warnings.warn(
            f"below {root} nothing names the stems of {', '.join(absent)}: frames of these sets "
            "are not excluded from the pool",
            stacklevel=2,
        )
    return frozenset(stems)


def _held_out_split(path: Path) -> str | None:
    """Return "val" or "test" where a folder or the name of a JSON list says so."""
    for split in ("val", "test"):
        listed = path.suffix == ".json" and path.stem.endswith(f"_{split}")
        if listed or split in path.parts[:-1]:
            return split
    return None


def _collection(path: Path) -> str:
    """Return the collection, "10k" or "100k", of a file of a held-out set."""
    # Not given in the paper: the sample layout images/{split} beside masks/{split} is 10k's.
    ten = path.parts[0] == "images" or not {"10k", *_SEGMENTATION_LABELS}.isdisjoint(path.parts)
    ten = ten or path.stem.startswith(tuple(_SEGMENTATION_LABELS))
    return "10k" if ten and "100k" not in path.parts else "100k"


def _names_in(path: Path) -> list[str]:
    """Return the stems that a file of a held-out set stands for."""
    suffix = path.suffix.lower()
    if suffix == ".json" and path.stem.endswith(("_val", "_test")):
        labels = read_json(path)  # Scalabel: frames in a list, or under "frames"
        frames = labels.get("frames") if isinstance(labels, dict) else labels
        rows = [f for f in frames if isinstance(f, dict)] if isinstance(frames, list) else []
        if not rows:
            raise ValueError(
                f"{path}: expected frames with names, whose images no pool may contain, got none; export it again, "
                "or move it away"
            )
        return [stem_of(row["name"]) for row in rows if isinstance(row.get("name"), str)]
    if suffix in (".json", *IMAGE_SUFFIXES, *VIDEO_SUFFIXES):
        return [path.stem.removesuffix("_train_id")]
    return []
