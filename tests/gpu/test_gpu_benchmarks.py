"""On a GPU the benchmarks run to their end: both sides do the same work there too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
ROOT = Path(__file__).resolve().parents[2]
COMMANDS = {
    "step_overhead": "--model torchvision:resnet18 --image-size 64 --images 256 --repeats 2",
    "map_throughput": "--model torchvision:resnet18 --images 300 --backbones 2 --repeats 2",
    "ral_step": "--batch-size 32 --repeats 2 --precision bfloat16",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_benchmark_ends(name):
    words = [
        sys.executable,
        "-m",
        f"benchmarks.{name}",
        "--device",
        "cuda",
        *COMMANDS[name].split(),
    ]
    subprocess.run(words, check=True, timeout=300, env=os.environ, cwd=ROOT)
