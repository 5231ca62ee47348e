"""The convergence package alone: what it imports, and how fast."""

import subprocess
import sys

HEAVY = ("torch", "torchvision", "matplotlib", "pandas", "scipy", "sklearn", "timm")


def run_python(code):
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_finding_phases_and_reading_curves_import_numpy_alone():
    code = (
        "import sys, fmce, fmce.convergence.files.curves\n"
        "fmce.find_phases([2.3] + [0.001] * 59, fmce.PhaseConfig(threshold=2e-3))\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], 'numpy' in sys.modules)"
    )
    assert run_python(code) == "[] True"


def test_import_fmce_takes_less_than_0_3_seconds():
    code = "import time; t = time.perf_counter(); import fmce; print(time.perf_counter() - t)"
    assert min(float(run_python(code)) for _ in range(3)) < 0.3
