"""What maturity scores are made of, measured on a live model, and on its re-initialised twin."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fmce.models.features import find_module
from fmce.recorder.probe import Probe, bare_model, call_model, count_samples, moved_to, parts_of

Statistics = dict[str, dict[str, float]]
"""Output of a module → statistic → value."""

TWINS = 3
_NORMS = nn.modules.batchnorm._BatchNorm


def module_statistics(
    model: nn.Module, modules: Sequence[str], inputs: Any, labels: Tensor | None = None
) -> Statistics:
    """Measure what maturity scores are made of; the model is left as it was found.

    Args:
        model: The network.
        modules: Names as in `model.named_modules()`.
        inputs: Training images under the training transform, better 768 than 256: there the loss lives, and what
            is measured on clean images comes to rest earlier. See `Probe` for the forms.
        labels: Their classes, maps of classes, or boxes, see `Probe`; None gives the statistics without labels.

    Returns:
        Output → statistic → value: those of `free_statistics`, with labels those of `class_statistics`, and for
        comparison `mean_activation` and `weight_norm` (log) and `tail_exponent`.

    Raises:
        ValueError: If a module is unknown or returns no tensor, or the labels do not fit.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    >>> images = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> found = module_statistics(net, ["0"], images, torch.arange(32) % 2)
    >>> "probe_mse" in found["0"], "effective_rank" in found["0"]
    (True, True)
    """
    probe = Probe(model, modules, inputs, labels)
    found: Statistics = {}
    for name, outputs in probe.statistics().items():
        weights = weight_statistics(find_module(probe.model, name))
        found |= {output: values | weights for output, values in outputs.items()}
    return found


def twin_statistics(
    model: nn.Module,
    modules: Sequence[str],
    inputs: Any,
    labels: Tensor | None = None,
    *,
    twins: int = TWINS,
) -> Statistics:
    """Measure the same on copies of the model with new weights, and return the mean over the copies.

    It is what each module's statistics would be without any training: where a maturity score is 0.

    Args:
        model: The network; it stays as it is.
        modules: As in `module_statistics`.
        inputs: As in `module_statistics`.
        labels: As in `module_statistics`.
        twins: How many copies, one after the other.

    Raises:
        ValueError: As `module_statistics`.
    """
    found = [
        module_statistics(reinitialised(model, seed, inputs), modules, inputs, labels)
        for seed in range(twins)
    ]
    return {
        output: {name: float(np.mean([one[output][name] for one in found])) for name in values}
        for output, values in found[0].items()
    }


def reinitialised(model: nn.Module, seed: int, inputs: Any) -> nn.Module:
    """Return a copy of a model with new weights, whose norm statistics are those of the inputs.

    Layers draw weights as their `reset_parameters` does; parameters of other layers keep their values in a drawn order.

    Args:
        model: The network.
        seed: Of the draw.
        inputs: What the statistics are taken from, see `Probe`.
    """
    model = bare_model(model)
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        twin = copy.deepcopy(model)
        for layer in twin.modules():
            reset = getattr(layer, "reset_parameters", None) or getattr(
                layer, "_reset_parameters", None
            )
            if callable(reset):
                reset()
                continue
            for parameter in layer.parameters(recurse=False):
                order = torch.randperm(parameter.numel()).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
        norms = [layer for layer in twin.modules() if isinstance(layer, _NORMS)]
        if norms:
            _take_statistics(twin, norms, inputs)
    return twin.eval()


def _take_statistics(model: nn.Module, norms: Sequence[nn.Module], inputs: Any) -> None:
    """Give norm layers the statistics of inputs, with all else in eval mode."""
    model.eval()
    for layer in norms:
        if layer.running_mean is not None:
            layer.reset_running_stats()  # type: ignore[operator]
            layer.momentum = None  # type: ignore[assignment]
            layer.train()
    for _, part in parts_of(inputs, count_samples(inputs)):
        call_model(model, moved_to(part, model))


def weight_statistics(module: nn.Module) -> dict[str, float]:
    """Return the log of the norm of a module's parameters, and the exponent of its weights' spectra's tail.

    The exponent is Hill's estimate on the larger half of each weight's squared singular values, averaged; NaN
    for a module without matrices.
    """
    weights = [
        p.detach().flatten(1).float().cpu()
        for p in module.parameters()
        if p.ndim > 1 and p.is_floating_point()
    ]
    if not weights:
        return {"weight_norm": float("nan"), "tail_exponent": float("nan")}
    exponents = []
    for weight in weights:
        square = weight.T @ weight if len(weight) > weight.shape[1] else weight @ weight.T
        values = torch.linalg.eigvalsh(square).clamp(min=0).flip(0)
        tail = values[: max(2, len(values) // 2)]
        if len(tail) > 1 and float(tail[-1]) > 0:
            exponents.append(float(1 + 1 / (torch.log(tail[:-1] / tail[-1]).mean() + 1e-9)))
    norm = float(torch.stack([p.detach().float().norm() for p in module.parameters()]).norm())
    return {
        "weight_norm": float(np.log(max(norm, 1e-12))),
        "tail_exponent": float(np.mean(exponents)) if exponents else float("nan"),
    }


def plain_statistics(values: Mapping[str, float]) -> dict[str, float | None]:
    """Return statistics as JSON values of six digits, NaN as null."""
    return {
        name: float(f"{value:.6g}") if math.isfinite(value) else None
        for name, value in values.items()
    }
