"""On a GPU: the teacher's passes are in bfloat16, and distill runs through to its result."""

import shutil

import pytest
import torch

from fmce.config.distillation import DistillationConfig
from fmce.config.io import with_settings
from fmce.data.augmentation import Augmentation, TrainBatches
from fmce.data.pools import ImagePool
from fmce.distillation.distill import distill, train_student
from fmce.distillation.inputs import frozen_teacher
from fmce.engine.runtime import make_runtime
from fmce.runs.log import read_done
from fmce.tasks.distillation import ClassificationTask

pytest.importorskip("timm")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
SMALL = (
    "data={height: 16, width: 24, labelled: 8, unlabelled: 8, held_out: 4, validation: 4}",
    "teacher_steps={steps: 4, batch_size: 4, interval: 2}",
    "student_steps={steps: 4, batch_size: 4, interval: 2}",
    "seeds=[1]",
)


@pytest.mark.parametrize(
    ("precision", "expected"), [("auto", torch.bfloat16), ("float32", torch.float32)]
)
def test_the_teachers_passes_have_the_precision_asked_for(precision, expected):
    config = DistillationConfig(teacher_precision=precision)
    teacher = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2)).to("cuda")
    outputs = frozen_teacher(ClassificationTask(2), teacher, config, make_runtime("cuda"))
    assert outputs(torch.ones(1, 3, 4, 4, device="cuda")).dtype == expected


def test_augmentation_are_the_same_wherever_the_pool_is():
    images = torch.randint(0, 256, (9, 3, 16, 24), dtype=torch.uint8)
    pool, augmentation = (
        ImagePool(images),
        Augmentation((0.5,) * 3, (0.2,) * 3, zoom=1.5, flip=True),
    )
    gpu = torch.device("cuda")
    on_host, on_gpu = (
        [batch.images for batch in TrainBatches(p, augmentation, 4, 3, seed=0, device=gpu).epoch(1)]
        for p in (pool, pool.to(gpu))
    )
    assert all(a.device.type == "cuda" for a in on_host)
    assert all(torch.equal(a, b) for a, b in zip(on_host, on_gpu, strict=True))


def test_teacher_and_student_train_on_images_that_stay_on_the_host(tmp_path, monkeypatch):
    config, out = with_settings(DistillationConfig(), SMALL), tmp_path / "x"
    monkeypatch.setattr("fmce.distillation.inputs.stays_resident", lambda _size, _device: False)
    distill(config, out, runtime=make_runtime("cuda"))  # students: other processes
    student = out / "runs" / "function_matching-seed1"
    shutil.rmtree(student)
    train_student(config, out, "function_matching", 1, make_runtime("cuda"))
    assert "scores" in read_done(student)


def test_distill_runs_on_the_device_and_its_scores_are_scores(tmp_path):
    config = with_settings(DistillationConfig(), SMALL)
    result = distill(config, tmp_path / "x", runtime=make_runtime("cuda"))
    assert {r["arm"] for r in result["rows"]} == {"supervised", "distilled", "function_matching"}
    assert all(0 <= r["score"] <= 1 for r in result["rows"])
    assert result["networks"]["device"].startswith("cuda")
    assert result["networks"]["student"]["latency_ms"] > 0
