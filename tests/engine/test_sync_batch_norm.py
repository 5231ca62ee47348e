"""Batch norm over several ranks against torch's own over all rows; ranks are threads here."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fmce.engine.distributed.ranks import ALONE
from fmce.engine.distributed.sync_layers import batch_norm_over_ranks, sync_layers
from tests.engine.thread_ranks import in_ranks


def normalised(x, dy, norm):
    """Return output, gradients of input, weight and bias, and running statistics."""
    x = x.clone().requires_grad_()
    weight = torch.tensor([0.5, 2, -1], dtype=torch.float64, requires_grad=True)
    bias = torch.ones(3, dtype=torch.float64, requires_grad=True)
    mean, var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    y = norm(x, mean, var, weight, bias, training=True, momentum=0.3, eps=1e-3)
    y.backward(dy)
    return y.detach(), x.grad, weight.grad, bias.grad, mean, var


@pytest.mark.parametrize("sizes", [(5, 5), (1, 6, 3)])
@pytest.mark.parametrize("shape", [(), (7,), (4, 3)])
def test_ranks_with_unlike_shares_equal_torchs_batch_norm_of_all_rows(sizes, shape):
    draw = torch.Generator().manual_seed(0)
    x, dy = (
        torch.randn(sum(sizes), 3, *shape, dtype=torch.float64, generator=draw) * 3 + 20
        for _ in range(2)
    )
    expected = normalised(x, dy, F.batch_norm)

    def on_rank(ranks, part):
        return normalised(*part, lambda *a, **k: batch_norm_over_ranks(*a, ranks=ranks, **k))

    parts = list(zip(x.split(sizes), dy.split(sizes), strict=True))
    results = in_ranks(on_rank, parts)
    outputs, dxs, *_ = (
        torch.cat(ts) if ts[0].ndim > 1 else ts for ts in zip(*results, strict=True)
    )
    torch.testing.assert_close(outputs, expected[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(dxs, expected[1], rtol=1e-9, atol=1e-9)
    for which in (2, 3):  # gradients of weight and bias: parts of a sum
        total = sum(result[which] for result in results)
        torch.testing.assert_close(total, expected[which], rtol=1e-9, atol=1e-9)
    for result in results:
        torch.testing.assert_close(result[4:], expected[4:], rtol=1e-12, atol=1e-12)


def test_half_precision_is_normalised_in_float32():
    x = (torch.randn(64, 3, 4, 4, generator=torch.manual_seed(0)) + 300).bfloat16()

    def on_rank(ranks, part):
        return batch_norm_over_ranks(part, None, None, ranks=ranks)

    y = torch.cat(in_ranks(on_rank, x.chunk(2)))
    assert y.dtype == torch.bfloat16
    exact = F.batch_norm(x.double(), None, None, training=True)
    assert torch.equal(y, exact.bfloat16())


class Activated(nn.BatchNorm2d):
    """A layer derived from torch's with a forward pass of its own, as timm has."""

    def forward(self, x):
        y = F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        return F.relu(y)


@pytest.mark.parametrize("layer", [nn.BatchNorm2d, Activated])
def test_layers_normalise_jointly_in_training_only_and_are_left_as_found(layer):
    x = torch.randn(6, 3, 2, 2, generator=torch.manual_seed(0))

    def on_rank(ranks, part):
        model = nn.Sequential(layer(3))
        with sync_layers(model, ranks):
            trained = model(part)
            alone = model.eval()(part) if layer is nn.BatchNorm2d else None
        assert "forward" not in vars(model[0])
        return trained, alone, model.state_dict()

    whole = nn.Sequential(layer(3))
    expected = whole(x)
    for (trained, alone, state), rows in zip(in_ranks(on_rank, x.chunk(2)), (0, 3), strict=True):
        torch.testing.assert_close(trained, expected[rows : rows + 3])
        for name, values in whole.state_dict().items():
            torch.testing.assert_close(state[name], values)
        if alone is not None:
            torch.testing.assert_close(alone, whole.eval()(x[rows : rows + 3]))


def test_one_process_changes_no_layer():
    model = nn.Sequential(nn.BatchNorm2d(3))
    with sync_layers(model, ALONE):
        assert "forward" not in vars(model[0])
