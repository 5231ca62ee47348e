"""Method 3: a compact student imitates its large teacher (function matching), beside two ablations.

supervised: labels only. distilled: imitates the teacher on the labelled images. function_matching: imitates it
on labelled and unlabelled images. All have the same steps, optimiser, schedule and initial weights.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from fmce.config.choices import Arm
from fmce.config.distillation import DistillationConfig
from fmce.config.io import defaults_of, to_dict, to_yaml
from fmce.console.progress import Progress
from fmce.data.batch import PoolBatch
from fmce.data.frames.batches import default_workers
from fmce.distillation import inputs
from fmce.distillation.data.dataset import (
    PREPARED,
    prepare_distillation_data,
    read_distillation_data,
)
from fmce.distillation.data.pools import DistillationData
from fmce.distillation.experiment import (
    Experiment,
    check_networks,
    fit_steps,
    num_intervals,
)
from fmce.distillation.results import conclude
from fmce.distillation.teacher import make_teacher
from fmce.engine.jobs.local import run_jobs
from fmce.engine.loop import EpochResult, StepOutput
from fmce.engine.runtime import Runtime, cores, make_runtime
from fmce.runs.checkpoint import delete_checkpoints
from fmce.runs.log import lock_run, mark_done
from fmce.runs.resume import finished
from fmce.tasks.distillation import distillation_step, supervised_step


def distill(
    config: DistillationConfig,
    out: Path,
    *,
    jobs: int | None = None,
    runtime: Runtime | None = None,
) -> dict[str, Any]:
    """Train or load a teacher, train every arm over the seeds, evaluate and compare them.

    Function matching after Beyer et al., CVPR 2022, and "Effectiveness of Function Matching in Driving Scene
    Recognition" (2022). Every training is a run folder in `out` that resumes after a kill, and none is repeated.
    Under torchrun the processes train together; batch sizes are those of all of them.

    Args:
        config: Teacher, student, images and step budgets; `distillation_preset` returns some.
        out: Folder of the experiment: `data.*`, `teacher/`, `runs/ARM-seedN/`, `distill.json`.
        jobs: Trainings at a time: one per core by default, one on a GPU. Processes that train together
            make one after another.
        runtime: Device and precision; the first GPU, else the CPU, in float32 by default.

    Returns:
        The contents of `distill.json`. "teacher": its scores on validation images, fractions. "rows": per arm and
        seed the score, all scores, the agreement with the teacher, and the curve over steps. "arms": mean and
        standard deviation over seeds. "comparisons": each arm's paired difference to "supervised".
        "gap_closed": the fraction of the gap between supervised student and teacher that function matching
        closes. "networks": parameters, multiply-adds and latency (ms) of both networks.

    Raises:
        ValueError: If images or networks do not fit, the teacher is below `teacher_floor`, or several `jobs`
            are asked for in several processes.
        FileExistsError: If `out` holds another experiment that has trained something.

    Example:
        On built-in road scenes, for one seed::

            config = replace(distillation_preset("scenes"), seeds=(1,))
            result = distill(config, Path("runs/scenes"))
            print(result["teacher"]["miou"], [arm["mean"] for arm in result["arms"]])
    """
    runtime = runtime or make_runtime(together=True)
    ranks = runtime.ranks
    if ranks.world_size > 1 and jobs not in (None, 1):
        raise ValueError(
            f"jobs={jobs} trainings at a time are for one process; the {ranks.world_size} that torchrun "
            "started make one training after another together, so leave --jobs out"
        )
    text, defaults = to_yaml(config), defaults_of(DistillationConfig)
    ranks.on_rank_zero(lambda: check_networks(config))
    # Without a checkpoint these hold no training: images, no metrics lines, measures of the initial weights.
    begun = (*PREPARED, "metrics.jsonl", "initial.json", "twins.json")
    with lock_run(out, text, defaults=defaults, ranks=ranks, before_training=begun):
        ranks.on_rank_zero_slowly(lambda: _prepare(config, out))
        if not (out / "data.json").exists():
            raise ValueError(
                f"rank {ranks.rank} does not see {out / 'data.json'}, which rank 0 wrote; put the folder where "
                "the processes of all nodes see it"
            )
        experiment = Experiment(config, out, read_distillation_data(out))
        teacher = make_teacher(experiment, runtime)
        _train_students(experiment, runtime, jobs)
        return ranks.on_rank_zero_slowly(lambda: conclude(experiment, teacher, runtime))


def _prepare(config: DistillationConfig, out: Path) -> None:
    try:
        images = inputs.with_imagenet_statistics(config)
        _check_pools(config, prepare_distillation_data(out, config.task, images))
    except (ValueError, OSError):
        # Images that nothing can be trained on claim no folder: the corrected command may name the same one.
        made = {"config.yaml", *PREPARED}
        if {path.name for path in out.iterdir()} <= made | {".lock", "versions.json"}:
            for name in made:
                (out / name).unlink(missing_ok=True)
        raise


def _check_pools(config: DistillationConfig, data: DistillationData) -> None:
    if "function_matching" in config.arms and len(data.unlabelled) == 0:
        if len(data.held_out):
            raise ValueError(
                f"the function_matching arm needs unlabelled images, and data.held_out={config.data.held_out} took all "
                f"{len(data.held_out)} that there are; lower data.held_out, or name more folders (data.folders)"
            )
        raise ValueError(
            "the function_matching arm needs unlabelled images and there are none; name folders "
            "(data.folders), label fewer images (data.labelled), or leave the arm out"
        )
    if config.student_steps.batch_size > len(data.labelled) * 8:
        raise ValueError(
            f"a batch of {config.student_steps.batch_size} would repeat {len(data.labelled)} labelled "
            "images many times; lower student_steps.batch_size"
        )


def _train_students(experiment: Experiment, runtime: Runtime, jobs: int | None) -> None:
    config, out = experiment.config, experiment.folder
    students = {
        experiment.student_folder(arm, seed).name: (config, out, arm, seed, runtime)
        for seed in config.seeds
        for arm in config.arms
    }
    waiting = runtime.ranks.on_rank_zero(
        lambda: [name for name in students if finished(out / "runs" / name) is None]
    )
    with Progress("training arms", len(students)) as progress:
        for name in students:
            if name not in waiting:
                progress.advance(f"{name} was done")
        if runtime.ranks.world_size == 1:
            jobs = jobs or (cores() if runtime.device.type == "cpu" else 1)
            run_jobs(train_student, {name: students[name] for name in waiting}, jobs, progress)
            return
        for name in waiting:
            train_student(*students[name])
            progress.advance(name)


def train_student(
    config: DistillationConfig, out: Path, arm: Arm, seed: int, runtime: Runtime
) -> None:
    """Train one student in its own run folder and evaluate it; resumes after a kill.

    The seed decides initial weights, order of images and augmentation, alike in every arm.
    """
    experiment = Experiment(config, out, read_distillation_data(out, workers=_decoders(runtime)))
    folder, ranks = experiment.student_folder(arm, seed), runtime.ranks
    student = experiment.make_student(arm, seed, pretrained=True).to(runtime.device)
    teacher = experiment.load_teacher().to(runtime.device)
    text = yaml.safe_dump({"arm": arm, "seed": seed, **to_dict(config)}, sort_keys=False)
    with lock_run(folder, text, defaults=defaults_of(DistillationConfig), ranks=ranks):
        if ranks.on_rank_zero(lambda: finished(folder)) is not None:
            return
        data, task, budget = experiment.data, experiment.task, config.student_steps
        pool, data = inputs.on_device(inputs.training_pool(arm, data), data, runtime.device)
        pools = {
            name: inputs.evaluation_batches(getattr(data, name), data, runtime)
            for name in ("validation", "held_out")
        }

        def evaluate() -> dict[str, Any]:
            alike = {
                name: task.agreement(student, teacher, batches, runtime)
                for name, batches in pools.items()
                if len(batches)
            }
            return {
                "scores": task.scores(student, pools["validation"], runtime),
                "agreement": alike,
            }

        def measure(result: EpochResult) -> dict[str, Any]:
            found = evaluate()
            alike, unseen = found["agreement"]["validation"], found["agreement"].get("held_out")
            return {
                **({} if unseen is None else {"agreement_held_out": unseen[task.agreement_name]}),
                "steps": result.epoch * budget.interval,
                task.score_name: found["scores"][task.score_name],
                "agreement": alike[task.agreement_name],
                "kl_to_teacher": alike["mean_kl"],
            }

        step = _step_of(arm, experiment, student, teacher, runtime)
        fit_steps(experiment, folder, student, step, pool, budget, seed, runtime, measure)
        done = evaluate()
        if ranks.is_main:
            mark_done(folder, done)
            delete_checkpoints(folder / "checkpoints", keep={num_intervals(budget)})


def _decoders(runtime: Runtime) -> int:
    """Return how many processes decode a training's frames, where the config sets none."""
    # Trainings share the cores by their threads; those that wait on files share them alike. torchrun
    # gives each rank one thread however many cores there are, so there the ranks count.
    if runtime.ranks.world_size > 1:
        return default_workers(cores() // runtime.ranks.local_world_size)
    return default_workers(torch.get_num_threads())


def _step_of(
    arm: Arm, experiment: Experiment, student: nn.Module, teacher: nn.Module, runtime: Runtime
) -> Callable[[PoolBatch], StepOutput]:
    config, task = experiment.config, experiment.task
    if arm == "supervised":
        return supervised_step(task, student)
    return distillation_step(
        task,
        student,
        inputs.frozen_teacher(task, teacher, config, runtime),
        temperature=config.temperature,
        mix=partial(inputs.mix_batch, ranks=runtime.ranks) if config.student_steps.mixup else None,
    )
