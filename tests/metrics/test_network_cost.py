"""Parameters and multiply-adds of networks small enough to count by hand."""

import pytest
import torch
from torch import nn

from fmce.metrics.network_cost import for_inference, measure_network


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 1, bias=False), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 1)
    ).eval()


def test_counts_are_those_worked_out_by_hand():
    size = measure_network(network(), torch.zeros(1, 3, 16, 16))
    assert size["parameters"] == 3 * 8 + 8 * 4 + 4
    assert size["multiply_adds"] == 16 * 16 * (3 * 8 + 8 * 4)
    assert size["weights_mib"] == pytest.approx(60 * 4 / 2**20)
    assert size["latency_ms"] > 0


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.auxiliary = nn.Conv2d(3, 2, 1)
        self.classifier = nn.Conv2d(3, 2, 1)

    def forward(self, images):
        return {"out": self.classifier(images), "aux": None}


def test_a_network_in_use_has_logits_only_and_no_auxiliary_head():
    model = TwoHeads().train()
    images = torch.ones(1, 3, 4, 4)
    expected = model.classifier(images)
    used = for_inference(model)
    assert not used.training
    assert torch.equal(used(images), expected)
    assert sum(p.numel() for p in used.parameters()) == 8
