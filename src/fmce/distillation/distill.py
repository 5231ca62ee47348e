"""`fmce distill`: a compact student learns to be its teacher (function matching), beside two other arms.

supervised: labels only. distilled: imitates the teacher on the labelled images. function_matching: imitates it
on labelled and unlabelled images. All have the same steps, optimiser, schedule and initial weights.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from fmce.config.choices import Arm
from fmce.config.distillation import DistillationConfig
from fmce.config.io import defaults_of, to_dict, to_yaml
from fmce.console.progress import Progress
from fmce.data.augmentation import EvalBatches
from fmce.data.batch import PoolBatch
from fmce.data.detection.boxes import image_boxes, pack_boxes
from fmce.data.frames.batches import default_workers
from fmce.distillation.data.dataset import (
    PREPARED,
    prepare_distillation_data,
    read_distillation_data,
    with_imagenet_statistics,
)
from fmce.distillation.data.pools import DistillationData
from fmce.distillation.experiment import (
    arm_folder,
    augmentation_of,
    check_networks,
    fit_steps,
    load_student,
    make_network,
    make_task,
    num_intervals,
)
from fmce.distillation.results import distillation_result, print_result
from fmce.distillation.teacher import load_teacher, make_teacher, teacher_autocast
from fmce.engine.distributed.ranks import ALONE
from fmce.engine.jobs.run import run_jobs
from fmce.engine.loop import EpochResult, StepOutput
from fmce.engine.runtime import Runtime, cores, make_runtime
from fmce.files import read_json, write_json
from fmce.metrics.detection import TEACHER_SCORE
from fmce.metrics.network_cost import for_inference, measure_network
from fmce.runs.checkpoint import delete_checkpoints
from fmce.runs.log import lock_run, mark_done, read_done
from fmce.tasks.detection import DetectionTask
from fmce.tasks.distillation import (
    DistillationTask,
    SegmentationTask,
    distillation_step,
    supervised_step,
)


def distill(
    config: DistillationConfig,
    out: Path,
    *,
    jobs: int | None = None,
    runtime: Runtime | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train or load the teacher, train all arms over the seeds, evaluate and compare them.

    Processes that torchrun started train together: the batch sizes are those of all of them.

    Args:
        config: the experiment.
        out: its folder; each training is a run folder in it, none is repeated.
        jobs: trainings at a time; by default as many as cores, one on a GPU. Several processes make
            one after another together.
        runtime: device and precision.
        quiet: print nothing.

    Returns:
        The contents of `distill.json`.

    Raises:
        ValueError: data or models do not fit, the teacher is below `teacher_floor`, or several `jobs`
            are asked for in several processes.
    """
    runtime = runtime or make_runtime(together=True)
    ranks = runtime.ranks
    quiet = quiet or not ranks.is_main
    jobs = _jobs(jobs, runtime)
    text, defaults = to_yaml(config), defaults_of(DistillationConfig)
    ranks.on_rank_zero(lambda: check_networks(config))
    with lock_run(out, text, defaults=defaults, ranks=ranks):
        data = _prepared(config, out, runtime)
        make_teacher(config, out, data, runtime, quiet)
        _train_arms(config, out, runtime, jobs)
        result = ranks.on_rank_zero_slowly(lambda: _conclude(config, out, data, runtime))
    if not quiet:
        print_result(result)
    return result


def _jobs(jobs: int | None, runtime: Runtime) -> int:
    if runtime.ranks.world_size > 1:
        if jobs not in (None, 1):
            raise ValueError(
                f"jobs={jobs} trainings at a time are for one process; the {runtime.ranks.world_size} that "
                "torchrun started make one training after another together, so leave --jobs out"
            )
        return 1
    return jobs or (cores() if runtime.device.type == "cpu" else 1)


def _prepared(config: DistillationConfig, out: Path, runtime: Runtime) -> DistillationData:
    """Return the experiment's images, which the first rank prepares for all."""
    ranks = runtime.ranks
    ranks.on_rank_zero_slowly(lambda: _prepare(config, out))
    if not (out / "data.json").exists():
        raise ValueError(
            f"rank {ranks.rank} does not see {out / 'data.json'}, which rank 0 wrote; the folder must lie "
            "where the processes of all nodes see it"
        )
    return read_distillation_data(out)


def _prepare(config: DistillationConfig, out: Path) -> None:
    try:
        _check_pools(
            config, prepare_distillation_data(out, config.task, with_imagenet_statistics(config))
        )
    except (ValueError, OSError):
        # Images that nothing can be trained on claim no folder: the mended command may have the same one.
        made = {"config.yaml", *PREPARED}
        if {path.name for path in out.iterdir()} <= made | {".lock", "versions.json"}:
            for name in made:
                (out / name).unlink(missing_ok=True)
        raise


