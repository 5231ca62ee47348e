"""One try: a command in a fork of this process, what it said, and what became of a fault."""

import base64
import contextlib
import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import IO

from PIL import Image

COLUMNS = (
    "recovered",
    "refused and named",
    "refused unnamed",
    "traceback",
    "used silently",
)
BUG, JOB_SECONDS = 70, 300


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code (−n by signal n), its output, seconds, and the most megabytes held."""

    code: int
    out: str
    err: str
    seconds: float
    megabytes: float


def fmce(arguments: Sequence[object], cwd: Path | None = None, timeout: int = 120) -> Ended:
    """Run the command line in a fork: nothing is imported anew, and nothing of it stays."""

    def run() -> int:
        if cwd is not None:
            os.chdir(cwd)
        return command_line(arguments)

    return forked(run, timeout)


def command_line(arguments: Sequence[object]) -> int:
    """Run the command line in this process, which is a fork, and return its exit code; its jobs are forks too."""
    from fmce.cli.main import main
    from fmce.engine.jobs import local

    vars(local)["subprocess"] = SimpleNamespace(Popen=ForkedJob, DEVNULL=subprocess.DEVNULL)
    try:
        main([str(a) for a in arguments])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def forked(run: Callable[[], int], timeout: int = 120) -> Ended:
    """Call a function in a fork that is killed after `timeout` seconds; an error is code 70 with a traceback."""
    sys.stdout.flush()
    sys.stderr.flush()
    pipes = [os.pipe(), os.pipe()]  # no files: a try may forbid those to grow
    started = time.monotonic()
    process = os.fork()
    if process == 0:
        be_the_child(run, [writing for _, writing in pipes], timeout)
    texts = ["", ""]

    def read(index: int) -> None:
        with open(pipes[index][0], "rb") as file:
            texts[index] = file.read().decode(errors="replace")

    readers = [threading.Thread(target=read, args=(index,)) for index in (0, 1)]
    for reader, (_, writing) in zip(readers, pipes, strict=True):
        os.close(writing)
        reader.start()
    _, status, usage = os.wait4(process, 0)
    for reader in readers:
        reader.join()
    most = usage.ru_maxrss / 1024  # with what it shares with this process
    return Ended(os.waitstatus_to_exitcode(status), *texts, time.monotonic() - started, most)


class ForkedJob:
    """Stands for the process of a job, in a command that is a fork itself."""

    def __init__(
        self, _words: list[str], *, stdout: IO[bytes], pass_fds: list[int], **_more: object
    ) -> None:
        from fmce.engine.jobs import child

        def run() -> int:
            os.closerange(
                3, pass_fds[0]
            )  # as a new Python has them: the other pipes' ends with them
            os.closerange(pass_fds[0] + 1, 1024)
            child.main(pass_fds[0], threads=1)
            return 0

        self.returncode: int | None = None
        if (pid := os.fork()) == 0:
            be_the_child(run, [os.dup(stdout.fileno()) for _ in range(2)], JOB_SECONDS)
        self.pid = pid

    def poll(self, flags: int = os.WNOHANG) -> int | None:
        if self.returncode is None and (ended := os.waitpid(self.pid, flags))[0]:
            self.returncode = os.waitstatus_to_exitcode(ended[1])
        return self.returncode

    def wait(self) -> int | None:
        return self.poll(0)

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def be_the_child(run: Callable[[], int], outputs: Sequence[int], timeout: int) -> None:
    """Call a function in a fork, which ends with it; what it prints goes to two descriptors."""
    code = BUG
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(timeout)
        for output, descriptor in zip(outputs, (1, 2), strict=True):
            os.dup2(output, descriptor)
            os.close(output)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        code = run()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def verdict(ended: Ended, names: Iterable[str], as_before: bool) -> str:
    """Return the column that a try belongs to.

    Args:
        ended: How the command ended.
        names: Any of these in its output names the faulty file.
        as_before: Whether its results are those without the fault.
    """
    if ended.code in (BUG,) or ended.code < 0 or "Traceback" in ended.err:
        return "traceback"
    named = any(name in ended.err + ended.out for name in names)
    if ended.code == 0:
        return "recovered" if as_before or named else "used silently"
    return "refused and named" if named else "refused unnamed"


_FIGURE = rb"data:image/png;base64,([A-Za-z0-9+/=]+)"


def _seen(figure: re.Match[bytes]) -> bytes:
    """Return coarse shades of the fields of a figure in a page."""
    with Image.open(io.BytesIO(base64.b64decode(figure[1]))) as image:
        shades = image.convert("L").reduce(16)
    return str(shades.size).encode() + bytes(value >> 4 for value in shades.tobytes())


def results(ended: Ended, folder: Path, files: Iterable[str]) -> str:
    """Return a digest of what a command printed and wrote, without durations; of drawn figures, what an eye sees.

    The last bits of a few drawn pixels differ from one process to another.
    """
    lines = [line for line in ended.out.splitlines() if not line.startswith("resuming ")]
    digest = hashlib.sha256(re.sub(r"[\d.]+ s\b", "", "\n".join(lines)).encode())
    for pattern in files:
        for file in sorted(folder.glob(pattern)):
            if file.is_file():
                content = re.sub(_FIGURE, _seen, file.read_bytes())
                digest.update(file.name.encode() + content)
    return digest.hexdigest()
