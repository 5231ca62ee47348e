"""`benchmarks/gpu/run.sh` on a processor: every part, the same code at tiny sizes, then rows from its folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.lines import outcomes, read

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_every_part_runs_on_a_processor_and_is_collected(tmp_path):
    out, state = tmp_path / "out", tmp_path / "state"
    folders = ["--out", out, "--state", state, "--packed", tmp_path / "nothing"]
    options = ["--minutes", "8", "--device", "cpu", "--tiny", *folders]
    nowhere = {name: str(tmp_path / "nothing") for name in ("FMCE_GPU_SITE", "FMCE_GPU_PACKED")}
    env = {**os.environ, "PYTHON": sys.executable, **nowhere}
    run = ["bash", ROOT / "benchmarks" / "gpu" / "run.sh", *options]
    subprocess.run(run, check=True, timeout=480, env=env)
    assert {row["status"] for row in read(out / "tests.jsonl")} <= {"skipped", "passed"}
    for part in ("speed", "rows"):
        found = outcomes(read(out / f"{part}.jsonl"))
        assert {name: row["status"] for name, row in found.items()} == dict.fromkeys(found, "done")
        assert len(found) > 8
    kept = [file for file in out.rglob("*") if file.is_file()]
    assert len(kept) <= 8
    assert max(file.stat().st_size for file in kept) < 16e6
    collect = [sys.executable, "-m", "benchmarks.gpu.collect", out, "--results", tmp_path / "rows"]
    page = subprocess.run(collect, check=True, cwd=ROOT, capture_output=True, text=True).stdout
    assert "training step, tiny, bfloat16 |" in page
    rows = read(tmp_path / "rows" / "fmce.jsonl")
    assert [row["what"] for row in rows][:2] == ["original task", "FMCE-Net, split map"]
