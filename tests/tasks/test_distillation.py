"""Function matching: same view for both, labels unused, teacher untouched."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmce.data.augmentation import Augmentation, EvalBatches
from fmce.data.batch import PoolBatch
from fmce.data.pools import ImagePool
from fmce.engine.runtime import make_runtime
from fmce.tasks.distillation import (
    ClassificationTask,
    SegmentationTask,
    agreement,
    distillation_step,
    supervised_step,
)

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


def check_same_view(student: Recorder, teacher: Recorder, *, blend: bool = False) -> None:
    """Take one step and hold what both networks were shown against each other, bit by bit."""
    torch.manual_seed(0)
    batch = batch_of()
    distillation_step(SegmentationTask(3, ("a", "b", "c")), student, teacher, blend=blend)(batch)
    (mine,), (theirs,) = student.shown, teacher.shown
    assert torch.equal(mine, theirs), "another view"
    assert torch.equal(mine, batch.images) is not blend


@pytest.mark.parametrize("blend", [False, True])
def test_teacher_and_student_see_the_very_same_view(blend: bool) -> None:
    check_same_view(Recorder(), Recorder(), blend=blend)


class OtherCrop(Recorder):
    """A teacher that is fed the view moved by one pixel, as an independent crop would be."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.roll(1, dims=-1))


@pytest.mark.parametrize("blend", [False, True])
def test_a_teacher_fed_another_crop_is_noticed(blend: bool) -> None:
    with pytest.raises(AssertionError, match="another view"):
        check_same_view(Recorder(), OtherCrop(), blend=blend)


def test_the_teachers_precision_is_its_own() -> None:
    seen: dict[str, torch.dtype] = {}

    class Watching(Recorder):
        def forward(self, images: Tensor) -> Tensor:
            out = super().forward(images)
            seen[self.name] = out.dtype
            return out

    student, teacher = Watching(), Watching()
    student.name, teacher.name = "student", "teacher"
    in_bfloat16 = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    task = SegmentationTask(3, ("a", "b", "c"))
    output = distillation_step(task, student, teacher, teacher_autocast=in_bfloat16)(batch_of())
    assert seen == {"student": torch.float32, "teacher": torch.bfloat16}
    assert output.loss.dtype == torch.float32


def test_matching_loss_is_the_mean_kl_and_ignores_labels() -> None:
    student, teacher = Recorder(), Recorder()
    task = SegmentationTask(3, ("a", "b", "c"))
    batch = batch_of(torch.zeros(4, 5, 6, dtype=torch.int64))
    loss = distillation_step(task, student, teacher)(batch).loss
    p = teacher.conv(batch.images).softmax(1)
    log_ratio = p.log() - student.conv(batch.images).log_softmax(1)
    assert loss.item() == pytest.approx((p * log_ratio).sum(1).mean().item(), rel=1e-5)
    other = batch._replace(targets=torch.ones(4, 5, 6, dtype=torch.int64))
    assert distillation_step(task, student, teacher)(other).loss.item() == loss.item()


def test_only_the_student_gets_gradients_and_the_teacher_is_in_eval_mode() -> None:
    student, teacher = Recorder(), Recorder().train()
    distillation_step(SegmentationTask(3, ("a", "b", "c")), student, teacher)(
        batch_of()
    ).loss.backward()
    assert student.conv.weight.grad is not None
    assert teacher.conv.weight.grad is None
    assert not teacher.training


def test_supervised_step_is_cross_entropy_and_needs_labels() -> None:
    student = Recorder()
    task = SegmentationTask(3, ("a", "b", "c"))
    targets = torch.randint(0, 3, (4, 5, 6))
    batch = batch_of(targets)
    expected = F.cross_entropy(student.conv(batch.images), targets)
    assert supervised_step(task, student)(batch).loss.item() == pytest.approx(expected.item())
    with pytest.raises(ValueError, match="no targets"):
        supervised_step(task, student)(batch_of())


def test_agreement_of_a_network_with_itself_is_whole() -> None:
    pool = ImagePool(torch.randint(0, 255, (5, 3, 4, 4), dtype=torch.uint8))
    net = Recorder()
    task = SegmentationTask(3, ("a", "b", "c"))
    result = agreement(task, 3, net, net, EvalBatches(pool, PLAIN, 2), make_runtime("cpu"))
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
