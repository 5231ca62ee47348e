"""What a distillation step sees: which images, how normalised, augmented and mixed, and how the teacher reads them.

Function matching works only if teacher and student get the very same view (Beyer et al., CVPR 2022, section 2),
so whatever decides either network's input is decided here, once for both.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fmce.config.choices import Arm
from fmce.config.distillation import DistillationConfig, DistillationDataConfig, StepsConfig
from fmce.data.augmentation import Augmentation, EvalBatches, TrainBatches
from fmce.data.batch_slice import rank_slice
from fmce.data.frames.batches import FrameBatches
from fmce.data.frames.log import LoggedBatches
from fmce.data.frames.pool import FramePool
from fmce.data.image_reader import ImageArray
from fmce.data.memory import stays_resident
from fmce.data.pools import ImagePool
from fmce.distillation.data.pools import DistillationData
from fmce.engine.distributed.ranks import Ranks
from fmce.engine.loop import Batches
from fmce.engine.runtime import Runtime
from fmce.losses.distillation import mixup, sample_mixup
from fmce.models.checks import unsafe_in_channels_last
from fmce.tasks.distillation import DistillationTask

Pool = TypeVar("Pool", ImagePool, ImagePool | FramePool)
# What pretrained encoders were trained with, on the 0–1 scale.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def with_imagenet_statistics(config: DistillationConfig) -> DistillationDataConfig:
    """Return an experiment's data config, with ImageNet's statistics where a network starts from its weights.

    One such network is enough, because both see the same view. A mean that is set stays.
    """
    pretrained = any(net.weights is not None for net in (config.teacher, config.student))
    if not pretrained or config.data.mean:
        return config.data
    return replace(config.data, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def check_normalisation(card: Mapping[str, Any], data: DistillationData, card_file: Path) -> None:
    """Refuse a teacher whose card `teacher.json` has another "mean" or "std" than the experiment's images."""
    for name in ("mean", "std"):
        given = card.get(name)
        if not isinstance(given, list) or not all(type(v) in (int, float) for v in given):
            raise ValueError(
                f"{card_file}: expected {name} as a list of three numbers on the 0–1 scale, got {given!r}"
            )
        theirs = torch.tensor(given, dtype=torch.float64)
        ours = torch.tensor(getattr(data, name), dtype=torch.float64)
        if theirs.shape != (3,) or (theirs - ours).abs().max() > 1e-3:
            raise ValueError(
                f"{card_file}: the teacher expects images normalised with {name} {given}, the student gets "
                f"{ours.tolist()}: both must see the same view. Set data.mean and data.std to the "
                "teacher's, or use its labelled images and data seed"
            )


def augmentation_of(config: DistillationConfig, data: DistillationData) -> Augmentation:
    """Return the augmentation of training images; evaluation takes its normalisation alone."""
    section = config.augmentation
    return Augmentation(data.mean, data.std, section.zoom, section.flip, section.brightness)


def training_pool(arm: Arm, data: DistillationData) -> ImagePool | FramePool:
    """Return the images that an arm trains on."""
    if arm == "function_matching":
        return data.labelled.unlabelled() + data.unlabelled
    return data.labelled


def on_device(
    pool: Pool, data: DistillationData, device: torch.device
) -> tuple[Pool, DistillationData]:
    """Move a training's pool, and the images it is evaluated on, to the device if all of them may stay there."""
    evaluated = (data.held_out, data.validation)
    if not stays_resident(pool.nbytes + sum(p.nbytes for p in evaluated), device):
        return pool, data
    held_out, validation = (p.to(device) for p in evaluated)
    return pool.to(device), replace(data, held_out=held_out, validation=validation)


@contextmanager
def training_batches(
    pool: ImagePool | FramePool,
    augmentation: Augmentation,
    budget: StepsConfig,
    seed: int,
    runtime: Runtime,
    log: Path | None = None,
) -> Iterator[tuple[Batches, Callable[[], dict[str, Any]]]]:
    """Yield a training's batches, and a function that reports the loading of the latest interval.

    `log` is a folder for the keys of the frames that each interval saw; frames in files only.
    """
    ranks, steps = runtime.ranks, (budget.batch_size, budget.interval)
    options: dict[str, Any] = {"seed": seed, "device": runtime.device, "rank_of": ranks.rank_of}
    if isinstance(pool, ImagePool):
        yield TrainBatches(pool, augmentation, *steps, **options), dict
        return
    batches = FrameBatches(pool, augmentation, *steps, **options)

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


