"""Options that several commands share, and how their values reach a config."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, ParamSpec

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg

from fmce.config.choices import Split

if TYPE_CHECKING:
    from fmce.engine.runtime import Runtime


Device = Annotated[str, arg(help="auto, cpu, cuda or cuda:N", metavar="DEV")]


Precision = Annotated[Literal["float32", "bfloat16"], arg(help="of forward passes")]


RunFolder = Annotated[Positional[Path], arg(help="run folder of fmce train", metavar="RUN")]


Settings = Annotated[
    UseAppendAction[tuple[str, ...]],
    arg(name="set", help="any config value, repeatable", metavar="SECTION.FIELD=VALUE"),
]


Net = Annotated[Split, arg(help="what FMCE-Net's training held out")]


Json = Annotated[FlagCreatePairsOff[bool], arg(name="json", help="print JSON only")]


app = tyro.extras.SubcommandApp()


P = ParamSpec("P")


def command(name: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Register a subcommand whose call is put off, so that parsing is over before anything runs."""

    def register(function: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(function)
        def put_off(*args: P.args, **kwargs: P.kwargs) -> Callable[[], None]:
            return functools.partial(function, *args, **kwargs)

        app.command(name=name)(put_off)
        return function

    return register


def _runtime(device: str, precision: str = "float32", *, together: bool = False) -> "Runtime":
    from fmce.engine.runtime import make_runtime

    return make_runtime(device, precision, together=together)


def _check_options_hold(chosen: Any, options: Sequence[str]) -> None:
    """Refuse an option that a setting overrides: which of the two was meant only the user knows."""
    from fmce.config.io import with_settings

    for option in options:
        if with_settings(chosen, [option]) != chosen:
            raise ValueError(
                f"an option says {option}, but --set says something else; leave one of them out"
            )


def _assignments(values: dict[str, Any]) -> list[str]:
    import json

    return [f"{name}={json.dumps(v)}" for name, v in values.items() if v is not None]


def _print_json(wanted: bool, result: Any) -> None:
    if wanted:
        import json

        print(json.dumps(result, indent=1, allow_nan=False))
