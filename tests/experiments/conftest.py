"""The experiments are scripts beside the package: their folder is put on the path for these tests."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "experiments"


@pytest.fixture(autouse=True)
def experiments_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
