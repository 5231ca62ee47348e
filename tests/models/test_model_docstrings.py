import doctest
import importlib

import pytest

MODULES = [
    "models.tiny",
    "models.build",
    "models.features",
    "models.fmce_net",
    "losses.ral",
    "metrics.scores",
    "metrics.statistics",
    "interpret.grad_cam",
]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_print_what_they_say(name: str) -> None:
    results = doctest.testmod(importlib.import_module(f"fmce.{name}"))
    assert results.attempted > 0
    assert results.failed == 0
