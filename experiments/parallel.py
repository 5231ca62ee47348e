"""Many small trainings side by side, within a bounded time."""

import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any

import torch


def run_jobs(
    function: Callable[..., Any],
    jobs: Mapping[Any, tuple[Any, ...]],
    processes: int,
    until: float = math.inf,
) -> Iterator[tuple[Any, Any]]:
    """Yield each job's name and what it returned, as they end, in one thread each.

    Args:
        function: What does a job, importable by its name.
        jobs: Name → arguments, in the order of their beginning.
        processes: Jobs at a time; with 1 they run in this process.
        until: Begin none after this time of `time.monotonic()`; those that run are ended.
    """
    waiting = list(jobs.items())
    if processes == 1:
        for name, arguments in waiting:
            if time.monotonic() < until:
                yield name, function(*arguments)
        return
    context = multiprocessing.get_context("spawn")
    running: dict[Future[Any], Any] = {}
    with ProcessPoolExecutor(processes, context, torch.set_num_threads, (1,)) as pool:
        while waiting or running:
            while waiting and len(running) < processes and time.monotonic() < until:
                name, arguments = waiting.pop(0)
                running[pool.submit(function, *arguments)] = name
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()
