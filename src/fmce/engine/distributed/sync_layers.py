"""Batch norm and dropout over the global batch when several processes train together, on any device.

torch's SyncBatchNorm does not run on CPUs; here the counts, means and variances of all slices are
combined (Chan et al., 1979), so slices of unlike sizes are exact too.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from fmce.engine.distributed.ranks import Ranks

_OF_CHANNELS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@contextmanager
def sync_layers(model: nn.Module, ranks: Ranks) -> Iterator[None]:
    """Let a model's batch norm and dropout layers, when in training mode, act as in one process.

    Batch norm normalises over all ranks' samples; dropout drops what one process would. On GPUs the latter
    holds for layers that drop entire channels; elements are drawn there by a kernel that cannot be asked
    for some rows, so theirs are as many, but others. Layers that derive from torch's batch norm are
    included (timm's with an activation, say). The model is left as found.

    Args:
        model: The network in training.
        ranks: Alone, nothing is changed.
    """
    layers: list[Any] = []
    for layer in model.modules() if ranks.world_size > 1 else ():
        if isinstance(layer, _BatchNorm) and not isinstance(layer, nn.SyncBatchNorm):
            forward = _normalising(layer, ranks)
        elif isinstance(layer, (nn.Dropout, *_OF_CHANNELS)):
            forward = _dropping(layer, ranks)
        else:
            continue
        layers.append(layer)
        # Compiled code cannot hold what the ranks tell each other; it is cut in two here.
        # An attribute of the instance hides the class's method, and deleting it brings that back.
        layers[-1].forward = torch.compiler.disable(forward)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _normalising(layer: Any, ranks: Ranks) -> Callable[..., Tensor]:
    plain = layer.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not layer.training:
            return plain(*args, **kwargs)
        with _OverRanks(ranks):
            return plain(*args, **kwargs)

    return forward


def _dropping(layer: Any, ranks: Ranks) -> Callable[..., Tensor]:
    plain, of_channels = layer.forward, isinstance(layer, _OF_CHANNELS)

    def forward(x: Tensor) -> Any:
        rate = float(layer.p)
        if not layer.training or not 0 < rate < 1:
            return plain(x)
        return x * _dropout_scale(x, of_channels, 1 - rate, ranks)

    return forward


def _dropout_scale(x: Tensor, of_channels: bool, kept: float, ranks: Ranks) -> Tensor:
    """Return this rank's rows of what the global batch is multiplied by: 0, or 1 / kept where kept.

    Each rank draws for the global batch from the same generator and takes its own rows.
    """
    sizes = ranks.all_gather(torch.tensor(len(x), device=x.device)).tolist()
    shape = [sum(sizes), *x.shape[1:]]
    if of_channels:
        shape[2:] = [1] * (x.ndim - 2)
    # PyTorch draws in the order in which the elements lie in memory.
    channels_last = x.ndim == 4 and not of_channels and not x.is_contiguous()
    order = torch.channels_last if channels_last else torch.contiguous_format
    noise = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=order)
    noise.bernoulli_(kept, generator=ranks.generator(x.device)).div_(kept)
    before = sum(sizes[: ranks.rank])
    return noise[before : before + len(x)]


class _OverRanks(TorchFunctionMode):
    """Within it, `F.batch_norm` in training normalises over all ranks."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self.ranks = ranks

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm and kwargs.get("training"):
            return batch_norm_over_ranks(*args, ranks=self.ranks, **kwargs)
        return func(*args, **kwargs)


def batch_norm_over_ranks(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    ranks: Ranks,
) -> Tensor:
    """Normalise as `F.batch_norm` in training would normalise all ranks' samples in one tensor.

    `x` (B,C,…) is this rank's slice; B may differ between ranks but not be 0. Other arguments are those of
    `F.batch_norm`; `training` must be True. Gradients of `weight` and `bias` are this rank's part, to be
    summed over ranks like all others; that of `x` is complete.
    """
    assert training
    y, mean, var, count = _Normalise.apply(x, weight, bias, eps, ranks)
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        if running_var is not None:
            unbiased = var * (count / (count - 1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    return y  # type: ignore[no-any-return]


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, ranks: Ranks
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, var, count = _global_statistics(_widened(x), ranks)
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps, ctx.ranks = eps, ranks
        ctx.mark_non_differentiable(mean, var, count)
        y = F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)
        return y, mean, var, count

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, dy: Tensor, *_others: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        x, weight, mean, var, count = ctx.saved_tensors
        others = _all_but_channels(x)
        shape = [1, -1, *[1] * (x.ndim - 2)]
        wide, centred = _widened(dy), _widened(x) - mean.view(shape)
        inverse = torch.rsqrt(var + ctx.eps)
        own = torch.stack([wide.sum(others), (wide * centred).sum(others)])
        total = ctx.ranks.all_reduce(own.clone()) / count
        scale = inverse if weight is None else inverse * weight
        # dx = w/σ · (dy − mean(dy) − x̂ · mean(dy · x̂)), means over all ranks' samples.
        slope = (total[1] * inverse.square()).view(shape)
        dx = (wide - total[0].view(shape) - centred * slope) * scale.view(shape)
        d_weight = own[1] * inverse if ctx.needs_input_grad[1] else None
        d_bias = own[0] if ctx.needs_input_grad[2] else None
        return dx.to(x.dtype), d_weight, d_bias, None, None


def _global_statistics(x: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (C,), biased variance (C,) and number of values per channel, over all ranks."""
    var, mean = torch.var_mean(x, _all_but_channels(x), correction=0)
    count = torch.full_like(mean[:1], x.numel() // x.shape[1])
    parts = ranks.all_gather(torch.cat([mean, var, count]))
    means, variances = parts[:, : len(mean)], parts[:, len(mean) : -1]
    counts = parts[:, -1:]
    fraction = counts / counts.sum()
    mean = (means * fraction).sum(0)
    var = ((variances + (means - mean).square()) * fraction).sum(0)
    return mean, var, counts.sum()


def _all_but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]


def _widened(x: Tensor) -> Tensor:
    """Return half precision in float32, in which statistics are kept."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
