"""The training loop of every training here; it knows nothing of what is trained."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from fmce.engine.distributed.ranks import Ranks
from fmce.engine.distributed.sync_layers import sync_layers
from fmce.engine.runtime import Runtime
from fmce.seeding import epoch_seed, seed_epoch

# Steps between checks of the loss: each makes the host wait for the device.
CHECK_EVERY = 50
# Of the schedule "step": fractions of the epochs after which the rate drops, and by what factor.
_DROPS, _DROP_FACTOR = (0.5, 0.75), 0.1


class StepOutput(NamedTuple):
    """Outcome of one forward pass.

    Attributes:
        loss: Scalar tensor, mean over the batch's samples; its gradient trains.
        num_samples: Number of samples that the mean covers.
        sums: Name → scalar tensor, summed over the samples; the epoch divides by their number.
        weight: Scalar tensor, what the loss is divided by where that is not samples (labelled pixels, say;
            by 1 where it is less). Where several processes share a batch, their losses are weighted by it.
        parts: Name → scalar tensor, divided like the loss; the epoch's mean over samples is recorded.
    """

    loss: Tensor
    num_samples: int
    sums: Mapping[str, Tensor]
    weight: Tensor | None = None
    parts: Mapping[str, Tensor] = MappingProxyType({})


class Batches(Protocol):
    """Batches by epoch: the same for the same epoch, in whichever order epochs are requested."""

    def __len__(self) -> int:
        """Return the number of batches per epoch."""

    def epoch(self, epoch: int) -> Iterable[Any]:
        """Yield the batches of a 1-based epoch."""


@dataclass(frozen=True)
class EpochResult:
    """One epoch's outcome; losses are sample-weighted means."""

    epoch: int
    loss: float
    means: dict[str, float]
    learning_rate: float
    time_seconds: float


class TrainingStoppedError(RuntimeError):
    """Training cannot continue; the message says where it stopped and what to try."""


def fit(
    model: nn.Module,
    step: Callable[[Any], StepOutput],
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int | range,
    seed: int,
    runtime: Runtime,
    schedule: Callable[[int], float] = lambda _epoch: 1.0,
    on_epoch_end: Callable[[EpochResult], None] = lambda _result: None,
    on_step_end: Callable[[int, int], None] = lambda _epoch, _step: None,
) -> None:
    """Train `model` for some epochs, counted from 1.

    Where several processes train together (`runtime.ranks`), each gets its slice of every batch;
    gradients, batch norm, dropout and losses are those of the global batch, on all ranks alike.

    Args:
        model: Module put in training mode at each epoch's start; `step` closes over it.
        step: Forward pass of one batch on the device.
        batches: Training data; this rank's slices of it.
        optimizer: Steps once per batch; its learning rates at the call are the peak.
        epochs: The last one; a resumed training names all that are left, such as range(5, 11).
        seed: With the epoch and the rank, decides every random draw of the epoch.
        runtime: Device and precision.
        schedule: Epoch → factor on the peak learning rate, used for the entire epoch.
        on_epoch_end: Called with each epoch's result, before the next begins.
        on_step_end: Called with epoch and 1-based step.

    Raises:
        TrainingStoppedError: If the loss became NaN or infinite; the weights are then spoilt, and the
            newest checkpoint is that of the last complete epoch.
    """
    # A resumed optimiser's `lr` is its last epoch's; `initial_lr` keeps the peak across the resume.
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    ranks = runtime.ranks
    ranks.broadcast_parameters(model)
    for epoch in range(1, epochs + 1) if isinstance(epochs, int) else epochs:
        seed_epoch(seed, epoch, ranks.rank)
        ranks.seed(epoch_seed(seed, epoch))
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * schedule(epoch)
        model.train()
        started = time.perf_counter()
        with runtime.matmul_precision(), sync_layers(model, ranks):
            loss, means = _run_epoch(step, batches, optimizer, epoch, runtime, on_step_end)
        seconds = time.perf_counter() - started
        rate = float(optimizer.param_groups[0]["lr"])
        on_epoch_end(EpochResult(epoch, loss, means, rate, seconds))


def cosine(epochs: int) -> Callable[[int], float]:
    """Return the cosine schedule stepped per epoch: 1 in epoch 1, towards 0 after the last.

    >>> cosine(10)(1), round(cosine(10)(6), 6)
    (1.0, 0.5)
    """
    return lambda epoch: 0.5 * (1 + math.cos(math.pi * (epoch - 1) / epochs))


