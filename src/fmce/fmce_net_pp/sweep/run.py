"""One engine for `fmce compare` and `fmce sweep`: groups of independent trainings, wave after wave.

Each group (a model on a data set) goes through four waves: its oracle; baseline and the candidates that
select RAF; the arms that wait for the selected RAF, but not for the baseline; test images, read once. Groups do not
wait for each other. A group with a failed candidate selects nothing, unless failed ones may be left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from fmce.config.io import defaults_of, to_yaml
from fmce.config.sweep import ORACLE, CompareConfig, SweepConfig
from fmce.config.trust import Trust, function_names
from fmce.console.progress import Progress
from fmce.digests import write_record
from fmce.engine.jobs.job import Finished, Workers
from fmce.engine.jobs.local import LocalWorkers
from fmce.engine.runtime import cores, make_runtime
from fmce.fmce_net_pp.arms import check_trained_as
from fmce.fmce_net_pp.sweep.grid import Group, SweepRun, make_groups
from fmce.fmce_net_pp.sweep.jobs import (
    Placement,
    Task,
    note_state,
    read_test,
    run_task,
    train_group_arm,
    train_oracle,
)
from fmce.fmce_net_pp.sweep.results import (
    SweepResult,
    TableFormat,
    oracle_is_ready,
    sweep_result,
    unread_folders,
    write_rows,
)
from fmce.fmce_net_pp.sweep.selection import select
from fmce.runs.log import lock_run, mark_done, read_done

Engine = Literal["local", "ray"]


def sweep(
    config: SweepConfig,
    out: Path,
    *,
    workers: Workers | None = None,
    retries: int = 1,
    leave_out_failed: bool = False,
    device: str = "auto",
    precision: str = "float32",
    table: TableFormat = "csv",
) -> SweepResult:
    """Train what a grid asks for and is not done yet, select RAF, read the test images, and compare.

    Args:
        config: The grid.
        out: Folder of the sweep; each training is a run folder in it, and none is repeated.
        workers: Where trainings run; by default on this machine, as many at a time as it has cores, one
            on a GPU.
        retries: How often a failed training is tried again before it is reported.
        leave_out_failed: Select RAF among the complete candidates. Otherwise a group with a failed one
            selects none yet, and the next call tries it again.
        device: Device of every training.
        precision: Precision of forward passes.
        table: Format of the table of rows, `sweep.csv` or `sweep.parquet`.

    Returns:
        What `sweep.json` holds; its `failed` lists the trainings that are left failed, with their errors.

    Raises:
        ValueError: If the grid cannot be trained, or a finished training in `out` has another config.
        FileExistsError: If `out` holds another sweep, or something else.
    """
    placement = Placement(device, precision)
    return run_groups(config, out, placement, workers, retries, leave_out_failed, table)


def run_groups(
    config: CompareConfig | SweepConfig,
    out: Path,
    placement: Placement,
    workers: Workers | None = None,
    retries: int = 1,
    leave_out_failed: bool = False,
    table: TableFormat | None = None,
    trust: Trust = False,
) -> SweepResult:
    """Take every group of a comparison or sweep as far as it goes, and write the results; see `sweep`.

    Each group's folder gets `compare.json`. Only where a table is asked for, `out` gets it and
    `sweep.json`. `trust` is that of the oracles' folders.
    """
    if retries < 0:
        raise ValueError(f"retries must be 0 or more, got {retries}")
    groups = make_groups(config, out, trust)
    pool = workers or make_workers("local", out, None, placement.device)
    claim = lock_run(out, to_yaml(config), defaults=defaults_of(type(config)))
    with pool, claim:  # workers first: a cluster that is not there must not leave a claimed folder
        # A given oracle is no training of this experiment.
        runs = [
            (g, run) for g in groups for run in g.runs if run.role != ORACLE or not g.oracle_given
        ]
        done = sum(read_done(group.folder_of(run)) is not None for group, run in runs)
        with Progress(f"trainings of {out.name}", len(runs), start=done) as progress:
            waves = {group.name: _waves(group, placement, leave_out_failed) for group in groups}
            _run_all(waves, pool, retries, progress, out)
        result = sweep_result(groups, out)
        for group, comparison in zip(groups, result.groups, strict=True):
            if comparison.against_baseline is not None:
                write_record(group.folder / "compare.json", comparison.to_dict())
        if table is not None:
            write_rows(result.rows, out, table)
            write_record(out / "sweep.json", result.to_dict())
        if not result.failed:
            mark_done(out, {"runs": len(result.rows)})
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
    """Return where the trainings of a comparison or sweep run.

    Args:
        engine: "local" for processes of this machine, "ray" for a Ray cluster.
        out: The experiment's folder, which every node of the cluster must see.
        jobs: Trainings at a time on this machine; None is as many as cores, one on a GPU.
        device: Device of the trainings.
        address: Address of the cluster.
        cpus: Processors that a training asks the cluster for.
        gpus: GPUs that a training asks the cluster for; None takes one where there are any, none for
            the CPU.
    """
    if engine == "ray":
        if jobs is not None:
            raise ValueError("--jobs is for this machine; on Ray, --cpus and --gpus decide")
        from fmce.engine.jobs.ray import RayWorkers

        if gpus is None and device == "cpu":
            gpus = 0  # else it would keep GPUs from others, and off nodes that have none
        return RayWorkers(address, shared=out.absolute(), cpus=cpus, gpus=gpus)
    if address is not None:
        raise ValueError("--address names a Ray cluster; add --engine ray")
    on_cpu = make_runtime(device).device.type == "cpu"
    return LocalWorkers(jobs if jobs is not None else cores() if on_cpu else 1)


def _run_all(
    waves: Mapping[str, Iterator[list[Task]]],
    workers: Workers,
    retries: int,
    progress: Progress,
    out: Path,
) -> None:
    """Take each group through its waves; a wave begins when nothing that it waits for is open."""
    open_tasks: dict[str, tuple[str, Task, int]] = {}
    lagging: set[str] = set()

    def is_held_up(group: str) -> bool:
        return any(o == group and name not in lagging for name, (o, _, _) in open_tasks.items())

    def begin_next(group: str) -> None:
        while not is_held_up(group) and (wave := next(waves[group], None)) is not None:
            lagging.difference_update(name for name, (o, _, _) in open_tasks.items() if o == group)
            for task in wave:
                open_tasks[task.name] = (group, task, 1)
                if task.may_lag:
                    lagging.add(task.name)
                workers.submit(task.name, run_task, task, 1)

    for name in waves:
        begin_next(name)
    while open_tasks:
        ended = workers.wait()
        if not (out / "config.yaml").exists():  # a retry would make its folder anew
            raise FileNotFoundError(
                f"{out} is gone: it was moved or deleted; put it back and rerun the command to resume"
            )
        group, task, attempt = open_tasks.pop(ended.name)
        if ended.error is not None and attempt <= retries:
            open_tasks[task.name] = (group, task, attempt + 1)
            workers.submit(task.name, run_task, task, attempt + 1)
            continue
        _note_end(task, ended, attempt, progress)
        begin_next(group)


def _note_end(task: Task, ended: Finished, attempt: int, progress: Progress) -> None:
    if ended.error is None:
        note_state(task.folder, state="done", attempt=attempt)
        if task.function is not read_test:
            progress.advance(task.name)
        return
    about = {"error": ended.error, "details": ended.details}
    note_state(task.folder, state="failed", attempt=attempt, **about)


def _waves(group: Group, placement: Placement, leave_out_failed: bool) -> Iterator[list[Task]]:
    """Yield the tasks of a group that are not done; those of one list may run side by side."""
    if not group.oracle_given:
        yield _oracle_task(group, placement)
    if not oracle_is_ready(group):
        return
    # The candidates first, since the next wave waits for them alone.
    baselines = _arm_tasks(group, group.baselines, None, placement)
    yield [
        *_arm_tasks(group, group.candidates, None, placement),
        *(replace(task, may_lag=True) for task in baselines),
    ]
    selected = select(group, leave_out_failed=leave_out_failed)
    if selected is not None:
        yield _arm_tasks(group, group.selected_runs, selected, placement)
        unread = unread_folders(group)
        if unread:
            args = (unread, placement.device, function_names(group.oracle.config))
            yield [Task(f"{group.name}/test images", group.folder, read_test, args)]


def _oracle_task(group: Group, placement: Placement) -> list[Task]:
    config, folder = group.oracle.config, group.oracle.path
    if read_done(folder) is not None:
        check_trained_as(folder, config, placement.precision)
    if oracle_is_ready(group):
        return []
    widths = list(group.net_folders.values())
    args = (config, folder, group.config.oracle_split, widths, placement)
    return [Task(f"{group.name}/{ORACLE}", folder, train_oracle, args)]


def _arm_tasks(
    group: Group, runs: Sequence[SweepRun], selected: SweepRun | None, placement: Placement
) -> list[Task]:
    tasks = []
    for run in runs:
        config, folder = group.config_of(run, selected), group.folder_of(run)
        if read_done(folder) is not None:
            check_trained_as(folder, config, placement.precision)
            continue
        args = (config, folder, placement)
        tasks.append(Task(f"{group.name}/{run.name}", folder, train_group_arm, args))
    return tasks
