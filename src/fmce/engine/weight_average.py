"""A moving average of a network's weights, as it is evaluated in place of the weights themselves."""

import copy

import torch
from torch import Tensor, nn


class WeightAverage:
    """An exponential moving average of a network's weights and statistics, updated at every step.

    Args:
        model: The network in training; the average starts at its weights.
        decay: Share of the average that a step keeps, in (0, 1).

    Attributes:
        model: A copy of the network that holds the average.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self._trained, self._decay = model, decay

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Move the average towards the weights as they are after so many steps of the training, from 1."""
        # Early on the average follows faster: it would be the initial weights for a thousand steps.
        decay = min(self._decay, steps / (steps + 10))
        pairs = list(zip(_tensors(self.model), _tensors(self._trained), strict=True))
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        averages, values = (list(side) for side in zip(*floats, strict=True))
        torch._foreach_lerp_(averages, values, 1 - decay)
        for average, value in pairs:
            if not average.is_floating_point():
                average.copy_(value)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
