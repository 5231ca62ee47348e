"""Options of networks that libraries build: the arguments of their constructor that load nothing."""

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

import torch

# Some of these are read as an address or a pickle, which an option must not name.
_LOADING = {
    "weights",
    "weights_backbone",
    "progress",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
}


def check_options(
    name: str, builder: Callable[..., Any], options: Mapping[str, Any], *further: str
) -> None:
    """Refuse options that neither a builder nor its network's constructor has a parameter for.

    Builders of libraries pass on what they do not know, also to functions that load files. `further` are
    options that the library itself takes for any network.

    Raises:
        ValueError: If an option is unknown, or would load weights.
    """
    if not options:
        return
    kind = typing.get_type_hints(builder).get("return")
    if not inspect.isclass(kind):
        with torch.random.fork_rng(devices=[]):
            kind = type(builder())
    known = {*further, *_named(builder), *_named(kind)} - _LOADING
    if unknown := sorted(set(options) - known):
        raise ValueError(
            f"{name!r} takes no option {unknown[0]!r}; choices: {', '.join(sorted(known))}"
        )


def _named(function: Callable[..., Any]) -> list[str]:
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind not in variadic]
