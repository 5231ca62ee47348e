"""Configs to and from nested dicts, YAML files and `section.field=value` settings."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic_core import to_jsonable_python

from fmce.config.checks import field_types, validate
from fmce.digests import check_regular, read_sealed
from fmce.files import wanted_by

_C = TypeVar("_C")


# Bytes of a config; the largest of ours has a few thousand.
_MOST_BYTES = 2**18


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number, as YAML 1.2 does; to YAML 1.1 it is text. Aliases, which can multiply, are refused."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not supported; write the value out")
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config as plain nested dicts, the form that `from_dict` reads."""
    return asdict(config)


def to_yaml(config: Any) -> str:
    """Return a config as YAML text, fields in their declared order."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def defaults_of(cls: Any) -> dict[str, Any]:
    """Return what every field with a default means where a config does not name it, as nested dicts.

    >>> from fmce.config.run import RunConfig
    >>> defaults_of(RunConfig)["train"]["schedule"]
    'cosine'
    """
    values: dict[str, Any] = {}
    for f in fields(cls):
        if f.default is not MISSING:
            values[f.name] = to_jsonable_python(f.default)
        elif f.default_factory is not MISSING:
            values[f.name] = to_jsonable_python(f.default_factory())
    return values


def from_dict(cls: type[_C], values: Mapping[str, Any], *, base: _C | None = None) -> _C:
    """Build a config from nested dicts; what they leave out comes from `base` or the defaults.

    Raises:
        ValueError: If a key is unknown, or a value has the wrong type or range.
    """
    return validate(cls, values if base is None else _overlay(cls, to_dict(base), values))


def from_yaml(cls: type[_C], path: str | Path, *, base: _C | None = None) -> _C:
    """Read a config from a YAML file; errors as `read_yaml` and `from_dict`."""
    with wanted_by(path):
        return from_dict(cls, read_yaml(path), base=base)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of config sections, unchecked; an empty one has none.

    Raises:
        ValueError: If the file is not a YAML mapping, or not as `fmce` wrote it.
        OSError: If it cannot be read, for example because it is a folder.
    """
    try:
        check_regular(Path(path), _MOST_BYTES)
        text = read_sealed(Path(path), "config sections in YAML")
        values = _parse(text)
    except yaml.YAMLError as error:
        place = " ".join(str(error).split())
        raise ValueError(f"{path} is not valid YAML ({place}); correct it there") from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ValueError(
            f"{path}: expected a mapping of sections, got {type(values).__name__}; write them as section: values"
        )
    return values


def with_settings(config: _C, settings: Sequence[str]) -> _C:
    """Return the config changed by `section.field=value` texts, whose values are YAML; later ones win.

    A section set as one value changes the fields it names and leaves the others.

    Raises:
        ValueError: If a setting cannot be read, names no field, or its value is out of range.

    >>> from fmce.config.run import RunConfig
    >>> with_settings(RunConfig(), ["train.epochs=5"]).train.epochs
    5
    """
    return with_options(config, {}, settings)


def with_options(config: _C, options: Mapping[str, Any], settings: Sequence[str]) -> _C:
    """Return the config changed by a command's options and settings; see `merge_options`."""
    return from_dict(type(config), merge_options(type(config), options, settings), base=config)


def merge_options(cls: type, options: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Return a command's options and settings as nested dicts of one config class.

    Args:
        cls: The config class that both belong to.
        options: "section.field" to value; None stands for an option that was not given.
        settings: `section.field=value` texts.

    Raises:
        ValueError: If a setting cannot be read, or contradicts an option.

    >>> from fmce.config.run import RunConfig
    >>> merge_options(RunConfig, {"train.epochs": 5, "train.seed": None}, ["data.flip=true"])
    {'train': {'epochs': 5}, 'data': {'flip': True}}
    """
    given = [(name, value) for name, value in options.items() if value is not None]
    values: dict[str, Any] = {}
    for name, value in [*given, *map(_read_setting, settings)]:
        _put(cls, values, name, value)
    for name, value in given:
        if _value_at(values, name) != value:
            raise ValueError(
                f"conflicting values for {name}: given as an option and via --set; remove one"
            )
    return values


def parse_value(setting: str, text: str) -> Any:
    """Read a value as YAML; an error names the setting that it belongs to."""
    try:
        return _parse(text)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or error
        raise ValueError(f"{setting!r}: the value is not valid YAML: {reason}") from error


def _read_setting(setting: str) -> tuple[str, Any]:
    name, equals, text = setting.partition("=")
    if not equals or not name.strip():
        raise ValueError(f"expected section.field=value, got {setting!r}")
    return name.strip(), parse_value(setting, text)


def _put(cls: type, values: dict[str, Any], name: str, value: Any) -> None:
    """Put the value of a dotted name into nested dicts of a config class."""
    *sections, last = name.split(".")
    node, kind = values, cls
    for section in sections:
        node, kind = node.setdefault(section, {}), field_types(kind).get(section, object)
        if not isinstance(node, dict):
            raise ValueError(f"{name}: {section!r} was already set to {node!r} as a whole")
    node[last] = _overlay(field_types(kind).get(last), node.get(last), value)


def _value_at(values: Any, name: str) -> Any:
    for part in name.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _parse(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (it is a SafeLoader)
    except yaml.YAMLError:
        raise
    except RecursionError as error:
        raise yaml.YAMLError("too deep a nesting") from error
    except Exception as error:  # what its constructors make of "!!int x" or a date that is none
        raise yaml.YAMLError(str(error)) from error


def _overlay(kind: Any, under: Any, over: Any) -> Any:
    """Lay a section's values over others field by field; anything else, free options too, replaces them."""
    if not (is_dataclass(kind) and isinstance(under, Mapping) and isinstance(over, Mapping)):
        return over
    types = field_types(kind)
    return {**under, **{k: _overlay(types.get(k), under.get(k), v) for k, v in over.items()}}
