"""What is seen of a network's gradients during an epoch, just after each optimizer step."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fmce.recorder.facts import optimizer_facts

# Steps of an epoch whose gradients are looked at. That any gradient came is noticed in every step.
SAMPLED_STEPS = 8


class GradientWatch:
    """What is seen of gradients and learning rates during an epoch, without waiting for the device."""

    def __init__(
        self, modules: Mapping[str, nn.Module], optimizers: Sequence[torch.optim.Optimizer]
    ) -> None:
        self.modules, self.optimizers = modules, optimizers
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Forget what was seen."""
        self.steps = 0
        self.silent = dict.fromkeys(self.modules)
        self.largest: dict[str, list[Tensor]] = {}
        self.rates: dict[int, float] = {}

    def look(self) -> None:
        """Look at the gradients just after an optimizer step."""
        self.steps += 1
        if self.steps <= SAMPLED_STEPS:
            self._note_rates()
            for name, module in self.modules.items():
                gradients = [p.grad for p in module.parameters() if p.grad is not None]
                dense = [g for g in gradients if g.layout == torch.strided and g.numel()]
                if dense:
                    self.largest.setdefault(name, []).append(
                        nn.utils.get_total_norm(dense, float("inf"))
                    )
        for name in list(self.silent):
            if any(p.grad is not None for p in self.modules[name].parameters()):
                del self.silent[name]

    def _note_rates(self) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                rate = float(group["lr"])
                for parameter in group["params"]:
                    key = id(parameter)
                    self.rates[key] = max(self.rates.get(key, 0.0), rate)

    def facts(self) -> dict[str, dict[str, Any]]:
        """Return the epoch's facts by module; nothing about gradients where no step was seen."""
        if self.steps > SAMPLED_STEPS:
            self._note_rates()
        found = {}
        for name, module in self.modules.items():
            found[name] = optimizer_facts(module, self.optimizers, self.rates)
            if self.steps and any(p.requires_grad for p in module.parameters()):
                found[name] |= {"gradient": self._state(name)}
        return found

    def _state(self, name: str) -> str:
        if name in self.silent:
            return "none"
        values = [float(value) for value in self.largest.get(name, ())]
        if values and all(value == 0 for value in values):
            return "zero"
        if values and not any(map(math.isfinite, values)):
            return "not finite"
        return "some"
