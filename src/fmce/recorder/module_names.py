"""Which modules to measure where nobody named any."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from fmce.recorder.probe import Probe

# With fewer parts than that, a network shows little of its depth.
_FEW = 4


def default_modules(model: nn.Module) -> list[str]:
    """Return the children with parameters, of the first level at which there are several.

    Lists of modules are opened, and where there are fewer than four children, sequences of composite ones too.

    >>> default_modules(nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))))
    ['0.0', '0.2']
    """
    prefix, level = "", model
    while True:
        names = _children(level)
        if len(names) != 1 or not _children(getattr(level, names[0])):
            break
        prefix, level = f"{prefix}{names[0]}.", getattr(level, names[0])
    if not names:
        raise ValueError(
            f"{type(model).__name__} has no children with parameters; name its modules yourself"
        )
    found = []
    for name in names:
        child = getattr(level, name)
        inner = _children(child)
        composite = all(_children(getattr(child, one)) for one in inner) and len(inner) > 1
        listed = isinstance(child, nn.ModuleList | nn.ModuleDict)
        if listed or (isinstance(child, nn.Sequential) and composite and len(names) < _FEW):
            found += [f"{prefix}{name}.{one}" for one in inner]
        else:
            found.append(prefix + name)
    return found


def _children(module: nn.Module) -> list[str]:
    """Return the names of the children with parameters."""
    return [n for n, child in module.named_children() if any(True for _ in child.parameters())]


def probeable(model: nn.Module, names: Sequence[str], inputs: Any) -> list[str]:
    """Return the modules that a probe can measure.

    Raises:
        ValueError: If there is none; that of the last.
    """
    good, reason = [], None
    try:
        Probe(model, names, inputs).check()
        return list(names)
    except ValueError as error:
        reason = error
    for name in names:
        try:
            Probe(model, [name], inputs).check()
            good.append(name)
        except ValueError as error:
            reason = error
    if not good:
        raise reason
    return good
