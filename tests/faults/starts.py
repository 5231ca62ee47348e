"""Starting a command that may be killed: a Python of its own, or a fork of this process with all libraries imported.

Both are sessions of their own, and SIGKILL meets every process in them. The jobs of a fork are forks too.
"""

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import IO

from tests.faults.trial import be_the_child, command_line

SECONDS = 300


class Started:
    """A process in its own session; its errors are kept in a file."""

    def __init__(self, begin: Callable[[int], int]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the process writes)
        self.returncode: int | None = None
        self.pid = begin(self._errors.fileno())
        self._ended = os.pidfd_open(self.pid)
        while os.getpgid(self.pid) != self.pid:  # it can be killed as a group from now on
            time.sleep(0.001)

    def wait(self, seconds: float = SECONDS) -> bool:
        """Return whether the process has ended within so many seconds."""
        if self.returncode is None and select.select([self._ended], [], [], seconds)[0]:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self._ended)
        return self.returncode is not None

    def errors(self) -> str:
        """Return the end of what it wrote to standard error."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-2000:]

    def finish(self) -> None:
        """Wait for a good end."""
        if not self.wait():
            self.kill()
            raise AssertionError(f"no end after {SECONDS} s: {self.errors()}")
        if self.returncode != 0:
            raise AssertionError(f"exit code {self.returncode}: {self.errors()}")

    def kill(self) -> bool:
        """Kill with SIGKILL; False if it came too late, after a good end."""
        os.killpg(self.pid, signal.SIGKILL)
        self.wait()
        if self.returncode not in (0, -signal.SIGKILL):
            raise AssertionError(f"exit code {self.returncode}: {self.errors()}")
        return self.returncode != 0


def start(arguments: list[str], ranks: int = 1, module: str = "fmce") -> Started:
    """Start a command in a new Python, or in several that train together."""
    words = ["torch.distributed.run", "--nproc-per-node", str(ranks), "--local-addr=127.0.0.1"]
    words += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "-m"]

    def begin(errors: int) -> int:
        process = subprocess.Popen(
            [sys.executable, "-m", *(words if ranks > 1 else []), module, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        process.returncode = 0  # it is waited for here, by its number
        return process.pid

    return Started(begin)


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
            be_the_child(run, [os.dup(stdout.fileno()) for _ in range(2)], SECONDS)
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


def fork(arguments: list[str], module: str = "fmce") -> Started:
    """Start a command in a fork, which needs no seconds for its imports."""

    def run() -> int:
        from fmce.engine.jobs import local

        os.setsid()
        vars(local)["subprocess"] = SimpleNamespace(Popen=ForkedJob)
        if module == "fmce":
            return command_line(arguments)
        from tests.faults.own_loop import train

        train(Path(arguments[0]))
        return 0

    def begin(errors: int) -> int:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        if (process := os.fork()) == 0:
            be_the_child(run, [nowhere, os.dup(errors)], SECONDS)
        os.close(nowhere)
        return process

    return Started(begin)
