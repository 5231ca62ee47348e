"""Processes of this machine that do jobs one after another; one that dies fails its job and no other."""

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from fmce.engine.runtime import cores

# What nearly every job needs and takes seconds to import; none of it leaves a thread of its own running.
_IMPORTED_ONCE = ("torch", "torchvision", "scipy.stats")

Job = tuple[Callable[..., Any], tuple[Any, ...]]


class Finished(NamedTuple):
    """How a job ended: `error` is one line, None where it was done; `details` a traceback if there is one."""

    name: str
    error: str | None = None
    details: str = ""


class Workers(Protocol):
    """Somewhere that jobs run; a context manager, which ends what still runs when it is left."""

    def __enter__(self) -> Self:
        """Make ready."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop; jobs that still run are ended."""
        ...

    def submit(self, name: str, function: Callable[..., Any], *args: Any) -> None:
        """Take a job: a function importable from its module, which writes its results to disk."""
        ...

    def wait(self) -> Finished:
        """Return the next job that ended."""
        ...


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    job: str | None = None


class LocalWorkers:
    """Up to `count` processes of this machine, sharing its cores; none outlives this process."""

    def __init__(self, count: int, threads: int | None = None) -> None:
        """Start nothing yet.

        Args:
            count: jobs at a time.
            threads: of torch in each; by default the cores divided by `count`, not by the jobs left:
                sums depend on the number of threads, and a job repeated after a kill must come out the same.
        """
        if count < 1:
            raise ValueError(f"expected at least 1 training at a time, got {count}")
        self.count, self.threads = count, threads or max(1, cores() // count)
        self._waiting: deque[tuple[str, Job]] = deque()
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        # Checkpoints are whole at any moment, so a worker that is interrupted need not finish its epoch.
        for worker in list(self._workers):
            self._end(worker, at_once=kind is not None or worker.job is not None)

    def submit(self, name: str, function: Callable[..., Any], *args: Any) -> None:
        """Start a job, or queue it while all workers are busy."""
        self._waiting.append((name, (function, args)))
        self._start_jobs()

    def wait(self) -> Finished:
        """Return the next job that ended, with its error if it failed or its process died."""
        busy = {worker.connection: worker for worker in self._workers if worker.job is not None}
        if not busy:
            raise ValueError("no job is running; submit one first")
        worker = busy[wait(list(busy))[0]]  # type: ignore[index]
        name, worker.job = str(worker.job), None
        try:
            error, details = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            error, details = self._death(worker), ""
        if error is not None and worker in self._workers:
            # What the failure left in that process, such as memory, must not harm the next job.
            self._end(worker, at_once=True)
        self._start_jobs()
        return Finished(name, error, details)

    def _start_jobs(self) -> None:
        while self._waiting and (worker := self._free_worker()) is not None:
            worker.job, job = self._waiting.popleft()
            with suppress(BrokenPipeError):  # it died just now, which `wait` will find
                worker.connection.send(job)

    def _free_worker(self) -> _Worker | None:
        for worker in [w for w in self._workers if w.job is None]:
            if worker.process.is_alive():
                return worker
            self._end(worker, at_once=True)  # killed between two jobs
        return self._new_worker() if len(self._workers) < self.count else None

    def _new_worker(self) -> _Worker:
        context = _context()
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.threads, dict(os.environ)))
        process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _death(self, worker: _Worker) -> str:
        worker.process.join()
        self._end(worker, at_once=True)
        code = worker.process.exitcode or 0
        return (
            f"its process was killed by signal {-code}"
            if code < 0
            else f"its process ended ({code})"
        )

    def _end(self, worker: _Worker, *, at_once: bool) -> None:
        self._workers.remove(worker)
        worker.connection.close()  # an idle one ends by itself at this
        if at_once:
            worker.process.terminate()
        worker.process.join()


def _context() -> multiprocessing.context.ForkServerContext:
    """Return how processes are made: as copies of a server that has imported torch and never used it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_IMPORTED_ONCE))
    resource_tracker.ensure_running()  # which else unblocks Ctrl-C while the server is begun
    # Ctrl-C is the parent's to handle: workers inherit that it is blocked, the server while it imports too.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def call(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[str | None, str]:
    """Call a job's function; return its error in one line and its traceback, or None and nothing."""
    try:
        function(*args)
    except Exception as error:
        line = " ".join(str(error).split()) or type(error).__name__
        known = isinstance(error, (ValueError, OSError))
        return (line if known else f"{type(error).__name__}: {line}"), traceback.format_exc()
    return None, ""


def _serve(connection: Connection, threads: int, environ: Mapping[str, str]) -> None:
    """Do the jobs that come through the pipe until it closes."""
    os.environ.update(environ)  # as it is now; the server's is of the time when that began
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    # All share the cores.
    torch.set_num_threads(min(threads, torch.get_num_threads()))
    while True:
        try:
            function, args = connection.recv()
        except EOFError:
            return
        connection.send(call(function, args))


def _end_with_parent() -> None:
    """End this process when its parent has ended, even if that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker was started by another process"
    parent.join()
    os._exit(1)
