"""A function-matching experiment: its config, its folder, its images, the networks and jobs in it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fmce.config.choices import Arm, TaskName
from fmce.config.distillation import DistillationConfig, NetConfig, StepsConfig
from fmce.config.io import from_dict, read_yaml
from fmce.config.trust import Trust, check_trusted
from fmce.data.batch import PoolBatch
from fmce.data.frames.pool import FramePool
from fmce.data.pools import ImagePool
from fmce.digests import check_file, read_record
from fmce.distillation import inputs
from fmce.distillation.data.dataset import read_distillation_data
from fmce.distillation.data.pools import DistillationData
from fmce.engine.distributed.ranks import ALONE
from fmce.engine.loop import EpochResult, StepOutput
from fmce.engine.runtime import Runtime
from fmce.files import wanted_by
from fmce.losses.detection import check_same_places
from fmce.models.build import build_model, import_function
from fmce.models.fcos import fcos
from fmce.models.pspnet import pspnet
from fmce.recorder.meter import meter_or_none
from fmce.runs.resume import Optimization, fit_resumable
from fmce.runs.weights import load_into
from fmce.seeding import seed_epoch
from fmce.tasks.detection import DetectionTask
from fmce.tasks.distillation import ClassificationTask, SegmentationTask


@dataclass(frozen=True)
class Experiment:
    """What every job of an experiment needs.

    Attributes:
        config: Teacher, student, images and budgets.
        folder: Holds the prepared images, `teacher/` and one run folder per student in `runs/`.
        data: The images, on the host or on the device.
    """

    config: DistillationConfig
    folder: Path
    data: DistillationData

    @property
    def task(self) -> ClassificationTask | SegmentationTask | DetectionTask:
        """What the networks do."""
        return make_task(self.config.task, self.data.class_names)

    @property
    def teacher_folder(self) -> Path:
        """Run folder of the teacher."""
        return self.folder / "teacher"

    def student_folder(self, arm: Arm, seed: int) -> Path:
        """Return the run folder of a student."""
        return self.folder / "runs" / f"{arm}-seed{seed}"

    def make_teacher(self, *, pretrained: bool) -> nn.Module:
        """Return the untrained teacher; `pretrained` takes the weights that the config names."""
        return self._make(self.config.teacher, self.config.teacher_seed, True, pretrained)

    def make_student(self, arm: Arm, seed: int, *, pretrained: bool) -> nn.Module:
        """Return an untrained student: the same weights in every arm; "supervised" adds an auxiliary head."""
        return self._make(self.config.student, seed, arm == "supervised", pretrained)

    def _make(self, net: NetConfig, seed: int, auxiliary: bool, pretrained: bool) -> nn.Module:
        net = net if pretrained else replace(net, weights=None)
        num_classes = len(self.data.class_names)
        with wanted_by(self.folder / "config.yaml"):
            return make_network(self.config.task, net, num_classes, seed, auxiliary=auxiliary)

    def load_teacher(self) -> nn.Module:
        """Return the experiment's teacher, frozen and in eval mode."""
        teacher, weights = (
            self.make_teacher(pretrained=False),
            self.teacher_folder / "model.safetensors",
        )
        remedy = f"delete {self.teacher_folder} and repeat fmce distill, which trains it again"
        card = read_record(self.teacher_folder / "teacher.json", remedy=remedy)
        if "sha256" in card:  # since version 0.1
            check_file(weights, card["sha256"], remedy)
        load_into(teacher, weights, "the teacher")
        return teacher.eval().requires_grad_(False)

    def load_student(self, arm: Arm, seed: int | None = None) -> nn.Module:
        """Return a trained student in eval mode, of the experiment's first seed by default."""
        seed = self.config.seeds[0] if seed is None else seed
        student = self.make_student(arm, seed, pretrained=False)
        last = f"epoch_{num_intervals(self.config.student_steps):04d}"
        load_into(student, self.student_folder(arm, seed) / "checkpoints" / last, "the student")
        return student.eval()


