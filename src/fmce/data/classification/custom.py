"""Data of your own: "my.module:function" names a Python function that returns the images."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fmce.data.classification.splits import DataParts, to_image_set

_SPLITS = ("train", "validation", "test")


def call_own(name: str, *, root: Path, image_size: int | None, split_seed: int) -> Any:
    """Call the function a name stands for.

    It gets those of the keyword arguments `root`, `image_size` and `split_seed` that it has
    parameters for, and returns either `ClassificationData` or a mapping: "train" and, where there
    are such, "validation" and "test" → (images, targets); "class_names" → names, optional. Images
    are uint8: arrays N×H×W or N×H×W×C, or tensors N×C×H×W; targets are class indices. Splits it
    leaves out are drawn from the training images by `split_seed`.

    Args:
        name: "my.module:function"; the module is installed or on PYTHONPATH.
        root: folder that data sets lie in.
        image_size: side that images will be resized to.
        split_seed: for splits of its own.

    Returns:
        What the function returned.

    Raises:
        ValueError: the module or function is not found, or the function needs other arguments.
    """
    function = _find(name)
    known = {"root": root, "image_size": image_size, "split_seed": split_seed}
    parameters = inspect.signature(function).parameters
    needed = [
        p.name
        for p in parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    strange = [p for p in needed if p not in known]
    if strange:
        raise ValueError(
            f"{name} needs the argument {strange[0]!r}, but data functions are called with "
            f"{', '.join(known)}, those of them that they have; give the others a default"
        )
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return function(**{k: v for k, v in known.items() if takes_all or k in parameters})


def own_parts(name: str, returned: Any) -> DataParts:
    """Check the mapping that a function of the user's own returned, and bring it into one form.

    Raises:
        ValueError: it is no such mapping, or its images are of another kind.
    """
    if not isinstance(returned, Mapping) or "train" not in returned:
        raise ValueError(
            f"{name} returned {_describe(returned)}; expected ClassificationData, or a mapping with "
            '"train": (images, targets) and optional "validation", "test" and "class_names"'
        )
    unknown = sorted(set(map(str, returned)) - {*_SPLITS, "class_names"})
    if unknown:
        raise ValueError(
            f"{name} returned the unknown key {unknown[0]!r}; choices: {', '.join(_SPLITS)}, class_names"
        )
    names = tuple(str(n) for n in returned.get("class_names", ()))
    sets = {
        split: to_image_set(
            *_pair(name, split, returned[split]), f"{name}, {split}", len(names) or None
        )
        for split in _SPLITS
        if split in returned
    }
    trained = set(sets["train"].targets.tolist())
    for split, part in sets.items():
        strangers = sorted(set(part.targets.tolist()) - trained)
        if strangers:
            raise ValueError(
                f"{name}, {split}: classes {strangers[:5]} have no training images; every split needs the "
                "same classes"
            )
    highest = max(int(part.targets.max()) for part in sets.values())
    names = names or tuple(str(c) for c in range(highest + 1))
    return DataParts(
        sets["train"], names, name, validation=sets.get("validation"), test=sets.get("test")
    )


def _pair(name: str, split: str, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(f"{name}: expected {split!r}: (images, targets), got {_describe(value)}")
    return value[0], value[1]


def _find(name: str) -> Callable[..., Any]:
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A module of yours that fails to import something else keeps its own message.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"cannot import module {module_name!r} of data set {name!r}: {error}; "
            "is it installed or on PYTHONPATH?"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(f"module {module_name!r} has no function {function_name!r}")
    found: Callable[..., Any] = function
    return found


def _describe(value: Any) -> str:
    keys = f" with {', '.join(map(repr, value))}" if isinstance(value, Mapping) else ""
    return f"a {type(value).__name__}{keys}"
