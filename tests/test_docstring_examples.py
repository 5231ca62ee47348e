"""Every example in a docstring of the package prints what it says."""

import doctest
import importlib
import pkgutil

import pytest

import fmce

MODULES = [module.name for module in pkgutil.walk_packages(fmce.__path__, "fmce.")]


@pytest.mark.parametrize("name", [name for name in MODULES if name != "fmce.__main__"])
def test_examples_in_docstrings_hold(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
