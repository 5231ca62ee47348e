"""The loss of an epoch, added up without making the host wait for the device."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fmce.engine.distributed.ranks import Ranks

# Steps between additions on the device; a loss that waits takes a few bytes.
_TOGETHER = 64


@dataclass
class LossSums:
    """Sample-weighted sum of the finite losses, their samples, and how many were not finite."""

    total: float = 0.0
    samples: float = 0.0
    steps: int = 0
    bad: int = 0
    _waiting: list[tuple[Tensor | float, float]] = field(default_factory=list)
    _on_device: list[Tensor] = field(default_factory=list)

    def add(self, loss: Tensor | float, samples: float) -> None:
        """Add a step's mean loss; a tensor stays on its device."""
        self.steps += 1
        self._waiting.append((loss.detach() if isinstance(loss, Tensor) else float(loss), samples))
        if len(self._waiting) >= _TOGETHER:
            self._add_up()

    def _add_up(self) -> None:
        tensors = [(value, n) for value, n in self._waiting if isinstance(value, Tensor)]
        for value, n in self._waiting:
            if not isinstance(value, Tensor):
                good = math.isfinite(value)
                self.total += value * n if good else 0.0
                self.samples += n if good else 0.0
                self.bad += not good
        self._waiting = []
        if tensors:
            losses = torch.stack([value.reshape(()).float() for value, _ in tensors])
            home = losses if losses.device.type in ("cpu", "cuda") else losses.cpu()
            counts = torch.tensor([n for _, n in tensors], dtype=torch.float64).to(
                home.device, non_blocking=True
            )
            finite = torch.isfinite(home)
            weights = counts * finite
            total = (torch.where(finite, home, 0).double() * weights).sum()
            self._on_device.append(torch.stack([total, weights.sum(), (~finite).sum().double()]))

    def settle(self) -> None:
        """Bring all sums to the host."""
        self._add_up()
        if self._on_device:
            total, samples, bad = torch.stack([t.cpu() for t in self._on_device]).sum(0).tolist()
            self._on_device = []
            self.total, self.samples = self.total + total, self.samples + samples
            self.bad += int(bad)

    def mean(self, ranks: Ranks) -> float | None:
        """Return the mean over the samples of all ranks, and make the counts theirs too; None without a finite loss."""
        self.settle()
        values = torch.tensor([self.total, self.samples, self.steps, self.bad], dtype=torch.float64)
        total, samples, steps, bad = ranks.all_reduce(values.to(ranks.device)).tolist()
        self.steps, self.bad = int(steps), int(bad)
        return total / samples if samples else None

    def state(self) -> dict[str, Any]:
        """Return plain numbers from which `LossSums(**state)` continues."""
        self.settle()
        names = ("total", "samples", "steps", "bad")
        return {name: getattr(self, name) for name in names}
