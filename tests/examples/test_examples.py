"""Every example runs, prints a module table and writes a report."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NEEDS = {"lightning_digits": "lightning", "huggingface_digits": "transformers"}
SCRIPTS = sorted(p.stem for p in EXAMPLES.glob("*.py") if p.stem not in ("common", "__init__"))


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_an_example_ends_in_a_module_table_and_a_report(name, tmp_path):
    needed = NEEDS.get(name)
    if needed is not None and find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    out = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, f"examples/{name}.py", "--out", str(out), "--epochs", "2"],
        cwd=EXAMPLES.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "late drift" in done.stdout
    assert f"report: {out / 'report.html'}" in done.stdout
    assert "alarm:" not in done.stdout
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Drift left of each module" in page


def test_the_readme_of_the_examples_names_them_all():
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [name for name in SCRIPTS if f"examples/{name}.py" not in text] == []


@pytest.mark.slow
def test_the_benchmark_of_the_recorder_runs():
    command = [sys.executable, "-m", "benchmarks.recorder", "--tiny", "--device", "cpu"]
    done = subprocess.run(
        command, cwd=EXAMPLES.parent, capture_output=True, text=True, timeout=600, check=True
    )
    assert "epoch_over_plain" in done.stdout
    assert "clocks_megabytes" in done.stdout
