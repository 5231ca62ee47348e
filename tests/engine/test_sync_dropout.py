"""Dropout over several ranks drops what torch's own does in one process."""

import pytest
import torch
from torch import nn

from fmce.engine.distributed.ranks import ALONE
from fmce.engine.distributed.sync_layers import sync_layers
from tests.engine.thread_ranks import in_ranks


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Dropout(0.3), (5,)),
        (nn.Dropout(0.3), (4, 3, 2)),
        (nn.Dropout1d(0.3), (4, 3)),
        (nn.Dropout2d(0.3), (4, 3, 2)),
        (nn.Dropout3d(0.3), (4, 2, 3, 2)),
    ],
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_each_rank_drops_its_rows_of_what_one_process_drops(layer, shape, channels_last):
    x = torch.randn(7, *shape, generator=torch.Generator().manual_seed(1))
    if channels_last and x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    torch.manual_seed(5)
    expected = [layer(x), layer(x)]

    def on_rank(ranks, part):
        model = nn.Sequential(type(layer)(layer.p))
        ranks.seed(5)
        with sync_layers(model, ranks):
            assert torch.equal(model.eval()(part), part)
            model.train()
            return [model(part), model(part)]

    results = in_ranks(on_rank, x.split([2, 5]))
    for whole, parts in zip(expected, zip(*results, strict=True), strict=True):
        assert torch.equal(torch.cat(parts), whole)


def test_layers_are_left_as_found_and_one_process_changes_none():
    def on_rank(ranks, _):
        model = nn.Sequential(nn.Dropout(0.5))
        with sync_layers(model, ranks):
            inside = "forward" in vars(model[0])
        return inside, "forward" in vars(model[0])

    assert in_ranks(on_rank, [None, None]) == [(True, False)] * 2
    assert on_rank(ALONE, None) == (False, False)
