import pytest
import torch
from torch import nn

from fmce.recorder.weights import (
    cosine_between,
    describe_change,
    measure_modules,
    measure_tensors,
    share_moved,
)


def tensors(seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(300, 700, generator=g), torch.randn(64, generator=g)]


def test_the_fingerprint_sees_one_bit_an_exchange_and_the_sign_of_zero():
    one = tensors()
    marks = {measure_tensors(one).fingerprint}
    changed = [t.clone() for t in one]
    changed[0].view(torch.int32)[299, 699] ^= 1
    marks.add(measure_tensors(changed).fingerprint)
    swapped = [t.clone() for t in one]
    swapped[0][0, :2] = one[0][0, :2].flip(0)
    marks.add(measure_tensors(swapped).fingerprint)
    marks.add(measure_tensors(one[::-1]).fingerprint)
    zeros = torch.zeros(3)
    marks |= {measure_tensors([zeros]).fingerprint, measure_tensors([-zeros]).fingerprint}
    assert len(marks) == 6
    assert measure_tensors([t.clone() for t in one]).fingerprint in marks


@pytest.mark.parametrize("size", [1e-6, 1e-3, 0.1, 1.0])
def test_share_moved_is_that_of_the_weights_within_a_few_percent(size):
    before, noise = tensors(), tensors(1)
    after = [b + size * n for b, n in zip(before, noise, strict=True)]
    norm = torch.cat([t.flatten() for t in before]).norm()
    step = torch.cat([(a - b).flatten() for a, b in zip(after, before, strict=True)]).norm()
    measured = share_moved(measure_tensors(before), measure_tensors(after))
    assert measured == pytest.approx(float(step / norm), rel=0.1)


def test_cosine_and_change_are_described():
    before = measure_tensors(tensors())
    assert cosine_between(before, measure_tensors([-t for t in tensors()])) == pytest.approx(-1)
    assert describe_change(before, measure_tensors([4 * t for t in tensors()])) == "multiplied by 4"
    assert "new initialisation" in describe_change(before, measure_tensors(tensors(1)))
    moved = [t + 0.2 * n for t, n in zip(tensors(), tensors(1), strict=True)]
    assert describe_change(before, measure_tensors(moved)).startswith("moved by ")


@pytest.mark.parametrize(
    "kind", [torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.int8]
)
def test_every_kind_of_weight_is_measured(kind):
    first, second = torch.arange(5).to(kind), torch.arange(1, 6).to(kind)
    a, b = measure_tensors([first]), measure_tensors([second])
    assert a.fingerprint != b.fingerprint
    assert a.norm == pytest.approx(30**0.5)


class Empty(nn.Module):
    def __init__(self):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(0, 2))


def test_measuring_draws_no_random_numbers_and_skips_modules_without_parameters():
    torch.manual_seed(3)
    expected = torch.get_rng_state()
    found = measure_modules({"a": nn.ReLU(), "b": nn.BatchNorm1d(3), "c": Empty()})
    assert torch.equal(torch.get_rng_state(), expected)
    assert list(found) == ["b", "c"]
    assert found["c"].norm == 0
    assert share_moved(found["c"], found["c"]) == 0
