"""Independent jobs in processes of their own, sharing the cores; none outlives this process."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any

from fmce.engine.progress import Progress
from fmce.engine.runtime import cores


def run_jobs(
    function: Callable[..., Any],
    arguments: Mapping[str, tuple[Any, ...]],
    workers: int,
    progress: Progress,
    *,
    what: str = "trainings",
    on_done: Callable[[str], None] = lambda _name: None,
) -> None:
    """Run `function` once for each named tuple of arguments, `workers` at a time.

    Args:
        function: importable from its module; writes its results to disk, so that a job that was
            done need not be given again.
        arguments: a job's name to its arguments.
        workers: processes.
        progress: advanced once a job.
        what: what the jobs are, for messages.
        on_done: called with each job's name once it is done; what it raises ends the others.

    Raises:
        ValueError: a job failed; all others were run to their end first.
    """
    if not arguments:
        return
    # Threads by the workers asked for, not by the jobs left: sums depend on the number of threads, and
    # a job repeated after a kill must come out the same.
    with _pool(min(workers, len(arguments)), max(1, cores() // workers)) as pool:
        futures = {pool.submit(function, *values): name for name, values in arguments.items()}
        _collect(futures, progress, what, on_done)


def _collect(
    futures: Mapping[Future[None], str],
    progress: Progress,
    what: str,
    on_done: Callable[[str], None],
) -> None:
    failures = {}
    for future in as_completed(futures):
        error = future.exception()
        if error is not None:
            failures[futures[future]] = error
        else:
            progress.advance(futures[future])
            on_done(futures[future])
    if failures:
        name, error = next(iter(failures.items()))
        raise ValueError(
            f"{len(failures)} of {len(futures)} {what} failed, first {name}: {error}. "
            "The others are kept; the same command goes on with what is missing"
        ) from error


@contextmanager
def _pool(count: int, threads: int) -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        count, mp_context=context, initializer=_start_worker, initargs=(os.getpid(), threads)
    )
    try:
        yield pool
    except BaseException:
        # Interrupted: checkpoints are whole at any moment, so workers need not finish their epoch.
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(parent: int, threads: int) -> None:
    """Share the cores between workers, and end with the parent even if that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    import torch

    torch.set_num_threads(min(threads, torch.get_num_threads()))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
