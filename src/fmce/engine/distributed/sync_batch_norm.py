"""Batch norm over the global batch when several processes train together, on any device.

Each rank sees only its share of a batch, so its own mean and variance are not those that one process
would normalise with. torch's SyncBatchNorm does not run on CPUs; here the counts, means and variances
of all shares are combined (Chan et al., 1979), so shares of unlike sizes are exact too.
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


@contextmanager
def joint_statistics(model: nn.Module, ranks: Ranks) -> Iterator[None]:
    """Let a model's batch norm layers, when in training mode, normalise over all ranks' samples.

    Layers that derive from torch's are included (timm's with an activation, say); their state and
    the names of their weights stay as they are. The model is left as found.

    Args:
        model: the network in training.
        ranks: alone, nothing is changed.
    """
    layers = [] if ranks.world_size == 1 else [m for m in model.modules() if _needs_help(m)]
    for layer in layers:
        # An attribute of the instance hides the class's method, and deleting it brings that back.
        layer.forward = _jointly(layer, ranks)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _needs_help(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm)


def _jointly(layer: nn.Module, ranks: Ranks) -> Callable[..., Tensor]:
    plain: Callable[..., Tensor] = layer.forward

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        if not layer.training:
            return plain(*args, **kwargs)
        with _JointBatchNorm(ranks):
            return plain(*args, **kwargs)

    # Compiled code cannot hold what the ranks say to each other; it is cut in two here.
    uncompiled: Callable[..., Tensor] = torch.compiler.disable(forward)  # type: ignore[no-untyped-call]
    return uncompiled


class _JointBatchNorm(TorchFunctionMode):
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
            return joint_batch_norm(*args, ranks=self.ranks, **kwargs)
        return func(*args, **kwargs)


def joint_batch_norm(
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

    Args:
        x: (B,C,…), this rank's share; B may differ between ranks but not be 0.
        running_mean: (C,), updated in place alike on all ranks; None for none.
        running_var: likewise, with the unbiased variance.
        weight: (C,) or None.
        bias: (C,) or None.
        training: must be True.
        momentum: share of the new statistics in the running ones.
        eps: added to the variance.
        ranks: those that share the batch.

    Returns:
        As `x`. Gradients of `weight` and `bias` are this rank's part, to be summed over ranks like
        all others; that of `x` is whole.
    """
    assert training
    y, mean, var, count = _JointNorm.apply(x, weight, bias, eps, ranks)
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        if running_var is not None:
            unbiased = var * (count / (count - 1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    result: Tensor = y
    return result


class _JointNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, ranks: Ranks
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, var, count = _combined(_widened(x), ranks)
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
        whole = ctx.ranks.all_reduce(own.clone()) / count
        scale = inverse if weight is None else inverse * weight
        # dx = w/σ · (dy − mean(dy) − x̂ · mean(dy · x̂)), means over all ranks' samples.
        slope = (whole[1] * inverse.square()).view(shape)
        dx = (wide - whole[0].view(shape) - centred * slope) * scale.view(shape)
        d_weight = own[1] * inverse if ctx.needs_input_grad[1] else None
        d_bias = own[0] if ctx.needs_input_grad[2] else None
        return dx.to(x.dtype), d_weight, d_bias, None, None


def _combined(x: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (C,), biased variance (C,) and number of values a channel, over all ranks."""
    var, mean = torch.var_mean(x, _all_but_channels(x), correction=0)
    count = torch.full_like(mean[:1], x.numel() // x.shape[1])
    parts = ranks.all_gather(torch.cat([mean, var, count]))
    means, variances = parts[:, : len(mean)], parts[:, len(mean) : -1]
    counts = parts[:, -1:]
    share = counts / counts.sum()
    mean = (means * share).sum(0)
    var = ((variances + (means - mean).square()) * share).sum(0)
    return mean, var, counts.sum()


def _all_but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]


def _widened(x: Tensor) -> Tensor:
    """Return half precision in float32, in which statistics are kept."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