def step_drops(epochs: int) -> Callable[[int], float]:
    """Return the schedule that divides the rate by 10 after half and after three quarters of the epochs.

    Not given in the papers, which use the cosine alone: the drops of the ResNet paper's CIFAR runs.

    >>> [round(step_drops(8)(epoch), 6) for epoch in (1, 4, 5, 6, 7, 8)]
    [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    """
    return lambda epoch: float(_DROP_FACTOR ** sum(epoch - 1 >= f * epochs for f in _DROPS))


SCHEDULES: dict[str, Callable[[int], Callable[[int], float]]] = {
    "cosine": cosine,
    "constant": lambda _epochs: lambda _epoch: 1.0,
    "step": step_drops,
}


def _run_epoch(
    step: Callable[[Any], StepOutput],
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    runtime: Runtime,
    on_step_end: Callable[[int, int], None],
) -> tuple[float, dict[str, float]]:
    ranks, sums = runtime.ranks, _EpochSums(epoch)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, batch in enumerate(batches.epoch(epoch), start=1):
        with runtime.autocast():
            # Batches lie on the device already; this sets their memory order.
            output = step(runtime.to_device(batch))
        factor, loss = global_loss(output, ranks)
        optimizer.zero_grad(set_to_none=True)
        scaled(output.loss, factor).backward()  # type: ignore[no-untyped-call]
        ranks.all_reduce_gradients(parameters)
        optimizer.step()
        sums.add(output, factor, loss)
        on_step_end(epoch, number)
    return sums.means(ranks)


@dataclass
class _EpochSums:
    """What an epoch's steps add up to; it stays on the device, so that the host need not wait."""

    epoch: int
    losses: list[Tensor] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    sums: dict[str, Tensor] = field(default_factory=dict)
    parts: dict[str, list[Tensor]] = field(default_factory=dict)
    checked: int = 0

    def add(self, output: StepOutput, factor: Tensor | None, loss: Tensor) -> None:
        self.losses.append(loss)
        self.counts.append(output.num_samples)
        for name, value in output.sums.items():
            known = self.sums.get(name)
            self.sums[name] = value.detach() if known is None else known + value.detach()
        for name, value in output.parts.items():
            self.parts.setdefault(name, []).append(scaled(value.detach(), factor))
        if len(self.losses) % CHECK_EVERY == 0:
            self.check_finite()

    def check_finite(self) -> None:
        recent = self.losses[self.checked :]
        if not recent:
            return
        bad = (~torch.isfinite(torch.stack(recent))).nonzero()
        if len(bad):
            raise TrainingStoppedError(
                f"the loss became {float(recent[int(bad[0])])} in epoch {self.epoch}, step "
                f"{self.checked + int(bad[0]) + 1}; try a lower learning rate, float32 precision, or look "
                "for bad values in the data. Checkpoints of earlier epochs are intact"
            )
        self.checked = len(self.losses)

    def means(self, ranks: Ranks) -> tuple[float, dict[str, float]]:
        """Return the means over all ranks' samples: of the loss, and of sums and parts by name."""
        if not self.losses:
            raise TrainingStoppedError(f"epoch {self.epoch} has no batches; is the data empty?")
        self.check_finite()
        counts = torch.tensor(self.counts, dtype=torch.float64)
        counts = ranks.all_reduce(counts.to(ranks.device)).cpu()
        # float64 on the host: a float32 running sum over many steps would blur the CQI's differences.
        losses = torch.stack(self.losses).double().cpu()
        total = counts.sum().item()
        means = {k: ranks.all_reduce(v.double()).item() / total for k, v in self.sums.items()}
        for name, values in self.parts.items():
            steps = ranks.all_reduce(torch.stack(values).double()).cpu()
            means[name] = (steps @ counts).item() / total
        return (losses @ counts).item() / total, means


def scaled(loss: Tensor, factor: Tensor | None) -> Tensor:
    """Return the loss times its factor, without a kernel for the factor 1."""
    return loss if factor is None else loss * factor


def global_loss(output: StepOutput, ranks: Ranks) -> tuple[Tensor | None, Tensor]:
    """Return the factor by which this rank's loss counts, and the global batch's loss.

    The losses of all ranks, each times its factor, add up to that of the global batch, whatever the
    sizes of their slices, and so do their gradients. Alone the factor is 1, None here.
    """
    mean = output.loss.detach()
    if ranks.world_size == 1:
        return None, mean
    weight = torch.full_like(mean, output.num_samples, dtype=torch.float64)
    if output.weight is not None:
        weight = output.weight.detach().double()
    divisor = weight.clamp(min=1)
    # A mean over nothing is NaN; an empty slice takes no part.
    own = torch.where(weight > 0, mean, mean.nan_to_num()).double() * divisor
    weights, losses = ranks.all_reduce(torch.stack([weight, own]))
    total = weights.clamp(min=1)
    return (divisor / total).to(mean.dtype), (losses / total).to(mean.dtype)
