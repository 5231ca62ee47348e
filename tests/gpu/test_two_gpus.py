"""Two GPUs under torchrun (nccl) against one: the same curve from the same command."""

import os
import subprocess
import sys

import pytest
import torch

from fmce.commands.train import train
from fmce.configs import RunConfig, with_settings
from fmce.engine.runtime import make_runtime
from fmce.run_folder import open_run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch sees fewer than two GPUs"),
]
SETTINGS = ("train.epochs=3", "train.batch_size=50", "data.image_size=16")


def test_two_gpus_give_the_curve_of_one(tmp_path):
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--local-addr=127.0.0.1"]
    launcher += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
    command = ["-m", "fmce", "train", "--out", str(tmp_path / "two"), "--device", "cuda"]
    command += [word for setting in SETTINGS for word in ("--set", setting)]
    result = subprocess.run(
        [sys.executable, *launcher, *command],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "FMCE_RANK_TIMEOUT": "120"},
    )
    assert result.returncode == 0, result.stderr
    config = with_settings(RunConfig(), SETTINGS)
    alone = train(config, tmp_path / "one", runtime=make_runtime("cuda"), quiet=True)
    two = open_run(tmp_path / "two")
    assert two.config == alone.config
    for name in ("loss", "validation_loss"):
        curves = [[row[name] for row in run.curve] for run in (two, alone)]
        assert curves[0] == pytest.approx(curves[1], rel=1e-2)
