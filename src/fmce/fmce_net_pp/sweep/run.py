"""`fmce sweep`: FMCE-Net++ over models, data sets, RAFs and seeds, with controls, as independent trainings.

Each group (a model on a data set) goes through four waves: its oracle; baseline and FMCE-Net++ at every
RAF; the controls at the RAF that validation images picked; test images, read once. Groups do not wait
for each other. A group with a failed candidate picks nothing, unless told to leave it out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fmce.config.io import defaults_of, to_yaml
from fmce.config.sweep import SweepConfig
from fmce.console.progress import Progress
from fmce.engine.jobs.local import Finished, LocalWorkers, Workers
from fmce.engine.runtime import cores, make_runtime
from fmce.files import write_json
from fmce.fmce_net_pp.arms import check_is_that_arm
from fmce.fmce_net_pp.sweep.grid import ORACLE, Group, SweepRun, make_groups
from fmce.fmce_net_pp.sweep.jobs import (
    Task,
    note_state,
    read_test,
    run_task,
    train_oracle,
    train_sweep_arm,
)
from fmce.fmce_net_pp.sweep.results import (
    Table,
    oracle_is_ready,
    print_sweep,
    sweep_result,
    unread_folders,
    write_comparisons,
    write_rows,
)
from fmce.fmce_net_pp.sweep.selection import pick
from fmce.runs.log import lock_run, mark_done, read_done
from fmce.runs.run import Run, open_run

Engine = Literal["local", "ray"]


@dataclass(frozen=True)
class Place:
    """Device and precision of every training, resolved on the machine that does it."""

    device: str = "auto"
    precision: str = "float32"


def sweep(
    config: SweepConfig,
    out: Path,
    *,
    workers: Workers | None = None,
    retries: int = 1,
    leave_out_failed: bool = False,
    device: str = "auto",
    precision: str = "float32",
    table: Table = "csv",
    quiet: bool = False,
) -> dict[str, Any]:
    """Train what the grid asks for and is not done yet, pick RAF, read the test images, and compare.

    Args:
        config: the grid.
        out: folder of the sweep; each training is a run folder in it, none is repeated.
        workers: where trainings run; by default as many at a time on this machine as it has cores, one on a GPU.
        retries: how often a training that failed is tried again before it is reported.
        leave_out_failed: pick RAF among the candidates that are whole; else a group where one failed has
            no pick yet, and the next call tries it again.
        device: of every training.
        precision: of forward passes.
        table: form of the table of rows, csv or parquet.
        quiet: print nothing.

    Returns:
        The contents of `sweep.json`; its `failed` lists the trainings that are left failed, with their errors.

    Raises:
        ValueError: the grid cannot be trained, or a finished training in `out` is of another config.
        FileExistsError: `out` holds another sweep, or something else.
    """
    if retries < 0:
        raise ValueError(f"retries must be 0 or more, got {retries}")
    place = Place(device, precision)
    groups = make_groups(config, out)
    pool = workers or make_workers("local", out, None, device)
    claim = lock_run(out, to_yaml(config), defaults=defaults_of(SweepConfig))
    with pool, claim:  # workers first: a cluster that is not there must not leave a claimed folder
        with _progress(groups) as progress:
            waves = {group.name: _waves(group, place, leave_out_failed) for group in groups}
            _run_all(waves, pool, retries, progress)
        result = sweep_result(groups, out)
        path = write_rows(result["rows"], out, table)
        write_json(out / "sweep.json", result)
        write_comparisons(result, out)
        if not result["failed"]:
            mark_done(out, {"runs": len(result["rows"])})
    if not quiet:
        print_sweep(result)
        print(f"rows: {path}")
    return result


def make_workers(
    engine: Engine,
    out: Path,
    jobs: int | None,
    device: str,
    *,
    address: str | None = None,
    cpus: float = 1,
    gpus: float | None = None,
) -> Workers:
    """Return where a sweep's trainings run.

    Args:
        engine: "local" for processes of this machine, "ray" for a Ray cluster.
        out: the sweep's folder, which every node of the cluster must see.
        jobs: trainings at a time on this machine; None is as many as cores, one on a GPU.
        device: of the trainings.
        address: of the cluster.
        cpus: processors that a training asks the cluster for.
        gpus: GPUs that a training asks the cluster for; None takes one where there are any, none for the CPU.

    Raises:
        ValueError: options of the one engine were given for the other.
    """
    if engine == "ray":
        if jobs is not None:
            raise ValueError(
                "--jobs is for this machine alone; on Ray, --cpus and --gpus decide how many fit"
            )
        from fmce.engine.jobs.ray import RayWorkers

        if gpus is None and device == "cpu":
            gpus = 0  # else it would keep GPUs from others, and off nodes that have none
        return RayWorkers(address, shared=out.absolute(), cpus=cpus, gpus=gpus)
    if address is not None:
        raise ValueError("--address names a Ray cluster; add --engine ray")
    on_cpu = make_runtime(device).device.type == "cpu"
    return LocalWorkers(jobs if jobs is not None else cores() if on_cpu else 1)


def _progress(groups: Sequence[Group]) -> Progress:
    """Count trainings, finished ones included."""
    runs = [group.folder_of(run) for group in groups for run in group.runs]
    done = sum(read_done(folder) is not None for folder in runs)
    return Progress("sweep", len(runs), start=done)


def _run_all(
    waves: Mapping[str, Iterator[list[Task]]], workers: Workers, retries: int, progress: Progress
) -> None:
    """Take each group through its waves; a group's next wave begins when all of its last ended."""
    open_tasks: dict[str, tuple[str, Task, int]] = {}

    def begin_next(group: str) -> None:
        for wave in waves[group]:
            for task in wave:
                open_tasks[task.name] = (group, task, 1)
                workers.submit(task.name, run_task, task, 1)
            if wave:
                return

    for name in waves:
        begin_next(name)
    while open_tasks:
        ended = workers.wait()
        group, task, attempt = open_tasks.pop(ended.name)
        if ended.error is not None and attempt <= retries:
            open_tasks[task.name] = (group, task, attempt + 1)
            workers.submit(task.name, run_task, task, attempt + 1)
            continue
        _note_end(task, ended, attempt, progress)
        if all(other != group for other, _, _ in open_tasks.values()):
            begin_next(group)


