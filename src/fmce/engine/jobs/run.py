"""Independent jobs in processes of their own: all are run to their end before a failure is told."""

from collections.abc import Callable, Mapping
from typing import Any

from fmce.console.progress import Progress
from fmce.engine.jobs.local import LocalWorkers


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
    failures = {}
    with LocalWorkers(workers) as pool:
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
            f"{len(failures)} of {len(arguments)} {what} failed, first {name}: {str(error).rstrip('.')}. "
            "The others are kept; the same command goes on with what is missing"
        )
