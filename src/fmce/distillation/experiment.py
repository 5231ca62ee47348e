"""What the trainings of a function-matching experiment share: networks, task, views, folders, one fit."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fmce.config.choices import Arm
from fmce.config.distillation import DistillationConfig, NetConfig, StepsConfig
from fmce.data.augmentation import Augmentation, TrainBatches
from fmce.data.batch import PoolBatch
from fmce.data.frames.batches import FrameBatches
from fmce.data.frames.log import LoggedBatches
from fmce.data.frames.pool import FramePool
from fmce.data.pools import ImagePool
from fmce.distillation.data.pools import DistillationData
from fmce.engine.loop import Batches, EpochResult, StepOutput
from fmce.engine.runtime import Runtime
from fmce.losses.detection import check_same_places
from fmce.models.build import build_model, import_function
from fmce.models.checks import unsafe_in_channels_last
from fmce.models.fcos import fcos
from fmce.models.pspnet import pspnet
from fmce.runs.checkpoint import load_weights
from fmce.runs.resume import Optimization, fit_resumable
from fmce.seeding import seed_epoch
from fmce.tasks.detection import DetectionTask
from fmce.tasks.distillation import ClassificationTask, SegmentationTask


def make_task(
    config: DistillationConfig, data: DistillationData
) -> ClassificationTask | SegmentationTask | DetectionTask:
    """Return the task of an experiment."""
    if config.task == "classify":
        return ClassificationTask(len(data.class_names))
    if config.task == "detect":
        return DetectionTask(len(data.class_names), data.class_names)
    return SegmentationTask(len(data.class_names), data.class_names)


def check_networks(config: DistillationConfig) -> None:
    """Build both networks once, so that a wrong name is known before anything is read or trained.

    Raises:
        ValueError: a network cannot be built, or two detectors have other locations.
    """
    networks = []
    for net in (config.teacher, config.student):
        try:
            networks.append(_build(config, replace(net, weights=None), classes=2, auxiliary=True))
        except TypeError as error:
            raise ValueError(f"{net.name} does not take its options: {error}") from error
    if config.task == "detect":
        image = torch.zeros(1, 3, config.data.height, config.data.width)
        with torch.inference_mode():
            teacher, student = (DetectionTask(2, ()).outputs(net.eval(), image) for net in networks)
        check_same_places(student, teacher)


def make_network(
    config: DistillationConfig,
    net: NetConfig,
    data: DistillationData,
    seed: int,
    *,
    auxiliary: bool,
) -> nn.Module:
    """Build a network with the initial weights of a seed.

    Args:
        config: the experiment.
        net: which network.
        data: says how many classes.
        seed: draws the weights; an auxiliary head is drawn last, so that it changes no other.
        auxiliary: whether a PSPNet gets its auxiliary head.
    """
    seed_epoch(seed, 0)
    model = _build(config, net, len(data.class_names), auxiliary)
    # A third faster on CPUs, more on GPUs with bf16; the values are the same up to rounding.
    if unsafe_in_channels_last(model, torch.device("cpu")) is None:
        model = model.to(memory_format=torch.channels_last)
    return model


def _build(config: DistillationConfig, net: NetConfig, classes: int, auxiliary: bool) -> nn.Module:
    if config.task == "classify":
        return build_model(net.name, classes, options=net.options, weights=net.weights)
    kind, _, name = net.name.partition(":")
    if kind == "fcos":
        return fcos(name, classes, weights=net.weights, **net.options)
    if kind == "pspnet":
        options = {"auxiliary": auxiliary, **net.options}
        return pspnet(name, classes, weights=net.weights, **options)
    model = import_function(kind, name)(num_classes=classes, **net.options)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{net.name} returned {type(model).__name__}, expected a torch.nn.Module")
    return model


def augmentation_of(config: DistillationConfig, data: DistillationData) -> Augmentation:
    """Return how views are drawn, with the labelled images' statistics."""
    section = config.augmentation
    return Augmentation(data.mean, data.std, section.zoom, section.flip, section.brightness)


def fit_steps(
    folder: Path,
    model: nn.Module,
    step: Callable[[PoolBatch], StepOutput],
    pool: ImagePool | FramePool,
    augmentation: Augmentation,
    budget: StepsConfig,
    seed: int,
    runtime: Runtime,
    measure: Callable[[EpochResult, list[dict[str, Any]]], Mapping[str, Any]],
    record_frames: bool = False,
) -> None:
    """Train a network for a step budget in its run folder; goes on after a kill.

    Several ranks share each batch.

    Args:
        folder: run folder this process owns.
        model: on the device.
        step: forward pass of one batch.
        pool: images it is trained on.
        augmentation: how they are varied.
        budget: steps, batch size, learning rate, steps between checkpoints.
        seed: order of images and views.
        runtime: device and precision.
        measure: what further is recorded after each interval.
        record_frames: write down the keys of the frames that each interval saw; in files only.
    """
    log = folder / "frames" if record_frames else None
    with _batches(pool, augmentation, budget, seed, runtime, log) as (batches, loading):
        fit_resumable(
            folder,
            model,
            step,
            batches,
            Optimization(num_intervals(budget), budget.learning_rate, seed),
            runtime,
            measure=lambda result, rows: {**measure(result, rows), **loading()},
            title=f"training {folder.name}",
        )


@contextmanager
def _batches(
    pool: ImagePool | FramePool,
    augmentation: Augmentation,
    budget: StepsConfig,
    seed: int,
    runtime: Runtime,
    log: Path | None,
) -> Iterator[tuple[Batches, Callable[[], dict[str, Any]]]]:
    """Give batches and, for frames in files, what is to be told of each interval's loading."""
    ranks, steps = runtime.ranks, (budget.batch_size, budget.interval)
    if isinstance(pool, ImagePool):
        device, share = runtime.device, ranks.share
        yield TrainBatches(pool, augmentation, *steps, seed=seed, device=device, share=share), dict
        return
    batches = FrameBatches(
        pool, augmentation, *steps, seed=seed, device=runtime.device, share=ranks.share
    )

    def loading() -> dict[str, Any]:
        waited, batches.waited_seconds = batches.waited_seconds, 0.0
        everywhere = ranks.all_gather_objects((waited, batches.failures.failed_items))
        return {
            "waited_seconds": max(seconds for seconds, _ in everywhere),
            "damaged_frames": len({frame for _, failed in everywhere for frame in failed}),
        }

    try:
        if log is None:
            yield batches, loading
        else:
            gather = ranks.all_gather_objects
            yield LoggedBatches(batches, log, gather=gather, writes=ranks.is_main), loading
    finally:
        batches.close()


def load_student(
    config: DistillationConfig, out: Path, data: DistillationData, arm: Arm, seed: int
) -> nn.Module:
    """Return a trained student in eval mode."""
    net = replace(config.student, weights=None)  # its own weights follow; none are downloaded
    student = make_network(config, net, data, seed, auxiliary=arm == "supervised")
    last = num_intervals(config.student_steps)
    weights = load_weights(arm_folder(out, arm, seed) / "checkpoints" / f"epoch_{last:04d}")
    student.load_state_dict(weights)
    return student.eval()


def arm_folder(out: Path, arm: str, seed: int) -> Path:
    """Return the run folder of a student."""
    return out / "runs" / f"{arm}-seed{seed}"


def num_intervals(budget: StepsConfig) -> int:
    """Return how many intervals, each with a checkpoint, a budget has."""
    return budget.steps // budget.interval
