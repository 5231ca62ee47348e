"""Commands that lack something: room on the disk, files they may open, memory, the folder for themselves."""

import fcntl
import os
import resource
import shutil
import signal
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


def tries(folder: Path, keep: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """Yield the name and the column of every lack whose name `keep` accepts."""
    home = folder / "resources"
    home.mkdir(exist_ok=True)
    commands = _commands(home)
    if not folders.has_video():
        del commands["frames"]
    names = [
        (f"{lack} {command}", lack, command)
        for lack in (*LACKS, "locked", "read-only")
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
        else:
            ended = forked(_with(LACKS[lack], arguments))
        column = verdict(ended, [str(home), out.name], as_before=True)
        again = fmce(arguments)
        if again.code != 0 or _files(out, files) != expected[command]:
            column = "used silently"
        yield name, column


def _fresh(home: Path, command: str) -> None:
    for name in ("x", "new", "shards"):
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
