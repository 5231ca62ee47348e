"""Options that several commands share, and how options are described."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg

from fmce.config import choices

if TYPE_CHECKING:
    from fmce.engine.runtime import Runtime


def required(text: str, metavar: str | None = None) -> Any:
    """Describe an argument that must be given."""
    return arg(help=text, metavar=metavar)


def option(text: str, metavar: str | None = None, *, name: str | None = None) -> Any:
    """Describe an option; `--help` shows its default where that is a value."""
    return arg(help=text, metavar=metavar, name=name, help_behavior_hint=_default_hint)


def _default_hint(default: str) -> str:
    return "" if default in ("None", "False", "") else f"(default: {default})"


RunFolder = Annotated[Positional[Path], required("run folder of fmce train", "RUN")]
OutputFolder = Annotated[Path, required("folder to write; resumed if unfinished", "FOLDER")]

OwnModelName = Annotated[
    str | None,
    option("of a recorded run: module:function that returns the network", "NAME", name="model"),
]
OwnDataName = Annotated[
    str | None,
    option("of a recorded run: module:function that returns the images", "NAME", name="data"),
]
OwnLayer = Annotated[
    str | None, option("of a recorded run: submodule that gives the maps", "NAME", name="layer")
]

Flag = FlagCreatePairsOff[bool]
Texts = UseAppendAction[tuple[str, ...]]

Settings = Annotated[
    Texts, option("any config value; repeatable", "SECTION.FIELD=VALUE", name="set")
]
ConfigFile = Annotated[Path | None, option("YAML file, over the preset", "FILE")]
Jobs = Annotated[int | None, option("trainings at a time; default: one per core or GPU", "N")]
Device = Annotated[str, option("auto, cpu, cuda or cuda:N", "DEV")]
Precision = Annotated[choices.Precision, option("float32 or bfloat16, of forward passes", "NAME")]
Split = Annotated[choices.Split, option("which FMCE-Net, by what its training held out")]
Trust = Annotated[Flag, option("run functions that the folder's config names")]
Json = Annotated[Flag, option("print JSON only", name="json")]


def runtime_of(device: str, precision: str = "float32", *, distributed: bool = False) -> "Runtime":
    """Return where and how a command computes; with `distributed`, the processes of torchrun share it."""
    from fmce.engine.runtime import make_runtime

    return make_runtime(device, precision, together=distributed)


def print_json(result: Mapping[str, Any] | list[Any]) -> None:
    """Print a result as JSON."""
    import json

    print(json.dumps(result, indent=1, allow_nan=False))
