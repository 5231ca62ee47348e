"""Device and precision in one place."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

Precision = Literal["float32", "bfloat16"]
T = TypeVar("T")


@dataclass(frozen=True)
class Runtime:
    """Where tensors live and how passes are computed.

    precision: of forward passes.
    channels_last: whether `put` lays maps, images and weights out in NHWC memory order.
    compile: whether trainings compile their step; nothing here does it.
    tf32: whether float32 products on a GPU may round their factors.
    """

    device: torch.device
    precision: Precision = "float32"
    channels_last: bool = False
    compile: bool = False
    tf32: bool = False

    def put(self, value: T) -> T:
        """Move a tensor, a module or a named tuple of tensors to the device, in the memory order chosen."""
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*(self.put(v) for v in value))
        if not isinstance(value, (Tensor, nn.Module)):
            return value
        if self.channels_last and _has_channels(value):
            return value.to(  # type: ignore[call-overload,return-value]
                self.device, non_blocking=True, memory_format=torch.channels_last
            )
        return value.to(self.device, non_blocking=True)  # type: ignore[return-value]

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Run forward passes in the chosen precision; float32 changes nothing."""
        with self.arithmetic():
            if self.precision == "float32":
                yield
                return
            with torch.autocast(self.device.type, dtype=torch.bfloat16):
                yield

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """Hold a GPU's float32 products to the TF32 choice, backward passes too; restored on leaving.

        Left alone, PyTorch uses TF32 in convolutions and not in matrix products.
        """
        if self.device.type != "cuda":
            yield
            return
        kinds = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
        before = [kind.fp32_precision for kind in kinds]
        try:
            for kind in kinds:
                kind.fp32_precision = "tf32" if self.tf32 else "ieee"
            yield
        finally:
            for kind, found in zip(kinds, before, strict=True):
                kind.fp32_precision = found


def _has_channels(value: Tensor | nn.Module) -> bool:
    return isinstance(value, nn.Module) or (value.ndim == 4 and value.is_floating_point())


def make_runtime(device: str = "auto", precision: str = "float32") -> Runtime:
    """Choose the device and check that it is there.

    Args:
        device: "auto" (the first GPU, else the CPU), "cpu", "cuda" or "cuda:N".
        precision: "float32" or "bfloat16".

    Raises:
        ValueError: no such device on this machine, or an unknown precision.
    """
    if precision not in get_args(Precision):
        raise ValueError(
            f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}"
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"unknown device {device!r}; use auto, cpu, cuda or cuda:N") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} was asked for but torch sees no GPU; use --device cpu")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {device!r} was asked for but there are {torch.cuda.device_count()} GPUs"
        )
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"unsupported device {device!r}; use auto, cpu, cuda or cuda:N")
    return Runtime(chosen, precision)  # type: ignore[arg-type]


def cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
