"""Device, precision and, under torchrun, the processes that train together."""

import atexit
import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fmce.config.choices import Precision
from fmce.engine.distributed.rank_failure import report_on_sigterm
from fmce.engine.distributed.ranks import ALONE, Ranks, known_peers

_T = TypeVar("_T")
# Seconds that ranks wait for one another; $FMCE_RANK_TIMEOUT sets another.
RANK_TIMEOUT = 600.0


@dataclass(frozen=True)
class Runtime:
    """Where tensors live and how passes are computed.

    Attributes:
        device: Device of the network and its batches.
        precision: Precision of forward passes.
        channels_last: Whether `to_device` lays maps, images and weights out in NHWC memory order.
        compile: Whether trainings compile their step; nothing here does it.
        cuda_graphs: Whether trainings record their passes as CUDA graphs; nothing here does it.
        tf32: Whether float32 products on a GPU may round their factors.
        ranks: This process among those that train together.
    """

    device: torch.device
    precision: Precision = "float32"
    channels_last: bool = False
    compile: bool = False
    cuda_graphs: bool = False
    tf32: bool = False
    ranks: Ranks = ALONE

    def to_device(self, value: _T) -> _T:
        """Move a tensor, a module or a named tuple of tensors to the device, in the chosen memory order."""
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*(self.to_device(v) for v in value))
        if not isinstance(value, (Tensor, nn.Module)):
            return value
        pictures = isinstance(value, nn.Module) or (value.ndim == 4 and value.is_floating_point())
        order = {"memory_format": torch.channels_last} if self.channels_last and pictures else {}
        return value.to(self.device, non_blocking=True, **order)  # type: ignore[call-overload,no-any-return]

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Run forward passes in the chosen precision; float32 changes nothing."""
        with self.matmul_precision():
            if self.precision == "float32":
                yield
                return
            with torch.autocast(self.device.type, dtype=torch.bfloat16):
                yield

    @contextmanager
    def matmul_precision(self) -> Iterator[None]:
        """Hold a GPU's float32 products to the TF32 choice, backward passes too; restored on leaving.

        Left alone, PyTorch uses TF32 in convolutions and not in matrix products.
        """
        if self.device.type != "cuda":
            yield
            return
        cudnn: Any = torch.backends.cudnn
        kinds = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
        before = [kind.fp32_precision for kind in kinds]
        try:
            _choose(kinds, ["tf32" if self.tf32 else "ieee"] * len(kinds), self.compile)
            yield
        finally:
            _choose(kinds, before, self.compile)


def _choose(kinds: Sequence[Any], precisions: Sequence[str], for_compiler: bool) -> None:
    """Set the float32 precision of matrix products and cuDNN's kinds of operations."""
    if for_compiler:
        # torch.compile still asks for PyTorch's older flags, and to do so is an error where they differ.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some releases call them deprecated
            torch.backends.cuda.matmul.allow_tf32 = precisions[0] == "tf32"
            torch.backends.cudnn.allow_tf32 = precisions[1] == "tf32"
    for kind, precision in zip(kinds, precisions, strict=True):
        kind.fp32_precision = precision


def make_runtime(
    device: str = "auto", precision: str = "float32", *, together: bool = False
) -> Runtime:
    """Choose the device and check that it is available.

    Args:
        device: "auto" (the first GPU, else the CPU), "cpu", "cuda" or "cuda:N".
        precision: "float32" or "bfloat16".
        together: Join the other processes that torchrun started, if it did; each takes the GPU of its
            local rank.

    Raises:
        ValueError: If this machine has no such device, or the precision is unknown.

    >>> make_runtime("cpu").device
    device(type='cpu')
    """
    if precision not in get_args(Precision):
        choices = ", ".join(get_args(Precision))
        raise ValueError(f"precision must be one of {choices}, got {precision!r}")
    alone = Runtime(_device(device), precision)  # type: ignore[arg-type]
    return _joined(alone, device) if together and ranks_started() > 1 else alone


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise ValueError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N") from None
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"unsupported device {name!r}; use auto, cpu, cuda or cuda:N")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} was asked for but torch sees no GPU; use --device cpu")
    gpus = torch.cuda.device_count()
    if chosen.type == "cuda" and (chosen.index or 0) >= gpus:
        raise ValueError(f"device {name!r} was asked for but there are {gpus} GPUs")
    return chosen


def ranks_started() -> int:
    """Return how many processes torchrun started for this training; 1 without torchrun."""
    named = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "WORLD_SIZE")
    return int(os.environ["WORLD_SIZE"]) if all(n in os.environ for n in named) else 1


def _joined(alone: Runtime, device: str) -> Runtime:
    """Join the process group, where this process has not yet, and return the runtime of this rank."""
    seconds = _timeout()
    _check_devices(alone.device, device, int(os.environ["LOCAL_WORLD_SIZE"]))
    own, on_gpu = alone.device, alone.device.type == "cuda"
    if on_gpu:
        own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own)
    if not dist.is_initialized():
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            timeout=timedelta(seconds=seconds),
            device_id=own if on_gpu else None,
        )
        atexit.register(_leave)
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), own)
    peers = known_peers(ranks, seconds)
    report_on_sigterm(peers)
    return replace(alone, device=own, ranks=replace(ranks, peers=peers))


def _leave() -> None:
    """Leave the process group: its threads must not outlive the interpreter."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would interrupt it half way
    dist.destroy_process_group()


def _check_devices(chosen: torch.device, asked: str, processes: int) -> None:
    if chosen.type != "cuda":
        return
    if ":" in asked:
        raise ValueError(
            f"device {asked!r} is one GPU, but torchrun started {processes} processes here, each of which "
            "takes its own; use --device auto or cuda"
        )
    if processes > torch.cuda.device_count():
        raise ValueError(
            f"torchrun started {processes} processes here but there are {torch.cuda.device_count()} GPUs; "
            f"use --nproc-per-node={torch.cuda.device_count()}, or --device cpu"
        )


def _timeout() -> float:
    text = os.environ.get("FMCE_RANK_TIMEOUT", str(RANK_TIMEOUT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"FMCE_RANK_TIMEOUT must be a positive number of seconds, got {text!r}")
    return seconds


def cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
