"""The training loop that every training here runs through; it knows nothing of what is trained."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from fmce.engine.distributed.ranks import Ranks
from fmce.engine.distributed.sync_batch_norm import joint_statistics
from fmce.engine.distributed.sync_dropout import sync_dropout
from fmce.engine.runtime import Runtime
from fmce.seeding import epoch_seed, seed_epoch

# A loss is looked at this often (in steps): each look makes the host wait for the device.
CHECK_EVERY = 50
# Of the schedule "step": shares of the epochs after which the rate drops, and by what.
_DROPS, _DROP_FACTOR = (0.5, 0.75), 0.1


class StepOutput(NamedTuple):
    """What one forward pass gives back.

    loss: scalar tensor, mean over the batch's samples; its gradient trains.
    num_samples: how many samples that mean is over.
    sums: name → scalar tensor, summed over the samples (the epoch divides by their number).
    weight: scalar tensor, what the loss is divided by where that is not samples (labelled pixels, say;
        by 1 where it is less): where several processes share a batch, their losses are weighed by it.
    parts: name → scalar tensor, divided like the loss; the epoch's mean over samples is recorded.
    """

    loss: Tensor
    num_samples: int
    sums: Mapping[str, Tensor]
    weight: Tensor | None = None
    parts: Mapping[str, Tensor] = MappingProxyType({})


class Batches(Protocol):
    """Batches of one epoch, the same for the same epoch whenever they are asked for."""

    def __len__(self) -> int:
        """Return the number of batches an epoch has."""
        ...

    def epoch(self, epoch: int) -> Iterable[Any]:
        """Yield the batches of a 1-based epoch."""
        ...


@dataclass(frozen=True)
class EpochResult:
    """One epoch's outcome; losses are sample-weighted means."""

    epoch: int
    loss: float
    means: dict[str, float]
    learning_rate: float
    time_seconds: float


class TrainingStoppedError(RuntimeError):
    """Training cannot go on; the message says where and what to try."""


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

    Where several processes train together (`runtime.ranks`), each is given its share of every batch;
    gradients, batch norm, dropout and losses are those of the whole batch, on all ranks alike.

    Args:
        model: the module put in training mode at each epoch's start; `step` closes over it.
        step: forward pass of one batch, already on the device.
        batches: the training data; this rank's shares of it.
        optimizer: steps once a batch; its learning rates at the call are the peak.
        epochs: The last one; a resumed training names all that are left, such as range(5, 11).
        seed: with the epoch and the rank, decides every random draw of the epoch.
        runtime: device and precision.
        schedule: epoch → factor on the peak learning rate, used for the whole epoch.
        on_epoch_end: called with each epoch's result, before the next begins.
        on_step_end: called with epoch and 1-based step.

    Raises:
        TrainingStoppedError: the loss became NaN or infinite; weights are then spoilt, and the newest
            checkpoint is the last whole epoch's.
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
        joint = (joint_statistics(model, ranks), sync_dropout(model, ranks))
        with runtime.matmul_precision(), joint[0], joint[1]:
            loss, means = _run_epoch(step, batches, optimizer, epoch, runtime, on_step_end)
        seconds = time.perf_counter() - started
        rate = float(optimizer.param_groups[0]["lr"])
        on_epoch_end(EpochResult(epoch, loss, means, rate, seconds))


def cosine(epochs: int) -> Callable[[int], float]:
    """Return the cosine schedule stepped per epoch: 1 in epoch 1, towards 0 after the last.

    >>> half = cosine(10)
    >>> half(1), round(half(6), 6)
    (1.0, 0.5)
    """
    return lambda epoch: 0.5 * (1 + math.cos(math.pi * (epoch - 1) / epochs))


def constant(_epochs: int) -> Callable[[int], float]:
    """Return the schedule that leaves the learning rate as it is."""
    return lambda _epoch: 1.0


