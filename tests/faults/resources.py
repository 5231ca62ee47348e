"""Commands that lack something: room on the disk, files they may open, their folder, or that for themselves."""

import fcntl
import os
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults import folders
from tests.faults.trial import Ended, command_line, fmce, forked, results, verdict


def _commands(home: Path) -> dict[str, tuple[list[object], Path, tuple[str, ...]]]:
    """Return commands with the folder that they write and the results to compare."""
    run, video = home / "x", home / "clip.mp4"
    return {
        "train": (
            ["train", "--out", home / "new", *folders.settings(folders.RUN)],
            home / "new",
            ("phases.json", "checkpoints/*/model.safetensors"),
        ),
        "train-net": (
            ["train-net", run, "--split", "image"],
            run,
            ("fmce_net/image/metrics.json",),
        ),
        "extract": (["extract", run], run, ("maps.zarr/*/*/c/*/*/*/*",)),
        "report": (["report", run], run, ("report.html",)),
        "frames": (
            ["frames", video, "--every", "1", "--workers", "1", "--out", home / "shards"],
            home / "shards",
            ("*.tar", "shards.json"),
        ),
    }


def _limit(kind: int, value: int) -> Callable[[], None]:
    def apply() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as a full disk: an error, no signal
        resource.setrlimit(kind, (value, value))

    return apply


LACKS: dict[str, Callable[[], None]] = {
    **{
        f"disk {size}": _limit(resource.RLIMIT_FSIZE, size) for size in (0, 100, 1000, 5000, 20_000)
    },
    **{f"files {count}": _limit(resource.RLIMIT_NOFILE, count) for count in (8, 12, 16)},
}


def _with(lack: Callable[[], None], arguments: list[object]) -> Callable[[], int]:
    def run() -> int:
        lack()
        return command_line(arguments)

    return run


def _removed(home: Path, out: Path, arguments: list[object]) -> Callable[[], int]:
    """Return a command whose folder is moved away while it works: at its first line of metrics, or soon."""
    existed = out.exists()

    def move() -> None:
        while not existed and not (out / "metrics.jsonl").exists():
            time.sleep(0.001)
        time.sleep(0.05)
        out.rename(home / "moved")

    def run() -> int:
        threading.Thread(target=move, daemon=True).start()
        return command_line(arguments)

    return run


def _twice(arguments: list[object]) -> Callable[[], int]:
    """Return a command that another process runs at the same time on the same folder; the greater exit code counts."""

    def run() -> int:
        other = os.fork()
        code = command_line(arguments)
        if other == 0:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        return max(code, os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]))

    return run


def tries(folder: Path, keep: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """Yield the name and the column of every lack whose name `keep` accepts."""
    home = folder / "resources"
    home.mkdir(exist_ok=True)
    commands = _commands(home)
    if not folders.has_video():
        del commands["frames"]
    names = [
        (f"{lack} {command}", lack, command)
        for lack in (*LACKS, "locked", "read-only", "removed", "two processes")
        for command in commands
    ]
    left = [row for row in names if keep(row[0])]
    if left and not (home / "made").exists():
        folders.copy_of_run(folder, home / "whole")
        shutil.rmtree(home / "whole" / "maps.zarr")
        if folders.has_video():
            folders.make_video(home / "clip.mp4")
        (home / "made").touch()
    expected: dict[str, str] = {}
    for name, lack, command in left:
        arguments, out, files = commands[command]
        if command not in expected:
            expected[command] = _whole(home, commands, command)
        _fresh(home, command)
        if lack == "locked":
            ended = _while_locked(out, arguments)
        elif lack == "read-only":
            out.mkdir(exist_ok=True)
            out.chmod(0o555)
            ended = fmce(arguments)
            out.chmod(0o755)
        elif lack == "removed":
            ended = forked(_removed(home, out, arguments))
        elif lack == "two processes":
            ended = forked(_twice(arguments))
        else:
            ended = forked(_with(LACKS[lack], arguments))
        column = verdict(ended, [str(home), out.name], as_before=True)
        if (home / "moved").exists():
            if out.exists():  # made anew in part
                yield name, "used silently"
                continue
            (home / "moved").rename(out)
        again = fmce(arguments)
        if again.code != 0 or _files(out, files) != expected[command]:
            column = "used silently"
        yield name, column


def _fresh(home: Path, command: str) -> None:
    for name in ("x", "new", "shards", "moved"):
        shutil.rmtree(home / name, ignore_errors=True)
    shutil.copytree(home / "whole", home / "x")
    if command == "train-net":
        folders.must(["extract", home / "x"])


def _whole(home: Path, commands: dict, command: str) -> str:
    _fresh(home, command)
    arguments, out, files = commands[command]
    folders.must(arguments)
    return _files(out, files)


def _files(out: Path, files: tuple[str, ...]) -> str:
    return results(Ended(0, "", "", 0.0, 0.0), out, files)


def _while_locked(out: Path, arguments: list[object]):
    out.mkdir(exist_ok=True)
    with open(out / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ended = fmce(arguments)
    if not any(p.name != ".lock" for p in out.iterdir()):
        os.unlink(out / ".lock")
    return ended
