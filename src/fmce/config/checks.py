"""Range checks whose messages name the field, what is expected and what was given."""

import typing
from typing import Any


def check(holds: bool, name: str, value: Any, expected: str) -> None:
    """Raise a ValueError that names a field, what it must be and what it is, unless `holds`."""
    if not holds:
        raise ValueError(f"{name} must be {expected}, got {value!r}")


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Raise a ValueError unless a field's value is one of a Literal's."""
    options = typing.get_args(choices)
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(str, options))}, got {value!r}")


def check_width(name: str, value: float | None) -> None:
    """Raise a ValueError unless a width of FMCE-Net is in (0, 1]; None leaves it open."""
    check(
        value is None or 0 < value <= 1, name, value, "above 0, at most 1 (the published network)"
    )