def open_experiment(folder: Path, *, trust: Trust = False) -> Experiment:
    """Open a finished experiment.

    Args:
        folder: Its folder.
        trust: Whether functions that its config names may run; or which.

    Raises:
        FileNotFoundError: If the folder holds none.
        ValueError: If its config names a function that is not trusted.
    """
    if not (folder / "distill.json").exists():
        raise FileNotFoundError(f"{folder} has no distill.json; run: fmce distill --out {folder}")
    values = read_yaml(folder / "config.yaml")
    if not values:
        raise ValueError(f"{folder / 'config.yaml'} is empty: it is damaged; put the original back")
    with wanted_by(folder / "config.yaml"):
        config = from_dict(DistillationConfig, values)
    check_trusted(folder, config, trust)
    return Experiment(config, folder, read_distillation_data(folder))


def make_task(
    task: TaskName, class_names: tuple[str, ...]
) -> ClassificationTask | SegmentationTask | DetectionTask:
    """Return a task of the given classes."""
    if task == "classify":
        return ClassificationTask(len(class_names))
    if task == "detect":
        return DetectionTask(len(class_names), class_names)
    return SegmentationTask(len(class_names), class_names)


def check_networks(config: DistillationConfig) -> None:
    """Build both networks once, so that a wrong name is reported before anything is read or trained."""
    networks = [
        _build(config.task, replace(net, weights=None), 2, auxiliary=True)
        for net in (config.teacher, config.student)
    ]
    if config.task == "detect":
        image = torch.zeros(1, 3, config.data.height, config.data.width)
        task = DetectionTask(2, ())
        with torch.inference_mode():
            teacher, student = (task.outputs(net.eval(), image) for net in networks)
        check_same_places(student, teacher)


def make_network(
    task: TaskName, net: NetConfig, num_classes: int, seed: int, *, auxiliary: bool
) -> nn.Module:
    """Build a network with the initial weights of a seed; a PSPNet's `auxiliary` head is drawn last."""
    seed_epoch(seed, 0)
    return inputs.in_fast_memory_order(_build(task, net, num_classes, auxiliary=auxiliary))


def _build(task: TaskName, net: NetConfig, num_classes: int, *, auxiliary: bool) -> nn.Module:
    if task == "classify":
        return build_model(net.name, num_classes, options=net.options, weights=net.weights)
    kind, _, name = net.name.partition(":")
    try:
        if kind == "fcos":
            return fcos(name, num_classes, weights=net.weights, **net.options)
        if kind == "pspnet":
            options = {"auxiliary": auxiliary, **net.options}
            return pspnet(name, num_classes, weights=net.weights, **options)
        model = import_function(kind, name)(num_classes=num_classes, **net.options)
    except TypeError as error:
        raise ValueError(f"{net.name} does not take its options: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{net.name} returned {type(model).__name__}, expected a torch.nn.Module")
    return model


def fit_steps(
    experiment: Experiment,
    folder: Path,
    model: nn.Module,
    step: Callable[[PoolBatch], StepOutput],
    pool: ImagePool | FramePool,
    budget: StepsConfig,
    seed: int,
    runtime: Runtime,
    measure: Callable[[EpochResult], Mapping[str, Any]] = lambda _result: {},
) -> None:
    """Train a network for a step budget in its run folder, resuming after a kill; ranks share each batch.

    The seed decides the order of images and their augmentation; `measure` returns further fields of each
    interval's metrics line.
    """
    config = experiment.config
    augmentation = inputs.augmentation_of(config, experiment.data)
    log = folder / "frames" if config.data.record_frames else None
    optimization = Optimization(num_intervals(budget), budget.learning_rate, seed)
    loaded = inputs.training_batches(pool, augmentation, budget, seed, runtime, log)
    with loaded as (batches, loading):
        fit_resumable(
            *(folder, model, step, batches, optimization, runtime),
            measure=lambda result, _rows: {**measure(result), **loading()},
            meter=meter_or_none(folder, model, probe_images(experiment, runtime)),
            title=f"training {folder.name}",
        )


def probe_images(experiment: Experiment, runtime: Runtime) -> Tensor | None:
    """Return the unvaried validation images (N,3,H,W) on which modules are measured; None where there are too few."""
    data = experiment.data
    alone = replace(runtime, ranks=ALONE)  # the first rank measures
    batches = inputs.evaluation_batches(data.validation, data, alone)
    first = next(iter(batches.epoch()), None)
    return None if first is None else runtime.to_device(first.images)


def num_intervals(budget: StepsConfig) -> int:
    """Return how many intervals, each with a checkpoint, a budget has."""
    return budget.steps // budget.interval
