"""Facts about the weights of a module at an epoch's end: what trains, what moved, what is odd about it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fmce.recorder.outputs import ModuleFacts
from fmce.recorder.statistics import plain_statistics
from fmce.recorder.weights import Weights, cosine_between, measure_tensors, share_moved

_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
_NORMS = nn.modules.batchnorm._NormBase
# Weights looked at for distinct values, and the fewest that tell anything.
_SAMPLED, _FEWEST, _ROWS = 4096, 64, 4


def weight_facts(
    module: nn.Module, initial: Weights | None, before: Weights | None, now: Weights | None
) -> dict[str, Any]:
    """Return what a module's weights show.

    Args:
        module: The module.
        initial: Its weights when training began.
        before: Its weights an epoch ago.
        now: Its weights; None for a module without parameters.

    Returns:
        JSON values: sizes, whether it is frozen, the share by which it moved, and counts of odd things.
    """
    parameters = list(module.parameters())
    trainable = sum(p.requires_grad for p in parameters)
    facts: dict[str, Any] = {
        "parameters": sum(p.numel() for p in parameters),
        "trainable": trainable,
        "frozen": bool(parameters) and not trainable,
        "stale_gradients": sum(not p.requires_grad and p.grad is not None for p in parameters),
        **_odd_weights(module),
    }
    if now is None:
        return facts
    facts |= {"fingerprint": now.fingerprint, "norm": _finite(now.norm)}
    if before is not None:
        facts["moved"] = _finite(share_moved(before, now))
    if initial is not None:
        facts["rotation"] = _finite(cosine_between(initial, now))
        facts["initial"] = initial.fingerprint == now.fingerprint
    return facts


def statistics_facts(module: nn.Module, before: str | None) -> dict[str, Any]:
    """Return what a module's running norm statistics show.

    Args:
        module: The module.
        before: Their fingerprint an epoch ago.
    """
    layers = [m for m in module.modules() if isinstance(m, _NORMS) and m.running_var is not None]
    if not layers:
        return {}
    tensors = [t for m in layers for t in (m.running_mean, m.running_var) if t is not None]
    initial = sum(
        not bool(m.running_mean.any()) and bool((m.running_var == 1).all())
        for m in layers
        if m.running_mean is not None and m.running_var is not None
    )
    mark = measure_tensors(tensors).fingerprint
    moved = {} if before is None else {"statistics_moved": before != mark}
    return {"statistics": mark, "initial_statistics": initial, **moved}


def probe_facts(found: ModuleFacts, drifts: Mapping[str, float | None]) -> dict[str, Any]:
    """Return what a module's outputs on the probe show.

    Args:
        found: What the probe gave.
        drifts: Output → 1 − CKA to the epoch before; None where it is undefined.
    """
    outputs = found.outputs.values()
    channels = sum(one.channels for one in outputs)
    shares = [sum(one.dead for one in outputs) / channels if channels else 0.0]
    if found.units:
        shares.append(found.dead_units / found.units)
    return {
        "dead": max(shares),
        "repeated": sum(one.repeated for one in outputs),
        "finite": all(one.finite for one in outputs),
        "outputs": {
            name: {"rank": one.rank, "drift": drifts.get(name)}
            | ({"statistics": plain_statistics(one.statistics)} if one.statistics else {})
            for name, one in found.outputs.items()
        },
    }


def optimizer_facts(
    module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], rates: Mapping[int, float]
) -> dict[str, Any]:
    """Return how the optimizers treat a module.

    Args:
        module: The module.
        optimizers: All that train it; none are known where this is empty.
        rates: id of a parameter → the highest learning rate of the epoch.
    """
    wanted = [p for p in module.parameters() if p.requires_grad]
    if not optimizers or not wanted:
        return {}
    known = {id(p) for o in optimizers for g in o.param_groups for p in g["params"]}
    seen = [rates[id(p)] for p in wanted if id(p) in rates]
    return {
        "not_in_optimizer": sum(id(p) not in known for p in wanted),
        "learning_rate": _finite(max(seen)) if seen else None,
    }


@torch.no_grad()
def _odd_weights(module: nn.Module) -> dict[str, Any]:
    """Return how many filters are exactly 0, and the smallest number of distinct values in a weight."""
    filters, zero, distinct = 0, 0, None
    for layer in module.modules():
        weight = getattr(layer, "weight", None)
        if not (
            isinstance(layer, _LAYERS) and isinstance(weight, Tensor) and weight.is_floating_point()
        ):
            continue
        rows = weight.detach().flatten(1)
        filters += len(rows)
        zero += int((~rows.any(1)).sum())
        for sample in _samples(rows):
            count = len(torch.unique(sample.float()))
            distinct = count if distinct is None else min(count, distinct)
    return {"filters": filters, "zero_filters": zero, "distinct_weights": distinct}


def _samples(rows: Tensor) -> Iterable[Tensor]:
    """Yield some weights of the layer together, and of its first filters apart: each may have its own scale."""
    flat = rows.flatten()
    together = flat[:: max(1, len(flat) // _SAMPLED)][:_SAMPLED].cpu()
    first = rows[:_ROWS, :_SAMPLED].cpu()
    for sample in (together, *first):
        if len(sample) >= _FEWEST and sample.any():
            yield sample


def _finite(value: float) -> float | None:
    """Return a number that JSON can hold; None otherwise."""
    return value if abs(value) < float("inf") else None
