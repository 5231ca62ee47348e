"""The `fmce` command: each subcommand is one call into the library.

A user's mistake ends with one line and exit code 2, a training that cannot go on with 1, Ctrl-C with
130. Set FMCE_TRACEBACK=1 to see where an error arose.
"""

import contextlib
import io
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence

import tyro

from fmce import __version__
from fmce.cli import distillation, fmce_net_pp, maturity, reports  # noqa: F401  (they register their commands)
from fmce.cli.options import app
from fmce.console.log import show_messages

_FULL = "OutOfMemoryError"  # torch's, which a command without torch must not import

# Commands whose work the processes that torchrun starts share.
_TOGETHER = ("train", "train-net", "extract", "distill")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments == ["--version"]:
        print(f"fmce {__version__}")
        return
    rank = _rank()
    try:
        # Where JSON is asked for, standard output holds nothing else; of several ranks the first reports.
        silent = rank > 0 or "--json" in arguments
        show_messages(logging.WARNING if silent else logging.INFO)
        _check_processes(arguments)
        _parse(arguments or ["--help"])()
    except KeyboardInterrupt:
        if rank == 0:
            print(
                "interrupted; the same command goes on from the last whole epoch", file=sys.stderr
            )
        sys.exit(130)
    except BrokenPipeError:
        # The reader went away (`| head`); a second failure at exit would print a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        code = _exit_code(error)
        if rank > 0:
            _let_the_first_speak()
        if code is None or os.environ.get("FMCE_TRACEBACK"):
            raise
        where = f" (rank {rank})" if rank > 0 else ""
        print(f"fmce{where}: {_line_of(error)}", file=sys.stderr)
        sys.exit(code)


def _rank() -> int:
    """Return this process's number among those that torchrun started; 0 without torchrun."""
    return int(os.environ.get("RANK", "0")) if "WORLD_SIZE" in os.environ else 0


def _check_processes(arguments: Sequence[str]) -> None:
    """Refuse several processes for what one process does: each would write the same files."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return
    if arguments and not arguments[0].startswith("-") and arguments[0] not in _TOGETHER:
        raise ValueError(
            f"fmce {arguments[0]} runs in one process, but torchrun started "
            f"{os.environ['WORLD_SIZE']}; call it without torchrun. Several processes share: "
            f"{', '.join(_TOGETHER)}"
        )


def _let_the_first_speak() -> None:
    """Wait a little: most errors meet all ranks alike, and torchrun stops this one when the first has ended."""
    from fmce.engine.distributed.rank_failure import note_failure

    note_failure()
    time.sleep(1)


def _parse(arguments: Sequence[str]) -> Callable[[], None]:
    """Return what the arguments ask for; a mistake in them ends the program with one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            action: Callable[[], None] = app.cli(
                prog="fmce",
                description="Maturity of a network's modules, from feature maps. See also --version.",
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as end:
        if end.code == 2:
            print(f"fmce: {_first_part(said.getvalue())}; see --help", file=sys.stderr)
        raise
    return action


def _first_part(box: str) -> str:
    """Return the text of a drawn box up to its first rule, on one line."""
    rows = [row.strip("│ \n") for row in box.splitlines()]
    inside = [row for row in rows if row and row[0] not in "╭╰"]
    if len(inside) > 1 and set(inside[1]) == {"-"}:
        inside = inside[2:]  # where output is no UTF-8, the title stands inside the box
    rule = next((i for i, row in enumerate(inside) if set(row) <= {"─", "-"}), len(inside))
    return " ".join(" ".join(inside[:rule]).split())


def _exit_code(error: Exception) -> int | None:
    """Return 2 for what the user can mend, 1 for what stopped and can go on, None for a defect of ours."""
    if isinstance(error, (ValueError, OSError, ModuleNotFoundError)):
        return 2
    stopped = ("TrainingStoppedError", "RankLostError", "UnreachableError", _FULL)
    return 1 if type(error).__name__ in stopped else None


def _line_of(error: Exception) -> str:
    """Return an error on one line, with the remedy where PyTorch names none of ours."""
    line = " ".join(str(error).split())
    if type(error).__name__ != _FULL:
        return line
    return (
        f"{line} What takes less: a smaller train.batch_size, fmce_net.shuffle_buffer or data.image_size, or "
        "--precision bfloat16; each makes another run, in a folder of its own"
    )


if __name__ == "__main__":
    main()
