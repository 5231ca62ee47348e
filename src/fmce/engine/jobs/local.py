"""A bounded queue of jobs for processes of this machine; one that dies fails its job and no other.

The processes are started afresh: a script without an `if __name__ == "__main__"` guard may queue jobs.
"""

import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import IO, Any, Self

from fmce.console.log import logger
from fmce.console.progress import Progress
from fmce.engine.jobs.job import Finished, Job
from fmce.engine.runtime import cores


@dataclass
class _Child:
    """A process that does one job after another, and what it wrote up to the last one's end."""

    process: subprocess.Popen[bytes]
    connection: Connection
    log: IO[bytes]
    job: str | None = None
    read: int = 0

    def output(self) -> list[str]:
        """Return the lines written since the last call."""
        # The position in the file is the process's too, and must not move.
        text = os.pread(self.log.fileno(), os.fstat(self.log.fileno()).st_size, self.read)
        self.read += len(text)
        return [line for line in text.decode(errors="replace").splitlines() if line.strip()]

    def death(self) -> str:
        """Say in one line how the process died, with the last lines that it wrote."""
        code = self.process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended ({code})"
        lines = self.output()[-3:]
        return f"its process {how}" + (f": {' | '.join(lines)}" if lines else "")

    def end(self) -> None:
        self.process.kill()  # it ignores what ends its group
        self.process.wait()
        self.connection.close()
        self.log.close()


class LocalWorkers:
    """Up to `count` processes of this machine, sharing its cores; none outlives this process.

    Contexts may be nested, so that what needs them one after the other shares them; leaving the outermost ends them.
    """

    def __init__(self, count: int) -> None:
        """Start nothing yet; `count` is the number of jobs at a time.

        Raises:
            ValueError: If `count` is below 1.
        """
        if count < 1:
            raise ValueError(f"expected at least 1 training at a time, got {count}")
        # Not divided by the jobs left: sums depend on the number of threads, and a job repeated after a
        # kill must come out the same.
        self.count, self.threads = count, max(1, cores() // count)
        self._waiting: deque[Job] = deque()
        self._children: list[_Child] = []
        self._depth = 0

    def __enter__(self) -> Self:
        self._depth += 1
        return self

    def __exit__(self, *_error: object) -> None:
        self._depth -= 1
        if self._depth:
            return
        # Checkpoints are complete at any moment, so a job that is interrupted need not finish its epoch.
        while self._children:
            self._children.pop().end()

    def submit(self, name: str, function: Callable[..., Any], *args: Any) -> None:
        """Start a job, or queue it while all processes are busy; see `Job`."""
        self._waiting.append(Job(name, function, args))
        self._start_jobs()

    def wait(self) -> Finished:
        """Return the next job that ended; what it wrote is passed on as warnings."""
        busy = {child.connection: child for child in self._children if child.job is not None}
        if not busy:
            raise ValueError("no job is running; submit one first")
        child = busy[wait(list(busy))[0]]  # type: ignore[index]
        name, child.job = str(child.job), None
        try:
            ended: Finished = child.connection.recv()
        except (EOFError, ConnectionResetError):
            ended = Finished(name, child.death())
        for line in child.output():
            logger.warning("%s: %s", name, line)
        if ended.error is not None:
            # What the failure left in that process, such as memory, must not harm the next job.
            self._children.remove(child)
            child.end()
        self._start_jobs()
        return ended

    def _start_jobs(self) -> None:
        while self._waiting and (child := self._free_child()) is not None:
            job = self._waiting.popleft()
            child.job = job.name
            with suppress(ConnectionError):  # it died just now, which `wait` will find
                child.connection.send(job)

    def _free_child(self) -> _Child | None:
        for child in [child for child in self._children if child.job is None]:
            if child.process.poll() is None:
                return child
            self._children.remove(child)  # killed between two jobs
            child.end()
        return self._new_child() if len(self._children) < self.count else None

    def _new_child(self) -> _Child:
        ours, theirs = Pipe()
        log = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the process writes)
        entry = ("fmce.engine.jobs.child", str(theirs.fileno()), str(self.threads))
        process = subprocess.Popen(  # noqa: S603  (this interpreter)
            [sys.executable, "-uPm", *entry],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[theirs.fileno()],
            # What this process can import, the jobs can.
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        theirs.close()  # so that the end of the process is the end of the pipe
        self._children.append(_Child(process, ours, log))
        return self._children[-1]


def run_jobs(
    function: Callable[..., Any],
    arguments: Mapping[str, tuple[Any, ...]],
    workers: int | LocalWorkers,
    progress: Progress,
    *,
    what: str = "trainings",
    on_done: Callable[[str], None] = lambda _name: None,
) -> None:
    """Run `function` once for each named tuple of arguments, `workers` at a time.

    Args:
        function: Importable from its module; writes its results to disk, so that a rerun can leave out
            the jobs that were done.
        arguments: A job's name to its arguments.
        workers: The processes, or how many to start.
        progress: Advanced once per job.
        what: What the jobs are, for messages.
        on_done: Called with each job's name once it is done; what it raises ends the others.

    Raises:
        ValueError: If a job failed; all others were run to their end first.
    """
    failures = {}
    with LocalWorkers(workers) if isinstance(workers, int) else workers as pool:
        for name, values in arguments.items():
            pool.submit(name, function, *values)
        for _ in arguments:
            ended = pool.wait()
            if ended.error is None:
                progress.advance(ended.name)
                on_done(ended.name)
            else:
                failures[ended.name] = ended.error
    if failures:
        name, error = next(iter(failures.items()))
        raise ValueError(
            f"{len(failures)} of {len(arguments)} {what} failed, first {name}: {error.rstrip('.')}. "
            "The others are kept; rerun the command for what is missing"
        )
