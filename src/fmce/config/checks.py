"""Config classes that pydantic checks: the kinds of values their fields take, and errors on one line."""

import difflib
import functools
import json
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import field, fields, is_dataclass
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass, is_pydantic_dataclass

_C = TypeVar("_C")

# Strict, because pydantic otherwise reads true as 1 and "yes" as true.
Flag = Annotated[bool, Strict()]
# Beyond these no seed, count or rate means anything, and libraries fail with unrelated messages.
Whole = Annotated[int, Strict(), Field(le=2**32 - 1)]
Natural = Annotated[Whole, Field(ge=0)]
Count = Annotated[Whole, Field(ge=1)]
Real = Annotated[float, Strict(), Field(allow_inf_nan=False, le=1e30)]
Amount = Annotated[Real, Field(ge=0)]
Positive = Annotated[Real, Field(gt=0)]
Share = Annotated[Real, Field(ge=0, le=1)]
PositiveShare = Annotated[Real, Field(gt=0, le=1)]

# What was expected, in the words of YAML; pydantic's own words stand for the rest.
_EXPECTED = {
    "bool_type": "true or false",
    "dataclass_type": "a mapping",
    "dict_type": "a mapping",
    "float_type": "a number",
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "invalid_key": "the name of a field",
    "int_type": "a whole number",
    "less_than": "below {lt:g}",
    "less_than_equal": "at most {le:.10g}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "string_type": "text",
    "too_short": "{min_length} or more values",
    "tuple_type": "a list",
}


def _check_different(values: Sequence[Any]) -> Sequence[Any]:
    if len(set(map(json.dumps, values))) < len(values):
        raise ValueError(f"expected different values, got {list(values)}")
    return values


Different = AfterValidator(_check_different)


def _check_no_flags(values: Any) -> Any:
    for name, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, bool):
            raise ValueError(f"{name}: expected a number or a word, got {value!r}")
    return values


# For a dataclass without Strict fields, such as one of a room without pydantic.
NoFlags = BeforeValidator(_check_no_flags)


def _check_plain(value: Any) -> Any:
    values: Any = value.values() if isinstance(value, dict) else ()
    if isinstance(value, list | tuple):
        values = value
    elif not isinstance(value, dict | str | bool | int | float | None):
        raise ValueError(f"expected numbers, texts, lists and mappings, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value!r}")
    for inner in values:
        _check_plain(inner)
    return value


# Keyword arguments of a network's builder: data alone, whoever wrote them.
PlainOptions = Annotated[dict[str, Any], AfterValidator(_check_plain)]

_RULES = ConfigDict(extra="forbid")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def config_class(cls: type[_C]) -> type[_C]:
    """Make a class a frozen dataclass whose values are checked, with errors on one line.

    Its `__post_init__` may raise a ValueError that opens with the name of a field.
    """
    checked: Any = dataclass(cls, frozen=True, config=_RULES)
    construct = checked.__init__

    @functools.wraps(construct)
    def construct_or_explain(self: _C, *args: Any, **kwargs: Any) -> None:
        try:
            construct(self, *args, **kwargs)
        except ValidationError as error:
            raise ValueError(_first_line(checked, error)) from None

    checked.__init__ = construct_or_explain
    return checked  # type: ignore[no-any-return]


def validate(cls: type[_C], values: Mapping[str, Any]) -> _C:
    """Build a config from nested dicts.

    Raises:
        ValueError: If a key is unknown or a value has the wrong type or range; the message names
            section and field, what was expected and what was given.
    """
    # Only what holds it can lend a plain dataclass its rules; a config class has strict fields of its own.
    held: Any = cls if is_pydantic_dataclass(cls) else Annotated[cls, NoFlags]
    adapter = TypeAdapter[Any](dict[str, held], config=_RULES)
    try:
        config: _C = adapter.validate_python({"": values})[""]
        return config
    except ValidationError as error:
        raise ValueError(_first_line(cls, error, skip=1)) from None


def field_types(cls: Any) -> dict[str, Any]:
    """Return the fields of a config class with their types; none for any other type."""
    if not is_dataclass(cls):
        return {}
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in fields(cls)}


def _first_line(cls: Any, error: ValidationError, skip: int = 0) -> str:
    """Return the first error in the form "section.field: expected …, got …"."""
    first = error.errors()[0]
    path = [part for part in first["loc"][skip:] if part != "[key]"]
    where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).removeprefix(".")
    if first["type"] == "unexpected_keyword_argument":
        return _unknown_key(where, functools.reduce(_inner, path[:-1], cls))
    if first["type"] == "value_error":
        joint = "." if is_dataclass(functools.reduce(_inner, path, cls)) else ": "
        return f"{where}{joint}{first['ctx']['error']}".removeprefix(".")
    if first["type"] in _EXPECTED:
        expected = _EXPECTED[first["type"]].format(**first.get("ctx", {}))
    else:
        expected = first["msg"].removeprefix("Input should be ")
    return f"{where}: expected {expected}, got {first['input']!r}"


def _inner(cls: Any, part: int | str) -> Any:
    return field_types(cls).get(str(part))


def _unknown_key(where: str, section: Any) -> str:
    """Name what may be meant: fields of that name in the sections within, else the nearest name."""
    known = field_types(section)
    prefix, _, key = where.rpartition(".")
    inside = [f"{name}.{key}" for name, kind in known.items() if key in field_types(kind)]
    near = [f"{prefix}.{name}".removeprefix(".") for name in inside]
    near = near or difflib.get_close_matches(key, known, n=1)
    meant = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    return f"unknown config key {where!r}{meant} Choices: {', '.join(known)}"
