"""Every example in a docstring of the package and of the experiments prints what it says."""

import doctest
import importlib
import pkgutil

import pytest

import experiments
import fmce

MODULES = [
    module.name
    for package in (fmce, experiments)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
]


@pytest.mark.parametrize("name", [name for name in MODULES if name != "fmce.__main__"])
def test_examples_in_docstrings_hold(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
