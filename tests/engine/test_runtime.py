"""Device and precision in one place."""

from typing import NamedTuple

import pytest
import torch
from torch import nn

from fmce.engine.runtime import Runtime, cores, make_runtime


class Pair(NamedTuple):
    one: torch.Tensor
    other: object


def test_auto_takes_the_gpu_where_there_is_one():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert make_runtime().device.type == expected
    assert make_runtime("cpu").device == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there_is_refused(device):
    with pytest.raises(ValueError, match="torch sees no GPU; use --device cpu"):
        make_runtime(device)


@pytest.mark.parametrize("device", ["gpu", "mps", "meta"])
def test_other_devices_are_refused_with_the_choices(device):
    with pytest.raises(ValueError, match="use auto, cpu, cuda or cuda:N"):
        make_runtime(device)


def test_other_precisions_are_refused_with_the_choices():
    with pytest.raises(ValueError, match="one of float32, bfloat16, got 'float16'"):
        make_runtime("cpu", "float16")


def test_put_moves_tensors_modules_and_named_tuples():
    runtime = Runtime(torch.device("meta"))
    moved = runtime.to_device(Pair(torch.ones(2), "name"))
    assert moved.one.device.type == "meta"
    assert moved.other == "name"
    assert type(moved) is Pair
    assert runtime.to_device(nn.Linear(1, 1)).weight.device.type == "meta"


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_forward_passes_run_in_the_chosen_precision(precision, dtype):
    with make_runtime("cpu", precision).autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == dtype


def test_there_is_at_least_one_core():
    assert cores() >= 1
