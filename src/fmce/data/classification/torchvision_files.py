"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100 in torchvision's layout, or as one `.npz` file.

Files are checked before torchvision reads them, so that the error names a missing or damaged one.
"""

import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmce.data.classification.catalog import DataSpec
from fmce.data.classification.splits import DataParts, to_image_set

# Torchvision's class for each data set, and the folder of its layout under the data root.
_LAYOUTS = {
    "mnist": ("MNIST", "MNIST/raw"),
    "fashion-mnist": ("FashionMNIST", "FashionMNIST/raw"),
    "cifar10": ("CIFAR10", "cifar-10-batches-py"),
    "cifar100": ("CIFAR100", "cifar-100-python"),
}
# IDX files: two zero bytes, the type (8 is uint8), the number of axes, then each axis as big-endian.
_IDX_UINT8 = 8
_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_REMEDY = "replace the file by a complete copy"


def read_standard(spec: DataSpec, root: Path) -> DataParts:
    """Read a data set from torchvision's layout below the folder of all data sets, else from ROOT/NAME.npz.

    Raises:
        FileNotFoundError: If neither is there, or a file is missing.
        ValueError: If a file is damaged.
    """
    folder, npz = _folder(spec, root), root / f"{spec.name}.npz"
    if folder.is_dir():
        _check_files(spec, root)
        beside = f"; {npz} is there too and was not read" if npz.is_file() else ""
        return _read(spec, root, f"{folder}{beside}")
    if npz.is_file():
        return read_npz(npz, spec)
    raise FileNotFoundError(
        f"no {spec.name} under {root}: expected {folder} with {', '.join(_expected_files(spec))} "
        f"(torchvision's layout) or {npz} (arrays x_train, y_train, x_test, y_test). Name another "
        "folder with FMCE_DATA or --data-root, or add --download"
    )


def download_standard(spec: DataSpec, root: Path) -> None:
    """Download a data set into torchvision's layout, unless it is there in either form.

    Raises:
        ConnectionError: If a download fails.
    """
    if (root / f"{spec.name}.npz").is_file():
        return
    try:
        _torchvision(spec)(root, download=True)
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ConnectionError(
            f"could not download {spec.name} ({reason}); download {', '.join(_expected_files(spec))} "
            f"elsewhere and put them into {_folder(spec, root)}"
        ) from error


def _expected_files(spec: DataSpec) -> dict[str, str | None]:
    """Return the layout's file names with their MD5 where torchvision knows one."""
    dataset = _torchvision(spec)
    if hasattr(dataset, "resources"):  # as MNIST; the known digests belong to the packed files
        return {name.removesuffix(".gz"): None for name, _ in dataset.resources}
    meta = dataset.meta
    return {**dict(dataset.train_list + dataset.test_list), meta["filename"]: meta["md5"]}


def _check_files(spec: DataSpec, root: Path) -> None:
    """Check that every file of the layout is there and undamaged."""
    from torchvision.datasets.utils import check_md5

    for name, digest in _expected_files(spec).items():
        path = _folder(spec, root) / name
        if not path.is_file():
            packed = path.with_name(f"{name}.gz")
            hint = f"unpack {packed.name} beside it with gunzip" if packed.is_file() else ""
            raise FileNotFoundError(
                f"{spec.name} is incomplete: expected {path}; "
                + (hint or f"add --download, or copy the missing file to {path.parent}")
            )
        problem = _idx_problem(path) if digest is None else None
        if digest is not None and not check_md5(str(path), digest):
            problem = f"its MD5 is not {digest}"
        if problem:
            raise ValueError(
                f"{path} is damaged ({problem}); delete it and repeat with --download, or replace it by a complete copy"
            )


def _idx_problem(path: Path) -> str | None:
    """Return what is wrong with an IDX file of uint8 values, judged by its header and length."""
    with path.open("rb") as file:
        start = file.read(4)
        axes = start[3] if len(start) == 4 else 0
        sizes = file.read(4 * axes)
    if start[:3] != bytes((0, 0, _IDX_UINT8)) or axes not in (1, 3) or len(sizes) != 4 * axes:
        return "it has no header of an IDX file of uint8 values"
    expected = 4 + 4 * axes + math.prod(struct.unpack(f">{axes}I", sizes))
    found = path.stat().st_size
    return None if found == expected else f"{found} bytes, its header says {expected}"


def _folder(spec: DataSpec, root: Path) -> Path:
    return root / _LAYOUTS[spec.name][1]


def _read(spec: DataSpec, root: Path, source: str) -> DataParts:
    parts = {}
    for part, train in (("train", True), ("test", False)):
        dataset = _torchvision(spec)(root, train=train, download=False)
        where = f"{_folder(spec, root)}, {part}"
        images, targets = np.asarray(dataset.data), np.asarray(dataset.targets)
        parts[part] = to_image_set(images, targets, where, spec.num_classes)
    names = spec.class_names or tuple(dataset.classes)
    return DataParts(parts["train"], names, source, test=parts["test"])


def _torchvision(spec: DataSpec) -> Any:
    from torchvision import datasets

    return getattr(datasets, _LAYOUTS[spec.name][0])


def read_npz(path: Path, spec: DataSpec) -> DataParts:
    """Read x_train, y_train, x_test, y_test and optional class_names from one `.npz` file.

    Images are uint8 (N,H,W,C) or (N,H,W), classes integers (N,).

    Raises:
        ValueError: If the file is damaged, lacks an array, or an array has another type or shape.
    """
    arrays = _load(path)
    missing = [name for name in _ARRAYS if name not in arrays]
    if missing:
        raise ValueError(
            f"{path} lacks {', '.join(missing)} (it holds {', '.join(arrays) or 'nothing'}); "
            f"expected the arrays {', '.join(_ARRAYS)}"
        )
    names = tuple(str(n) for n in arrays["class_names"]) if "class_names" in arrays else ()
    count = spec.num_classes or int(arrays["y_train"].max()) + 1
    names = names or spec.class_names or tuple(map(str, range(count)))
    if spec.num_classes is not None and len(names) != spec.num_classes:
        raise ValueError(
            f"{path}: expected {spec.num_classes} class names, got {len(names)}; {_REMEDY}"
        )
    train, test = (
        to_image_set(arrays[f"x_{part}"], arrays[f"y_{part}"], f"{path}, {part}", len(names))
        for part in ("train", "test")
    )
    return DataParts(train, names, f"{path}", test=test)


def _load(path: Path) -> dict[str, NDArray[Any]]:
    try:
        # Opened here: NumPy leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (
        zipfile.BadZipFile,
        zlib.error,
        ValueError,
        EOFError,
        AttributeError,
        TypeError,
    ) as error:
        raise ValueError(
            f"{path} is damaged or no .npz file of plain arrays ({error}); {_REMEDY}"
        ) from error