def _train_arms(config: DistillationConfig, out: Path, runtime: Runtime, jobs: int) -> None:
    arms = [(arm, seed) for seed in config.seeds for arm in config.arms]
    waiting = runtime.ranks.on_rank_zero(
        lambda: [one for one in arms if read_done(arm_folder(out, *one)) is None]
    )
    with Progress("training arms", len(arms)) as progress:
        for arm, seed in arms:
            if (arm, seed) not in waiting:
                progress.advance(f"{arm_folder(out, arm, seed).name} was done")
        if runtime.ranks.world_size > 1:
            for arm, seed in waiting:
                train_student_on(config, out, arm, seed, runtime)
                progress.advance(arm_folder(out, arm, seed).name)
            return
        where = (str(runtime.device), runtime.precision)
        arguments = {
            arm_folder(out, arm, seed).name: (config, out, arm, seed, *where)
            for arm, seed in waiting
        }
        run_jobs(train_student, arguments, jobs, progress)


def _conclude(
    config: DistillationConfig, out: Path, data: DistillationData, runtime: Runtime
) -> dict[str, Any]:
    """Write and return what came out; for one process."""
    runtime = replace(runtime, ranks=ALONE)
    teacher = dict(read_json(out / "teacher" / "teacher.json")["scores"])
    result = distillation_result(config, out, data, teacher)
    result["networks"] = _sizes(config, out, data, runtime)
    if config.task != "classify":
        _write_predictions(config, out, data, runtime)
    write_json(out / "distill.json", result)
    mark_done(out, {"teacher": teacher})
    return result


def train_student(
    config: DistillationConfig, out: Path, arm: Arm, seed: int, device: str, precision: str
) -> None:
    """Train one student in its own run folder and evaluate it; goes on after a kill.

    Args:
        config: the experiment.
        out: its folder, with data and teacher in place.
        arm: what the student learns from.
        seed: initial weights, order of images and views; the same in every arm.
        device: where.
        precision: of forward passes.
    """
    train_student_on(config, out, arm, seed, make_runtime(device, precision))


def train_student_on(
    config: DistillationConfig, out: Path, arm: Arm, seed: int, runtime: Runtime
) -> None:
    """Do what `train_student` does, in the processes that train together."""
    ranks = runtime.ranks
    data = read_distillation_data(out, workers=_decoders(runtime))
    task = make_task(config, data)
    student = make_network(config, config.student, data, seed, auxiliary=arm == "supervised")
    teacher = load_teacher(config, out, data)
    student, teacher = student.to(runtime.device), teacher.to(runtime.device)
    folder = arm_folder(out, arm, seed)
    text = yaml.safe_dump({"arm": arm, "seed": seed, **to_dict(config)}, sort_keys=False)
    with lock_run(folder, text, defaults=defaults_of(DistillationConfig), ranks=ranks):
        if ranks.on_rank_zero(lambda: read_done(folder)) is not None:
            return
        pool = (
            data.labelled
            if arm != "function_matching"
            else data.labelled.unlabelled() + data.unlabelled
        )
        pool, data = data.placed(pool, runtime.device)
        fit_steps(
            folder,
            student,
            _step_of(arm, task, student, teacher, config, runtime),
            pool,
            augmentation_of(config, data),
            config.student_steps,
            seed,
            runtime,
            _measure(config, task, student, teacher, data, runtime),
            record_frames=config.data.record_frames,
        )
        done = _evaluation(config, task, student, teacher, data, runtime)
        if ranks.is_main:
            mark_done(folder, done)
            last = num_intervals(config.student_steps)
            delete_checkpoints(folder / "checkpoints", keep={last})


