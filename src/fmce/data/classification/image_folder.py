"""Images in one folder per class, read once to uint8: Mini-ImageNet (FMCE paper, section V-A) or a custom set."""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from fmce.data.batch import ImageSet
from fmce.data.classification.splits import DataParts
from fmce.data.image_files import IMAGE_SUFFIXES, first_names, list_images
from fmce.data.image_reader import DAMAGE_ERRORS, read_square
from fmce.data.memory import available_memory

_VALIDATION_NAMES = ("val", "validation", "valid")
_LAYOUT = "CLASS/*.jpg or {train,val}/CLASS/*.jpg"
# Splitting copies each part, so for a moment every image is in memory twice.
_COPIES = 2
_LARGE_PIXELS = 2**23

_Files = list[tuple[Path, int]]
"""Image files of one split and their class indices."""


def read_image_folder(root: Path, size: int) -> DataParts:
    """Read every image of a folder, resized to a square, bilinear, without keeping proportions.

    Layouts: ROOT/CLASS/… has no split; ROOT/train/CLASS/… with ROOT/test/CLASS/… has both; with
    ROOT/val alone, `val` are the test images; with val and test, each is what its name says.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no class folders, files are damaged, or memory is too small.
    """
    if not root.is_dir():
        raise FileNotFoundError(
            f"no image folder {root}: expected {_LAYOUT} in it; name another with FMCE_DATA or --data-root, or "
            "--data image-folder:FOLDER for one under the data root"
        )
    folders = _split_folders(root)
    names = tuple(sorted(p.name for p in _subfolders(folders["train"])))
    if len(names) < 2:
        raise ValueError(
            f"{folders['train']}: expected {_LAYOUT} with at least two classes, found "
            f"{', '.join(names) or 'no folder'}"
        )
    files = {
        part: _files(folder, names, every_class=part == "train") for part, folder in folders.items()
    }
    _check_memory(root, sum(map(len, files.values())), size)
    sets = {part: _decode_all(f, size) for part, f in files.items()}
    return DataParts(
        sets["train"], names, str(root), validation=sets.get("validation"), test=sets.get("test")
    )


def _split_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each split; only `train` where the files have no split."""
    train, test = root / "train", root / "test"
    validation = next((root / n for n in _VALIDATION_NAMES if (root / n).is_dir()), None)
    if not train.is_dir():
        return {"train": root}
    if test.is_dir():
        held = {"test": test} | ({"validation": validation} if validation else {})
        return {"train": train, **held}
    if validation:
        return {"train": train, "test": validation}
    # A lone `train` is a split; among other folders it is a class of that name.
    return {"train": train if len(_subfolders(root)) == 1 else root}


def _subfolders(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]


def _files(folder: Path, names: Sequence[str], *, every_class: bool) -> _Files:
    strangers = sorted({p.name for p in _subfolders(folder)} - set(names))
    if strangers:
        raise ValueError(
            f"{folder} has classes that the training images lack: {first_names(strangers)}; "
            "every split needs the same classes"
        )
    files: _Files = []
    for target, name in enumerate(names):
        found = list_images(folder / name) if (folder / name).is_dir() else []
        if every_class and not found:
            raise ValueError(
                f"{folder / name} holds no images ({', '.join(IMAGE_SUFFIXES)}); add some or remove it"
            )
        files += [(path, target) for path in found]
    if not files:
        raise ValueError(f"{folder} holds no images; expected CLASS/*.jpg in it, or remove it")
    return files


def _check_memory(root: Path, num_images: int, size: int) -> None:
    needed, free = _COPIES * num_images * 3 * size * size, available_memory()
    # Every process that torchrun starts on this machine reads all images.
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if free is not None and needed * processes > free:
        each = f" in each of {processes} processes" if processes > 1 else ""
        fewer = " or use fewer processes" if processes > 1 else ""
        raise ValueError(
            f"{root}: {num_images} images at {size}×{size} pixels need {needed / 2**30:.1f} GiB of "
            f"memory{each}, {free / 2**30:.1f} GiB are free; set a smaller data.image_size{fewer}"
        )


def _decode_all(files: _Files, size: int) -> ImageSet:
    images = torch.empty(len(files), 3, size, size, dtype=torch.uint8)

    def decode(position: int, most_pixels: float = _LARGE_PIXELS) -> str | int | None:
        path, _ = files[position]
        try:
            square = read_square(path, size, most_pixels)
            if square is None:
                return position
            images[position] = torch.from_numpy(square).permute(2, 0, 1)
        except DAMAGE_ERRORS as error:
            return f"{path} ({error})"
        return None

    # Pillow releases the interpreter lock while decoding, so threads are enough. Each thread keeps the memory of its
    # largest image, so this one decodes all large images, one by one.
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(decode, range(len(files))))
    found = [decode(one, math.inf) if isinstance(one, int) else one for one in found]
    damaged = [name for name in found if isinstance(name, str)]
    if damaged:
        raise ValueError(
            f"{len(damaged)} of {len(files)} images cannot be read: {first_names(damaged)}; "
            "replace or remove them"
        )
    return ImageSet(images, torch.tensor([target for _, target in files], dtype=torch.int64))
