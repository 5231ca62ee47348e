"""Starting a command that may be killed: a new Python, or a fork of this process with all libraries imported.

Each is a separate session, and SIGKILL meets every process in it.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.trial import be_the_child, command_line

SECONDS = 300


class Started:
    """A process in its own session; its errors are kept in a file."""

    def __init__(self, begin: Callable[[int], int]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the process writes)
        self.returncode: int | None = None
        self.errors = ""  # the end of what it wrote to standard error, once it has ended
        self.pid = begin(self._errors.fileno())
        self._ended = os.pidfd_open(self.pid)
        while os.getpgid(self.pid) != self.pid:  # it can be killed as a group from now on
            time.sleep(0.001)

    def wait(self, seconds: float = SECONDS) -> bool:
        """Return whether the process has ended within so many seconds."""
        if self.returncode is None and select.select([self._ended], [], [], seconds)[0]:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self._ended)
            with self._errors as file:
                file.seek(0)
                self.errors = file.read().decode(errors="replace")[-2000:]
        return self.returncode is not None

    def finish(self) -> None:
        """Wait for a good end."""
        if not self.wait():
            self.kill()
            raise AssertionError(f"no end after {SECONDS} s: {self.errors}")
        if self.returncode != 0:
            raise AssertionError(f"exit code {self.returncode}: {self.errors}")

    def kill(self) -> bool:
        """Kill with SIGKILL; False if it came too late, after a good end."""
        os.killpg(self.pid, signal.SIGKILL)
        self.wait()
        if self.returncode not in (0, -signal.SIGKILL):
            raise AssertionError(f"exit code {self.returncode}: {self.errors}")
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


def run_ranks(arguments: list[str], ranks: int) -> int:
    """Run a command in a fork for each rank, with what torchrun tells its processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    numbers = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
    children = []
    for rank in range(ranks):
        if (pid := os.fork()) == 0:
            numbers |= {"RANK": rank, "LOCAL_RANK": rank}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", **{k: str(v) for k, v in numbers.items()}}
            os._exit(command_line(arguments))
        children.append(pid)
    return max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children)


def fork(arguments: list[str], ranks: int = 1, module: str = "fmce") -> Started:
    """Start a command in a fork, which needs no seconds for its imports, or in several that train together."""

    def run() -> int:
        os.setsid()
        if ranks > 1:
            return run_ranks(arguments, ranks)
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
