"""The recorder where two processes train one network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fmce.runs.log import read_metrics

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_sums_are_those_of_all_and_the_status_is_the_same(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command += ["-m", "tests.recorder.two_ranks", str(tmp_path)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = [(tmp_path / f"rank{rank}.txt").read_text(encoding="utf-8") for rank in (0, 1)]
    assert said[0] == said[1]
    rows = read_metrics(tmp_path / "run")
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert all(row["steps"] == 8 for row in rows)
    assert set(rows[0]["modules"]) == {"stem", "middle", "late", "head"}
    assert rows[-1]["modules"]["late"]["outputs"]["late"]["rank"] > 1
    assert json.dumps(rows)
    assert torch.load(tmp_path / "weights.pt", weights_only=True)
