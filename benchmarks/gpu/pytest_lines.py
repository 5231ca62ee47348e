"""A pytest plugin that writes each test's outcome as a JSON line at once: `-p benchmarks.gpu.pytest_lines`."""

import os
from pathlib import Path

import pytest

from benchmarks.gpu.lines import append

FILE = "FMCE_GPU_TESTS"
_KEPT = 6000


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Write that a file cannot be collected."""
    if report.outcome == "failed" and FILE in os.environ:
        row = {"line": report.nodeid, "status": "not collected"}
        append(Path(os.environ[FILE]), row | {"traceback": report.longreprtext[-_KEPT:]})


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write the outcome; under xdist only the process that collects the reports does."""
    if os.environ.get("PYTEST_XDIST_WORKER") or FILE not in os.environ:
        return
    if report.when != "call" and report.outcome == "passed":
        return  # setup and teardown are worth a line only where they failed or skipped
    row = {"line": report.nodeid, "status": report.outcome, "seconds": round(report.duration, 2)}
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        row["reason"] = report.longrepr[2]
    elif report.outcome == "failed":
        row["when"], row["traceback"] = report.when, report.longreprtext[-_KEPT:]
    append(Path(os.environ[FILE]), row)
