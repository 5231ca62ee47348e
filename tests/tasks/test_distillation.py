"""Function matching: same view for both, labels unused, teacher untouched."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmce.config.distillation import DistillationConfig
from fmce.data.augmentation import Augmentation, EvalBatches
from fmce.data.batch import PoolBatch
from fmce.data.pools import ImagePool
from fmce.distillation.inputs import frozen_teacher, mix_batch
from fmce.engine.distributed.ranks import ALONE
from fmce.engine.loop import StepOutput
from fmce.engine.runtime import make_runtime
from fmce.tasks.distillation import (
    ClassificationTask,
    SegmentationTask,
    distillation_step,
    supervised_step,
)

TASK = SegmentationTask(3, ("a", "b", "c"))
PLAIN = Augmentation((0.0,) * 3, (1.0,) * 3)


class Recorder(nn.Module):
    """A 1×1 convolution that keeps what it was shown."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, classes, 1)
        self.shown: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.shown.append(images.detach().clone())
        out: Tensor = self.conv(images)
        return out


def batch_of(targets: Tensor | None = None) -> PoolBatch:
    return PoolBatch(torch.rand(4, 3, 5, 6), targets, torch.arange(4))


def step_of(
    student: nn.Module,
    teacher: nn.Module,
    config: DistillationConfig = DistillationConfig(),  # noqa: B008  (frozen)
    **options: Any,
) -> Callable[[PoolBatch], StepOutput]:
    outputs = frozen_teacher(TASK, teacher, config, make_runtime("cpu"))
    return distillation_step(TASK, student, outputs, **options)


def check_same_view(student: Recorder, teacher: Recorder, *, mixed: bool = False) -> None:
    """Take one step and hold what both networks were shown against each other, bit by bit."""
    torch.manual_seed(0)
    batch = batch_of()
    step_of(student, teacher, mix=partial(mix_batch, ranks=ALONE) if mixed else None)(batch)
    (mine,), (theirs,) = student.shown, teacher.shown
    assert torch.equal(mine, theirs), "another view"
    assert torch.equal(mine, batch.images) is not mixed


@pytest.mark.parametrize("mixed", [False, True])
def test_teacher_and_student_see_the_very_same_view(mixed: bool) -> None:
    check_same_view(Recorder(), Recorder(), mixed=mixed)


class OtherCrop(Recorder):
    """A teacher that is fed the view moved by one pixel, as an independent crop would be."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.roll(1, dims=-1))


@pytest.mark.parametrize("mixed", [False, True])
def test_a_teacher_fed_another_crop_is_noticed(mixed: bool) -> None:
    with pytest.raises(AssertionError, match="another view"):
        check_same_view(Recorder(), OtherCrop(), mixed=mixed)


def test_the_teachers_precision_is_its_own() -> None:
    seen: dict[str, torch.dtype] = {}

    class Watching(Recorder):
        def forward(self, images: Tensor) -> Tensor:
            out = super().forward(images)
            seen[self.name] = out.dtype
            return out

    student, teacher = Watching(), Watching()
    student.name, teacher.name = "student", "teacher"
    in_bfloat16 = DistillationConfig(teacher_precision="bfloat16")
    output = step_of(student, teacher, in_bfloat16)(batch_of())
    assert seen == {"student": torch.float32, "teacher": torch.bfloat16}
    assert output.loss.dtype == torch.float32


def test_the_loss_is_the_mean_kl_and_ignores_labels() -> None:
    student, teacher = Recorder(), Recorder()
    batch = batch_of(torch.zeros(4, 5, 6, dtype=torch.int64))
    loss = step_of(student, teacher)(batch).loss
    p = teacher.conv(batch.images).softmax(1)
    log_ratio = p.log() - student.conv(batch.images).log_softmax(1)
    assert loss.item() == pytest.approx((p * log_ratio).sum(1).mean().item(), rel=1e-5)
    other = batch._replace(targets=torch.ones(4, 5, 6, dtype=torch.int64))
    assert step_of(student, teacher)(other).loss.item() == loss.item()


def test_only_the_student_gets_gradients_and_the_teacher_is_in_eval_mode() -> None:
    student, teacher = Recorder(), Recorder().train()
    step_of(student, teacher)(batch_of()).loss.backward()
    assert student.conv.weight.grad is not None
    assert teacher.conv.weight.grad is None
    assert not teacher.training


def test_supervised_step_is_cross_entropy_and_needs_labels() -> None:
    student = Recorder()
    targets = torch.randint(0, 3, (4, 5, 6))
    batch = batch_of(targets)
    expected = F.cross_entropy(student.conv(batch.images), targets)
    assert supervised_step(TASK, student)(batch).loss.item() == pytest.approx(expected.item())
    with pytest.raises(ValueError, match="no targets"):
        supervised_step(TASK, student)(batch_of())


def test_agreement_of_a_network_with_itself_is_whole() -> None:
    pool = ImagePool(torch.randint(0, 255, (5, 3, 4, 4), dtype=torch.uint8))
    net = Recorder()
    result = TASK.agreement(net, net, EvalBatches(pool, PLAIN, 2), make_runtime("cpu"))
    assert result["argmax_agreement"] == 1.0
    assert result["mean_kl"] == pytest.approx(0, abs=1e-6)
    assert result["positions"] == 5 * 16


def test_classification_is_scored_by_accuracy() -> None:
    class Brightness(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            mean = images.mean(dim=(1, 2, 3))
            return torch.stack([0.5 - mean, mean - 0.5], dim=1)

    images = torch.zeros(4, 3, 4, 4, dtype=torch.uint8)
    images[2:] = 255
    pool = ImagePool(images, torch.tensor([0, 1, 1, 1]))
    scores = ClassificationTask(2).scores(
        Brightness(), EvalBatches(pool, PLAIN), make_runtime("cpu")
    )
    assert scores == {"accuracy": 0.75}
