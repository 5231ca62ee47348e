"""Configs to and from dicts, YAML and single settings."""

import dataclasses
import difflib
import itertools
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from fmce.config.checks import check_choice

C = TypeVar("C")


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config as plain nested dicts, the form `from_dict` reads."""
    return dataclasses.asdict(config)


def defaults_of(cls: type) -> dict[str, Any]:
    """Return what every field with a default means where a config does not name it, as nested dicts.

    >>> from fmce.config.run import RunConfig
    >>> defaults_of(RunConfig)["train"]["schedule"]
    'cosine'
    """
    values: dict[str, Any] = {}
    for f in dataclasses.fields(cls):
        if f.default is not dataclasses.MISSING:
            values[f.name] = _plain(f.default)
        elif f.default_factory is not dataclasses.MISSING:
            values[f.name] = _plain(f.default_factory())
    return values


def _plain(value: Any) -> Any:
    """Return a value as YAML gives it back: dataclasses as dicts, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value


def from_dict(cls: type[C], values: Mapping[str, Any], *, base: C | None = None) -> C:
    """Build a config from nested dicts; what they leave out comes from `base` or the defaults.

    Args:
        cls: a config dataclass.
        values: field names to values; nested configs are dicts themselves.
        base: the config whose values hold where `values` says nothing.

    Raises:
        ValueError: an unknown key (the choices are named), a value of the wrong type or range.
    """
    return _build(cls, values, base, "")


def from_yaml(cls: type[C], path: str | Path, *, base: C | None = None) -> C:
    """Read a config from a YAML file.

    Raises:
        ValueError: the file is no YAML mapping, or its contents are no valid config.
        FileNotFoundError: there is no such file.
    """
    return from_dict(cls, read_yaml(path), base=base)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of config sections, unchecked; an empty one has none.

    Raises:
        ValueError: the file is no YAML mapping.
        FileNotFoundError: there is no such file.
        OSError: it cannot be read, such as a folder.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        place = str(error).replace("\n", " ")
        raise ValueError(f"{path} is not valid YAML: {place}") from error
    except OSError as error:
        raise type(error)(
            f"expected a YAML file of config sections at {path}, which cannot be read: {error.strerror}"
        ) from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ValueError(
            f"{path}: expected a mapping of config sections, got {type(values).__name__}"
        )
    return values


def to_yaml(config: Any) -> str:
    """Return a config as YAML text, fields in their declared order."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def with_settings(config: C, settings: Sequence[str]) -> C:
    """Return the config changed by `section.field=value` settings, a later one over those before.

    A section set as a whole changes the fields it names; the others stay as they are.

    Raises:
        ValueError: a setting has no "=", names no field, or its value is out of range.

    >>> from fmce.config.run import RunConfig
    >>> with_settings(RunConfig(), ["train.epochs=5"]).train.epochs
    5
    """
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"expected section.field=value, got {setting!r}")
        path = key.strip().split(".")
        node, kind = values, _field_type(type(config), path[0])
        for parent, below in itertools.pairwise(path):
            node, kind = node.setdefault(parent, {}), _field_type(kind, below)
            if not isinstance(node, dict):
                raise ValueError(f"{setting!r}: {parent!r} was already set to {node!r} as a whole")
        node[path[-1]] = _merged(kind, node.get(path[-1]), parse_value(setting, text))
    return from_dict(type(config), values, base=config)


def _field_type(cls: Any, name: str) -> Any:
    """Return the type of a config's field; None where there is no such field."""
    return typing.get_type_hints(cls).get(name) if dataclasses.is_dataclass(cls) else None


def _merged(kind: Any, old: Any, new: Any) -> Any:
    """Lay a section's values over those set before; anything else, free options too, replaces them."""
    if not (dataclasses.is_dataclass(kind) and isinstance(old, dict) and isinstance(new, dict)):
        return new
    return old | {k: _merged(_field_type(kind, k), old.get(k), v) for k, v in new.items()}


def parse_value(setting: str, text: str) -> Any:
    """Read a value as YAML does; an error names the setting it is of.

    Raises:
        ValueError: the text is no YAML.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or error
        raise ValueError(f"{setting!r}: the value is not valid YAML: {reason}") from error


def _build(cls: type[C], values: Mapping[str, Any], base: C | None, where: str) -> C:
    names = _field_names(cls)
    types_of = typing.get_type_hints(cls)
    hints = {name: types_of[name] for name in names}
    for key in values:
        if key not in names:
            raise ValueError(_unknown_key(where, str(key), hints))
    arguments = {} if base is None else {n: getattr(base, n) for n in names}
    for key, value in values.items():
        inner = arguments.get(key)
        arguments[key] = _convert(value, hints[key], inner, f"{where}{key}")
    return cls(**arguments)


def _convert(value: Any, hint: Any, base: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: expected a mapping, got {value!r}")
        return _build(typing.cast(type[Any], hint), value, base, f"{where}.")
    kinds = (
        typing.get_args(hint)
        if typing.get_origin(hint) in (typing.Union, types.UnionType)
        else (hint,)
    )
    if value is None and type(None) in kinds:
        return None
    if float in kinds and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:  # YAML 1.1 reads 1e-3 as text
            return float(value)
        except ValueError:
            raise ValueError(f"{where}: expected a number, got {value!r}") from None
    for kind in kinds:
        if typing.get_origin(kind) is Literal:
            check_choice(where, value, kind)
            return value
        if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
            item = typing.get_args(kind)[0]
            return tuple(_convert(v, item, None, f"{where}[{i}]") for i, v in enumerate(value))
        plain = typing.get_origin(kind) or kind
        if isinstance(value, plain) and not (plain is int and isinstance(value, bool)):
            return value
    plain_names = (getattr(typing.get_origin(k) or k, "__name__", str(k)) for k in kinds)
    # As YAML calls them.
    in_yaml = {"tuple": "a list", "dict": "a mapping", "NoneType": "null"}
    names = " or ".join(in_yaml.get(name, name) for name in plain_names)
    raise ValueError(f"{where}: expected {names}, got {value!r}")


def _unknown_key(where: str, key: str, hints: Mapping[str, Any]) -> str:
    """Name what is meant: the fields of that name in a section, else the nearest name."""
    inside = [f"{where}{name}.{key}" for name, hint in hints.items() if key in _field_names(hint)]
    near = inside or difflib.get_close_matches(key, hints, n=1)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    return f"unknown config key {where + key!r}{hint} Choices: {', '.join(hints)}"


def _field_names(cls: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