def step_drops(epochs: int) -> Callable[[int], float]:
    """Return the schedule that divides the rate by 10 after half and after three quarters of the epochs.

    Not given in the papers, which use the cosine alone: the drops of the ResNet paper's CIFAR runs.

    >>> rate = step_drops(8)
    >>> [round(rate(epoch), 6) for epoch in (1, 4, 5, 6, 7, 8)]
    [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    """

    def factor(epoch: int) -> float:
        passed = sum(epoch - 1 >= share * epochs for share in _DROPS)
        return float(_DROP_FACTOR**passed)

    return factor


SCHEDULES: dict[str, Callable[[int], Callable[[int], float]]] = {
    "cosine": cosine,
    "constant": constant,
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
    ranks = runtime.ranks
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    outputs: list[tuple[Tensor, int]] = []
    sums: dict[str, Tensor] = {}
    parts: dict[str, list[Tensor]] = {}
    checked = 0
    for number, batch in enumerate(batches.epoch(epoch), start=1):
        with runtime.autocast():
            output = step(runtime.to_device(batch))
        share, loss = whole_loss(output, ranks)
        optimizer.zero_grad(set_to_none=True)
        (output.loss * share).backward()  # type: ignore[no-untyped-call]
        ranks.all_reduce_gradients(parameters)
        optimizer.step()
        outputs.append((loss, output.num_samples))
        for name, value in output.sums.items():
            sums[name] = sums[name] + value.detach() if name in sums else value.detach()
        for name, value in output.parts.items():
            parts.setdefault(name, []).append(value.detach() * share)
        if number % CHECK_EVERY == 0:
            _check_finite(outputs, checked, epoch)
            checked = number
        on_step_end(epoch, number)
    if not outputs:
        raise TrainingStoppedError(f"epoch {epoch} has no batches; is the training set empty?")
    _check_finite(outputs, checked, epoch)
    counts = torch.tensor([n for _, n in outputs], dtype=torch.float64)
    counts = ranks.all_reduce(counts.to(ranks.device)).cpu()
    # float64 on the host: a float32 running sum over many steps would blur the CQI's differences.
    losses = torch.stack([loss for loss, _ in outputs]).double().cpu()
    total = counts.sum().item()
    means = {k: ranks.all_reduce(v.double()).item() / total for k, v in sums.items()}
    for name, values in parts.items():
        steps = ranks.all_reduce(torch.stack(values).double()).cpu()
        means[name] = (steps @ counts).item() / total
    return (losses @ counts).item() / total, means


def whole_loss(output: StepOutput, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """Return the factor by which this rank's loss counts, and the whole batch's loss.

    The losses of all ranks, each times its factor, add up to that of the whole batch, whatever the
    sizes of their shares, and so do their gradients.

    Args:
        output: of this rank's share.
        ranks: those that share the batch; alone the factor is 1.
    """
    mean = output.loss.detach()
    if ranks.world_size == 1:
        return torch.ones_like(mean), mean
    weight = torch.full_like(mean, output.num_samples, dtype=torch.float64)
    if output.weight is not None:
        weight = output.weight.detach().double()
    divisor = weight.clamp(min=1)
    # A mean over nothing is NaN; a share that is empty takes no part.
    own = torch.where(weight > 0, mean, mean.nan_to_num()).double() * divisor
    weights, losses = ranks.all_reduce(torch.stack([weight, own]))
    whole = weights.clamp(min=1)
    return (divisor / whole).to(mean.dtype), (losses / whole).to(mean.dtype)


def _check_finite(outputs: list[tuple[Tensor, int]], start: int, epoch: int) -> None:
    if start == len(outputs):
        return
    recent = torch.stack([loss for loss, _ in outputs[start:]])
    bad = (~torch.isfinite(recent)).nonzero()
    if len(bad):
        step = start + int(bad[0]) + 1
        value = float(recent[bad[0]])
        raise TrainingStoppedError(
            f"the loss became {value} in epoch {epoch}, step {step}; try a lower learning rate, "
            "float32 precision, or look for bad values in the data. Checkpoints of earlier epochs are whole"
        )