def _decoders(runtime: Runtime) -> int:
    """Return how many processes decode a training's frames, where the config sets none."""
    # Trainings share the cores by their threads; those that wait on files share them alike. torchrun
    # gives each rank one thread however many cores there are, so there the ranks count.
    if runtime.ranks.world_size > 1:
        return default_workers(cores() // runtime.ranks.local_world_size)
    return default_workers(torch.get_num_threads())


def _step_of(
    arm: Arm,
    task: DistillationTask,
    student: nn.Module,
    teacher: nn.Module,
    config: DistillationConfig,
    runtime: Runtime,
) -> Callable[[PoolBatch], StepOutput]:
    if arm == "supervised":
        return supervised_step(task, student)
    return distillation_step(
        task,
        student,
        teacher,
        temperature=config.temperature,
        blend=config.student_steps.mixup,
        teacher_autocast=teacher_autocast(config, runtime),
        ranks=runtime.ranks,
    )


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


def _measure(
    config: DistillationConfig,
    task: DistillationTask,
    student: nn.Module,
    teacher: nn.Module,
    data: DistillationData,
    runtime: Runtime,
) -> Callable[[EpochResult, list[dict[str, Any]]], dict[str, Any]]:
    """Return what follows each interval: score on validation images, agreement there and on unlabelled ones."""
    augmentation, share = augmentation_of(config, data), runtime.ranks.share
    validation, held_out = (
        EvalBatches(pool, augmentation, share=share) for pool in (data.validation, data.held_out)
    )

    def measure(result: EpochResult, _rows: list[dict[str, Any]]) -> dict[str, Any]:
        alike = task.agreement(student, teacher, validation, runtime)
        apart = {}
        if len(data.held_out):
            unseen = task.agreement(student, teacher, held_out, runtime)
            apart = {"agreement_unlabelled": unseen[task.agreement_name]}
        return apart | {
            "steps": result.epoch * config.student_steps.interval,
            task.score_name: task.scores(student, validation, runtime)[task.score_name],
            "agreement": alike[task.agreement_name],
            "kl_to_teacher": alike["mean_kl"],
        }

    return measure


def _evaluation(
    config: DistillationConfig,
    task: DistillationTask,
    student: nn.Module,
    teacher: nn.Module,
    data: DistillationData,
    runtime: Runtime,
) -> dict[str, Any]:
    augmentation, share = augmentation_of(config, data), runtime.ranks.share
    validation, held_out = (
        EvalBatches(pool, augmentation, share=share) for pool in (data.validation, data.held_out)
    )
    pools = {"validation": validation, "held_out_frames": held_out}
    return {
        "scores": task.scores(student, validation, runtime),
        "agreement": {
            name: task.agreement(student, teacher, batches, runtime)
            for name, batches in pools.items()
            if len(batches)
        },
    }


def _sizes(
    config: DistillationConfig, out: Path, data: DistillationData, runtime: Runtime
) -> dict[str, Any]:
    """Measure teacher and student, each without its auxiliary head, on one image."""
    net = replace(config.student, weights=None)  # only its size counts
    student = make_network(config, net, data, config.seeds[0], auxiliary=False)
    networks = {"teacher": load_teacher(config, out, data), "student": student}
    image = torch.zeros(1, 3, config.data.height, config.data.width, device=runtime.device)
    with runtime.autocast():
        sizes = {
            name: measure_network(for_inference(network).to(runtime.device), image)
            for name, network in networks.items()
        }
    return {"device": str(runtime.device), "precision": runtime.precision, **sizes}


def _write_predictions(
    config: DistillationConfig, out: Path, data: DistillationData, runtime: Runtime, count: int = 4
) -> None:
    """Keep what all networks say of the first validation images, for the report's pictures."""
    few = data.validation.select(range(min(count, len(data.validation))))
    assert few.targets is not None
    networks = {"teacher": load_teacher(config, out, data)}
    for arm in config.arms:
        networks[arm] = load_student(config, out, data, arm, config.seeds[0])
    batches, task = EvalBatches(few, augmentation_of(config, data)), make_task(config, data)
    columns = {"truth": few.targets}
    for name, network in networks.items():
        columns[name] = _answers(task, network.to(runtime.device), batches, runtime)
    arrays: dict[str, Any] = {name: values.numpy() for name, values in columns.items()}
    np.savez_compressed(
        out / "predictions.npz", images=few.images.permute(0, 2, 3, 1).numpy(), **arrays
    )


@torch.inference_mode()
def _answers(
    task: DistillationTask, network: nn.Module, batches: EvalBatches, runtime: Runtime
) -> torch.Tensor:
    """Return class maps (B,H,W), or packed boxes (B,M,6) of a score worth drawing."""
    if isinstance(task, DetectionTask):
        found = task.predict(network, batches, runtime)
        sure = [image["scores"] >= TEACHER_SCORE for image in found]
        return pack_boxes(
            [
                image_boxes(image["boxes"][keep].tolist(), image["labels"][keep].tolist())
                for image, keep in zip(found, sure, strict=True)
            ]
        )
    assert isinstance(task, SegmentationTask)
    logits = [task.logits(network, runtime.to_device(batch.images)) for batch in batches.epoch()]
    return torch.cat(logits).argmax(1).cpu()
