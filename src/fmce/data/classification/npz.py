"""A data set as one `.npz` file: x_train, y_train, x_test, y_test and optional class_names."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmce.data.classification.catalog import DataSpec
from fmce.data.classification.splits import DataParts, to_image_set

_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_REMEDY = "replace the file by a complete copy"


def read_npz(path: Path, spec: DataSpec) -> DataParts:
    """Read a data set's arrays.

    Args:
        path: The file; images uint8 (N,H,W,C) or (N,H,W), classes integers (N,).
        spec: Number of classes, and their names where the file has none.

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
    names = names or spec.class_names or _numbered(arrays, spec)
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


def _numbered(arrays: dict[str, NDArray[Any]], spec: DataSpec) -> tuple[str, ...]:
    count = spec.num_classes or int(arrays["y_train"].max()) + 1
    return tuple(str(c) for c in range(count))
