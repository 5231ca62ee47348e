"""Memory order and the TF32 choice of a runtime."""

from typing import NamedTuple

import pytest
import torch
from torch import nn

from fmce.engine.runtime import Runtime


class Batch(NamedTuple):
    images: torch.Tensor
    targets: torch.Tensor


def is_channels_last(tensor):
    return tensor.is_contiguous(memory_format=torch.channels_last)


def test_put_lays_images_and_weights_out_in_the_order_chosen():
    batch = Batch(torch.rand(2, 3, 4, 5), torch.arange(2))
    for chosen in (False, True):
        runtime = Runtime(torch.device("cpu"), channels_last=chosen)
        put = runtime.to_device(batch)
        assert is_channels_last(put.images) is chosen
        assert torch.equal(put.images, batch.images)
        assert put.targets.tolist() == [0, 1]
        assert is_channels_last(runtime.to_device(nn.Conv2d(16, 32, 3)).weight) is chosen


@pytest.mark.parametrize(("tf32", "expected"), [(True, "tf32"), (False, "ieee")])
def test_the_tf32_choice_holds_inside_and_is_taken_back(tf32, expected):
    kinds = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [kind.fp32_precision for kind in kinds]
    runtime = Runtime(torch.device("cuda"), tf32=tf32)  # the flags exist without a GPU
    with runtime.matmul_precision():
        assert [kind.fp32_precision for kind in kinds] == [expected] * 2
    assert [kind.fp32_precision for kind in kinds] == before
    with pytest.raises(KeyError), runtime.matmul_precision():
        raise KeyError
    assert [kind.fp32_precision for kind in kinds] == before


@pytest.mark.parametrize("tf32", [True, False])
def test_the_flags_that_the_compiler_reads_say_the_same(tf32):
    def older():
        level = torch.get_float32_matmul_precision()
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, level

    before = older()
    with Runtime(torch.device("cuda"), tf32=tf32, compile=True).matmul_precision():
        assert older() == (tf32, tf32, "high" if tf32 else "highest")
    assert older() == before


def test_on_the_cpu_no_flag_is_touched():
    before = torch.backends.cuda.matmul.fp32_precision
    with Runtime(torch.device("cpu"), tf32=True).matmul_precision():
        assert torch.backends.cuda.matmul.fp32_precision == before
