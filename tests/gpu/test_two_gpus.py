"""Two GPUs under torchrun (nccl) against one: the same curve from the same command."""

import os
import subprocess
import sys

import pytest
import torch

from fmce.config.distillation import distillation_preset
from fmce.config.io import with_settings
from fmce.config.run import RunConfig
from fmce.distillation.distill import distill
from fmce.engine.runtime import make_runtime
from fmce.maturity.train_classifier import train_classifier
from fmce.runs.log import read_metrics
from fmce.runs.run import open_run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch sees fewer than two GPUs"),
]
SETTINGS = ("train.epochs=3", "train.batch_size=50", "data.image_size=16")


MATCHING = (
    "data={labelled: 60, unlabelled: 100, held_out: 11, validation: 41, height: 8, width: 8}",
    "teacher_steps={steps: 6, batch_size: 17, interval: 3}",
    "student_steps={steps: 6, batch_size: 17, interval: 3, mixup: true}",
    "seeds=[1]",
)


def on_two_gpus(command, out, settings):
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--local-addr=127.0.0.1"]
    launcher += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
    words = ["-m", "fmce", *command, "--out", str(out), "--device", "cuda"]
    words += [word for setting in settings for word in ("--set", setting)]
    result = subprocess.run(
        [sys.executable, *launcher, *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "FMCE_RANK_TIMEOUT": "120"},
    )
    assert result.returncode == 0, result.stderr


def test_two_gpus_give_the_curve_of_one(tmp_path):
    on_two_gpus(["train"], tmp_path / "two", SETTINGS)
    config = with_settings(RunConfig(), SETTINGS)
    alone = train_classifier(config, tmp_path / "one", runtime=make_runtime("cuda"))
    two = open_run(tmp_path / "two")
    assert two.config == alone.config
    for name in ("loss", "validation_loss"):
        curves = [[row[name] for row in run.curve] for run in (two, alone)]
        assert curves[0] == pytest.approx(curves[1], rel=1e-2)


def test_two_gpus_match_functions_as_one_does(tmp_path):
    on_two_gpus(["distill", "--preset", "digits"], tmp_path / "two", MATCHING)
    config = with_settings(distillation_preset("digits"), MATCHING)
    distill(config, tmp_path / "one", runtime=make_runtime("cuda"))
    for arm in config.arms:
        folders = [tmp_path / name / "runs" / f"{arm}-seed1" for name in ("two", "one")]
        for field in ("loss", "kl_to_teacher"):
            curves = [[row[field] for row in read_metrics(folder)] for folder in folders]
            assert curves[0] == pytest.approx(curves[1], rel=1e-2)
