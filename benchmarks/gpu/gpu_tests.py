"""Part 1: the tests that need a GPU, side by side; each that fails is run once more, alone."""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.lines import append, part_of, read
from benchmarks.gpu.pytest_lines import FILE

ROOT = Path(__file__).resolve().parents[2]
# Plugins that a machine may have installed and that turn warnings, here errors, on.
_OPTIONS = ("-p", "no:cacheprovider", "-p", "no:benchmark", "-p", "benchmarks.gpu.pytest_lines")
_PROCESSES = 12
# Alone, warnings are none: other versions of torch than a checkout pins deprecate other things.
_LENIENT = ("-W", "default")
# Of what is left for this part: the rest is for running failures again.
_FIRST_SHARE = 0.9


def main() -> None:
    """Run the tests, then the failures, as long as there is time."""
    part = part_of()
    file = part.out / "tests.jsonl"
    side_by_side = () if part.tiny else ("-n", str(_PROCESSES), "--dist", "worksteal")
    run(file, ["tests/gpu", *side_by_side], _FIRST_SHARE * part.seconds_left)
    rows = read(file)
    if not any(row["status"] in ("passed", "skipped") for row in rows):
        # Nothing ran, such as where a warning of the machine's own packages is an error at import.
        run(file, ["tests/gpu", *side_by_side, *_LENIENT], _FIRST_SHARE * part.seconds_left)
        rows = read(file)
    failed = [row["line"] for row in rows if row["status"] == "failed"]
    again = part.out / ".again.jsonl"
    for test in dict.fromkeys(failed):
        if part.seconds_left < 10:
            append(file, {"line": test, "status": "not run again", "reason": "no time"})
            continue
        run(again, [test, *_LENIENT], part.seconds_left)
    for row in read(again):
        append(file, row | {"alone": True})
    again.unlink(missing_ok=True)


def run(file: Path, tests: list[str], seconds: float) -> None:
    """Run pytest on the tests for so many seconds; the plugin writes the outcomes."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", *_OPTIONS, *tests]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, FILE: str(file)})
    try:
        process.wait(timeout=max(1.0, seconds))
    except subprocess.TimeoutExpired:
        process.terminate()
        append(file, {"line": " ".join(tests), "status": "stopped", "reason": "no time"})
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()


if __name__ == "__main__":
    main()
