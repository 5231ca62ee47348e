"""Custom data: "my.module:function" names a Python function that returns the images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fmce.data.classification.splits import DataParts, to_image_set
from fmce.models.build import VARIADIC, import_function, parameters_of

_SPLITS = ("train", "validation", "test")


def call_custom(name: str, *, root: Path, image_size: int | None, split_seed: int) -> Any:
    """Call the function that a name stands for.

    The function gets those of the arguments `root`, `image_size` and `split_seed` that it has parameters
    for. It returns `ClassificationData` or a mapping: "train" and optionally "validation" and "test" →
    (images, targets); optionally "class_names" → names. Images are uint8: arrays (N,H,W) or (N,H,W,C),
    or tensors (N,C,H,W); targets are class indices. Missing splits are drawn from the training images.

    Raises:
        ValueError: If the module or function does not exist, or the function needs other arguments.
    """
    module, _, attribute = name.partition(":")
    function = import_function(module, attribute, "is it installed or on PYTHONPATH?")
    known = {"root": root, "image_size": image_size, "split_seed": split_seed}
    parameters = parameters_of(name, function)
    needed = (p.name for p in parameters if p.default is p.empty and p.kind not in VARIADIC)
    unknown = [name for name in needed if name not in known]
    if unknown:
        raise ValueError(
            f"{name} needs the argument {unknown[0]!r}, but data functions are called with those of "
            f"{', '.join(known)} that they have; give other parameters a default"
        )
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    names = {p.name for p in parameters}
    return function(**{k: v for k, v in known.items() if takes_all or k in names})


def custom_parts(name: str, returned: Any) -> DataParts:
    """Check the mapping that a custom function returned and convert it.

    Raises:
        ValueError: If it is no such mapping, or its images have another type or shape.
    """
    if not isinstance(returned, Mapping) or "train" not in returned:
        raise ValueError(
            f"{name} returned {_kind_of(returned)}; expected ClassificationData, or a mapping with "
            '"train": (images, targets) and optional "validation", "test" and "class_names"'
        )
    unknown = sorted(set(map(str, returned)) - {*_SPLITS, "class_names"})
    if unknown:
        raise ValueError(
            f"{name} returned the unknown key {unknown[0]!r}; choices: {', '.join(_SPLITS)}, class_names"
        )
    names = tuple(str(n) for n in returned.get("class_names", ()))
    sets = {}
    for split in (split for split in _SPLITS if split in returned):
        images, targets = _pair(name, split, returned[split])
        sets[split] = to_image_set(images, targets, f"{name}, {split}", len(names) or None)
    trained = set(sets["train"].targets.tolist())
    for split, part in sets.items():
        untrained = sorted(set(part.targets.tolist()) - trained)
        if untrained:
            raise ValueError(
                f"{name}, {split}: classes {untrained[:5]} have no training images; every split needs the "
                "same classes"
            )
    names = names or tuple(str(c) for c in range(max(trained) + 1))
    return DataParts(
        sets["train"], names, name, validation=sets.get("validation"), test=sets.get("test")
    )


def _pair(name: str, split: str, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(f"{name}: expected {split!r}: (images, targets), got {_kind_of(value)}")
    return value[0], value[1]


def _kind_of(value: Any) -> str:
    keys = f" with {', '.join(map(repr, value))}" if isinstance(value, Mapping) else ""
    return f"a {type(value).__name__}{keys}"