def _note_end(task: Task, ended: Finished, attempt: int, progress: Progress) -> None:
    if ended.error is None:
        note_state(task.folder, state="done", attempt=attempt)
        if task.function is not read_test:
            progress.advance(task.name)
        return
    note_state(
        task.folder, state="failed", attempt=attempt, error=ended.error, details=ended.details
    )


def _waves(group: Group, place: Place, leave_out_failed: bool) -> Iterator[list[Task]]:
    """Yield the tasks of a group that are not done, those that may run side by side together."""
    if not group.given_oracle:
        yield _oracle_task(group, place)
    if not oracle_is_ready(group):
        return
    oracle = open_run(group.oracle_folder)
    yield _arm_tasks(group, [*group.baselines, *group.candidates], oracle, None, place)
    picked = pick(group, leave_out_failed=leave_out_failed)
    if picked is not None:
        yield _arm_tasks(group, group.controls, oracle, picked, place)
        yield _test_task(group, place)


def _oracle_task(group: Group, place: Place) -> list[Task]:
    config, folder = group.oracle_config(), group.oracle_folder
    if read_done(folder) is not None:
        check_is_that_arm(folder, config, place.precision)
    if oracle_is_ready(group):
        return []
    widths = list(group.net_folders.values())
    args = (config, folder, group.config.oracle_split, widths, place.device, place.precision)
    return [Task(f"{group.name}/{ORACLE}", folder, train_oracle, args)]


def _arm_tasks(
    group: Group, runs: Sequence[SweepRun], oracle: Run, picked: SweepRun | None, place: Place
) -> list[Task]:
    tasks = []
    for run in runs:
        config, folder = group.config_of(run, oracle, picked), group.folder_of(run)
        if read_done(folder) is not None:
            check_is_that_arm(folder, config, place.precision)
            continue
        args = (config, folder, place.device, place.precision)
        tasks.append(Task(f"{group.name}/{run.name}", folder, train_sweep_arm, args))
    return tasks


def _test_task(group: Group, place: Place) -> list[Task]:
    """Return one task for all of a group's finished trainings whose test accuracy was not read yet."""
    unread = unread_folders(group)
    if not unread:
        return []
    return [Task(f"{group.name}/test images", group.folder, read_test, (unread, place.device))]
