"""The `fmce` command: one call into the library per command, and an exit code for each kind of error.

Exit codes: 2 for user errors (a one-line message), 1 when training cannot continue, 130 on Ctrl-C, 143 on
SIGTERM, 129 on SIGHUP.
FMCE_TRACEBACK=1 shows where an error arose.
"""

import contextlib
import difflib
import errno
import functools
import io
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tyro

from fmce import __version__
from fmce.cli import audit, distillation, fmce_net_pp, maturity, recorder, reports
from fmce.console.log import show_messages

# In the order in which a user meets them.
COMMANDS: dict[str, Callable[..., None]] = {
    "demo": reports.demo,
    "train": maturity.train,
    "phases": maturity.phases,
    "modules": recorder.modules,
    "watch": recorder.watch,
    "check": recorder.check,
    "extract": maturity.extract,
    "train-net": maturity.train_net,
    "evaluate": maturity.evaluate,
    "fmcs": maturity.fmcs,
    "score": maturity.score,
    "audit": audit.audit,
    "explain": maturity.explain,
    "compare": fmce_net_pp.compare,
    "sweep": fmce_net_pp.sweep,
    "distill": distillation.distill,
    "predict": distillation.predict,
    "frames": distillation.frames,
    "export": distillation.export,
    "report": reports.report,
}
# Commands whose work the processes started by torchrun share.
_DISTRIBUTED = ("train", "train-net", "extract", "distill")

# Any other error is a defect of ours and keeps its traceback. By name, because some classes need torch.
_EXIT_CODES = {
    "KeyboardInterrupt": 130,
    "BrokenPipeError": 1,
    "TrainingStoppedError": 1,
    "RankLostError": 1,
    "UnreachableError": 1,
    "OutOfMemoryError": 1,
    "ValueError": 2,
    "OSError": 2,
    "ModuleNotFoundError": 2,
}


# The parser's words for a wrong value, and ours.
_REWORDED = {
    r"Error parsing (\S+):.*could not convert string to float: ('.*')": r"\1: expected a number, got \2",
    r"Error parsing (\S+):.*invalid literal for int\(\).*: ('.*')": r"\1: expected a whole number, got \2",
    r"Error parsing (\S+): Could not find valid parse for arguments: (.*)": r"\1: cannot read \2",
    r", 'None'|'None', ": "",
    r"invalid choice ('.*') for argument '(\S+)'\. Expected one of \((.*?)\)\.": (
        r"\2: expected one of \3, got \1"
    ),
    r"Missing value for argument '(\S+)'.*": r"\1: expected a value",
    r"Unrecognized options: (.*)": r"unknown options: \1",
}.items()


class StoppedBySignal(KeyboardInterrupt):
    """SIGTERM or SIGHUP came: from a scheduler, `kill`, or a terminal that was closed."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments == ["--version"]:
        print(f"fmce {__version__}")
        return
    # Where JSON is asked for, standard output holds nothing else.
    show_messages(logging.WARNING if "--json" in arguments else logging.INFO)
    try:
        with _signals_end_like_ctrl_c():
            _check_processes(arguments)
            _parse(arguments or ["--help"])()
    except (Exception, KeyboardInterrupt) as error:
        code = _exit_code(error)
        if _rank() > 0:
            _let_the_first_report(error)
        if code is None or os.environ.get("FMCE_TRACEBACK"):
            raise
        _report(error)
        sys.exit(code)


@contextlib.contextmanager
def _signals_end_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM and SIGHUP interrupt the main thread; one that is ignored, as under nohup, stays so."""

    def stop(number: int, _frame: object) -> None:
        raise StoppedBySignal(number)

    taken = []
    if threading.current_thread() is threading.main_thread():
        default = (
            n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) == signal.SIG_DFL
        )
        taken = [number for number in default if signal.signal(number, stop) is not None]
    try:
        yield
    finally:
        for number in taken:  # several processes that train together have set their own meanwhile
            if signal.getsignal(number) is stop:
                signal.signal(number, signal.SIG_DFL)


def _rank() -> int:
    """Return this process's rank among those started by torchrun; 0 without torchrun."""
    return int(os.environ.get("RANK", "0")) if "WORLD_SIZE" in os.environ else 0


