"""The same distillation of a classifier by fmce's engine and by torchdistill's own loop."""

import logging
from collections.abc import Callable

import torch
from torch.utils.data import SequentialSampler, TensorDataset

from benchmarks.table.lines import CPU
from fmce.config.distillation import DistillationConfig
from fmce.data.augmentation import Augmentation, TrainBatches
from fmce.data.pools import ImagePool
from fmce.distillation.inputs import frozen_teacher, in_fast_memory_order
from fmce.engine.loop import fit
from fmce.models.build import build_model
from fmce.seeding import seed_epoch
from fmce.tasks.distillation import ClassificationTask, distillation_step

CLASSES, BATCH, SIDE = 10, 32, 32
MEAN, STD = (0.5,) * 3, (0.25,) * 3


def loops(images: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return an epoch of each."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, SIDE, SIDE), dtype=torch.uint8, generator=draw)
    return ours(pixels), theirs(pixels)


def networks() -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return teacher and student, the same for both."""
    seed_epoch(0, 0)
    teacher = build_model("torchvision:resnet18", CLASSES).eval().requires_grad_(False)
    return teacher, build_model("tiny", CLASSES)


def ours(pixels: torch.Tensor) -> Callable[[], None]:
    """Return an epoch through the engine, networks in the memory order that `fmce distill` gives them."""
    teacher, student = (in_fast_memory_order(network) for network in networks())
    task, config = ClassificationTask(CLASSES), DistillationConfig(teacher_precision="float32")
    step = distillation_step(task, student, frozen_teacher(task, teacher, config, CPU))
    plain = Augmentation(MEAN, STD, zoom=1.0)
    batches = TrainBatches(ImagePool(pixels), plain, BATCH, len(pixels) // BATCH, seed=0)
    adam = torch.optim.Adam(student.parameters(), lr=1e-3, fused=True)
    return lambda: fit(student, step, batches, adam, epochs=1, seed=0, runtime=CPU)


def theirs(pixels: torch.Tensor) -> Callable[[], None]:
    """Return an epoch of torchdistill's box, as its examples write it."""
    logging.getLogger("torchdistill").setLevel(logging.ERROR)
    from torchdistill.core.distillation import get_distillation_box

    teacher, student = networks()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    data = TensorDataset(
        (pixels.float() / 255 - mean) / std, torch.zeros(len(pixels), dtype=torch.long)
    )
    loader = {
        "dataset_id": "train",
        "sampler": {"class_or_func": SequentialSampler, "kwargs": {}},
        "kwargs": {"batch_size": BATCH, "num_workers": 0},
        "requires_supp": True,
    }
    logits = {"io": "output", "path": "."}
    box = get_distillation_box(
        teacher,
        student,
        {"train": data},
        {
            "num_epochs": 1,
            "train_data_loader": loader,
            "val_data_loader": loader,
            "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
            "student": {"forward_proc": "forward_batch_only"},
            "optimizer": {"key": "Adam", "kwargs": {"lr": 1e-3, "fused": True}},
            "criterion": {
                "key": "WeightedSumLoss",
                "kwargs": {
                    "sub_terms": {
                        "kd": {
                            "criterion": {
                                "key": "KDLoss",
                                "kwargs": {
                                    "student_module_path": logits["path"],
                                    "student_module_io": logits["io"],
                                    "teacher_module_path": logits["path"],
                                    "teacher_module_io": logits["io"],
                                    "temperature": 1.0,
                                    "alpha": 0.0,
                                },
                            },
                            "weight": 1.0,
                        }
                    }
                },
            },
        },
        torch.device("cpu"),
        None,
        False,
        1,
        accelerator=None,
    )

    def epoch() -> None:
        box.pre_epoch_process(epoch=0)
        for batch, targets, more in box.train_data_loader:
            box.pre_forward_process()
            loss = box.forward_process(batch, targets, more)
            box.post_forward_process(loss)
        box.post_epoch_process()

    return epoch
