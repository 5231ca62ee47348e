"""Training and reading a scorer of feature maps."""

import pytest
import torch
import torch.nn.functional as F

from fmce.engine.runtime import Runtime
from fmce.feature_maps.source import MapBatch
from fmce.models.fmce_net import FMCENet
from fmce.tasks.fmce_net import score_maps, score_step

CPU = Runtime(torch.device("cpu"))


def map_batches(*sizes):
    generator = torch.Generator().manual_seed(0)
    for size in sizes:
        phases = torch.arange(size) % 3 + 1
        index = torch.zeros(size, dtype=torch.int64)
        yield MapBatch(torch.randn(size, 4, 3, 3, generator=generator), phases, index, index)


def test_the_step_is_cross_entropy_with_phase_1_at_logit_0():
    logits = torch.tensor([[5.0, 0.0, 0.0], [0.0, 5.0, 0.0], [5.0, 0.0, 0.0]], requires_grad=True)
    batch = next(map_batches(3))
    output = score_step(lambda _maps: logits)(batch)
    expected = F.cross_entropy(logits, torch.tensor([0, 1, 2]))
    assert output.loss.item() == pytest.approx(expected.item())
    assert (output.num_samples, output.sums["accuracy"].item()) == (3, 2)


def test_scores_come_in_the_maps_order_whatever_the_batches():
    net = FMCENet((4, 3, 3), 3)
    logits, phases = score_maps(net, map_batches(5, 2), CPU)
    assert logits.shape == (7, 3)
    assert phases.tolist() == [1, 2, 3, 1, 2, 1, 2]
    maps = torch.cat([b.maps for b in map_batches(5, 2)])
    torch.testing.assert_close(logits, net(maps).detach())


def test_the_fmce_nets_mode_and_gradients_are_left_as_found():
    net = FMCENet((4, 3, 3), 3).train()
    logits, _ = score_maps(net, map_batches(2), CPU)
    assert net.training
    assert not logits.requires_grad