def _check_processes(arguments: Sequence[str]) -> None:
    """Refuse several processes for a command that uses one: each would write the same files."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return
    if arguments and not arguments[0].startswith("-") and arguments[0] not in _DISTRIBUTED:
        raise ValueError(
            f"fmce {arguments[0]} runs in one process, but torchrun started "
            f"{os.environ['WORLD_SIZE']}; call it without torchrun. Several processes share: "
            f"{', '.join(_DISTRIBUTED)}"
        )


def _parse(arguments: Sequence[str]) -> Callable[[], None]:
    """Return the call that the arguments ask for; a mistake in them ends the program with one line."""
    if (name := arguments[0]) not in COMMANDS and not name.startswith("-"):
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown command {name!r}; {meant}Commands: {', '.join(COMMANDS)}")
    app = tyro.extras.SubcommandApp()
    for name, command in COMMANDS.items():
        app.command(name=name)(_deferred(command))
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            call: Callable[[], None] = app.cli(
                prog="fmce",
                description="Maturity of a network's modules, from feature maps. See also --version.",
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as end:
        if end.code == 2:
            line = _first_part(messages.getvalue())
            for theirs, ours in _REWORDED:
                line = re.sub(theirs, ours, line)
            print(f"fmce: {line}; see --help", file=sys.stderr)
        raise
    return call


def _deferred(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """Return a function that parsing may call: the command itself runs when parsing is over."""

    @functools.wraps(command)
    def bind(*args: Any, **kwargs: Any) -> Callable[[], None]:
        return functools.partial(command, *args, **kwargs)

    return bind


def _first_part(box: str) -> str:
    """Return the text of a drawn box up to its first rule, on one line."""
    rows = [row.strip("│ \n") for row in box.splitlines()]
    inside = [row for row in rows if row and row[0] not in "╭╰"]
    if len(inside) > 1 and set(inside[1]) == {"-"}:
        inside = inside[2:]  # where output is not UTF-8, the title stands inside the box
    rule = next((i for i, row in enumerate(inside) if set(row) <= {"─", "-"}), len(inside))
    return " ".join(" ".join(inside[:rule]).split())


def _exit_code(error: BaseException) -> int | None:
    """Return the exit code of an error by its nearest class in the table, None for a defect of ours."""
    if isinstance(error, StoppedBySignal):
        return 128 + error.number
    names = (kind.__name__ for kind in type(error).__mro__)
    return next((_EXIT_CODES[name] for name in names if name in _EXIT_CODES), None)


def _let_the_first_report(error: BaseException) -> None:
    """Wait a little: most errors meet all ranks alike, and torchrun stops this one when the first has ended."""
    from fmce.engine.distributed.rank_failure import note_failure

    if isinstance(error, Exception):
        note_failure()
        time.sleep(1)


def _report(error: BaseException) -> None:
    """Print an error on one line."""
    rank = _rank()
    if isinstance(error, BrokenPipeError):
        # The reader went away (`| head`); a second failure at exit would print a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    elif not isinstance(error, KeyboardInterrupt):
        print(f"fmce{f' (rank {rank})' if rank else ''}: {_line_of(error)}", file=sys.stderr)
        if _lacks_files(error):
            # What libraries began to open is half made, and prints a traceback where it is cleared away.
            sys.unraisablehook = lambda _error: None
    elif rank == 0:
        how = "interrupted"
        if isinstance(error, StoppedBySignal):
            how = f"stopped by {signal.Signals(error.number).name}"
        print(f"{how}; rerun the command to resume from the last checkpoint", file=sys.stderr)


def _lacks_files(error: BaseException | None) -> bool:
    """Return whether an error, or one that it was raised from, is that no more files may be open."""
    while error is not None:
        if isinstance(error, OSError) and error.errno == errno.EMFILE:
            return True
        error = error.__cause__
    return False


def _line_of(error: BaseException) -> str:
    """Return an error's message on one line; PyTorch's about memory gets a remedy."""
    line = " ".join(str(error).split())
    if _lacks_files(error):
        return f"{line}; raise the limit of open files (ulimit -n)"
    if type(error).__name__ != "OutOfMemoryError":
        return line
    return (
        f"{line} What takes less: a smaller train.batch_size, fmce_net.shuffle_buffer or data.image_size, or "
        "--precision bfloat16; each makes another run, in its own folder"
    )


if __name__ == "__main__":
    main()