def evaluation_batches(pool: ImagePool, data: DistillationData, runtime: Runtime) -> EvalBatches:
    """Return the images of a pool as they are, normalised, in batches that the ranks share."""
    return EvalBatches(pool, Augmentation(data.mean, data.std), rank_of=runtime.ranks.rank_of)


def mix_batch(images: Tensor, ranks: Ranks) -> Tensor:
    """Return this rank's rows of the mixup of a batch (B,3,H,W); one λ per batch, images of any rank."""
    # Seeded for each epoch, and drawn alike on all ranks.
    lam = sample_mixup(ranks.generator(torch.device("cpu")))
    batch = ranks.gather_rows(images)  # (B,3,H,W)
    return mixup(batch, lam)[rank_slice(len(batch), *ranks.rank_of).rows]


def teacher_precision(config: DistillationConfig, runtime: Runtime) -> str:
    """Return the precision of the teacher's forward passes while students train, "float32" or "bfloat16".

    "auto" is bfloat16 on a GPU that computes with it, and the student's own precision elsewhere.
    """
    if config.teacher_precision != "auto":
        return config.teacher_precision
    gpu = runtime.device.type == "cuda" and torch.cuda.is_bf16_supported()
    return "bfloat16" if gpu else runtime.precision


def frozen_teacher(
    task: DistillationTask, teacher: nn.Module, config: DistillationConfig, runtime: Runtime
) -> Callable[[Tensor], Any]:
    """Freeze a teacher and return its forward pass: images (B,3,H,W) → outputs, in `teacher_precision`."""
    teacher.eval().requires_grad_(False)
    in_bfloat16 = teacher_precision(config, runtime) == "bfloat16"

    checked = False

    def outputs(images: Tensor) -> Any:
        nonlocal checked
        # The step runs under the training's own autocast; this one is entered inside it.
        own = torch.autocast(runtime.device.type, dtype=torch.bfloat16, enabled=in_bfloat16)
        with torch.inference_mode(), own:
            found = task.outputs(teacher, images)
        if not checked:  # once: each check makes the host wait for the device
            refuse_infinite(found)
            checked = True
        return found

    return outputs


def refuse_infinite(outputs: Any) -> None:
    """Refuse a teacher's outputs, a tensor or a tuple of tensors, in which a value is NaN or infinite.

    Raises:
        ValueError: If one is; a student could only learn it from them.
    """
    for part in outputs if isinstance(outputs, tuple) else (outputs,):
        if isinstance(part, Tensor) and not part.isfinite().all():
            raise ValueError(
                "the teacher's outputs are NaN or infinite before step 1; take another checkpoint, or set "
                "teacher_precision=float32 if its weights are sound"
            )


def in_fast_memory_order(model: nn.Module) -> nn.Module:
    """Return the network in NHWC memory order where PyTorch trains it safely; values change by rounding alone.

    Measured a third faster on CPUs, and more on GPUs with bfloat16.
    """
    if unsafe_in_channels_last(model, torch.device("cpu")) is None:
        return model.to(memory_format=torch.channels_last)
    return model


def complete_image(
    image: ImageArray, size: tuple[int, int], normalise: Augmentation, model: nn.Module
) -> Tensor:
    """Return an image uint8 (H,W,3) as a trained network takes it: at its training's scale, complete, not cropped.

    The result is float32 (1,3,h,w), at least `size` and of the image's own aspect, on the model's device.
    """
    height, width = image.shape[:2]
    # Training images were scaled until they covered their size; objects are as large here as there.
    scale = max(size[0] / height, size[1] / width)
    wanted = (round(width * scale), round(height * scale))
    scaled = Image.fromarray(image).resize(wanted, Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(scaled)).permute(2, 0, 1)[None]  # (1,3,h,w)
    x, _ = normalise(pixels.to(next(model.parameters()).device))
    return x
