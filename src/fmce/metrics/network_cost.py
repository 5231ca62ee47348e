"""A network as it is used: logits only; its parameters, multiply-adds, latency and memory."""

import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fmce.models.detection import DetectionOutput

_TIMED_RUNS = 10


class LogitsOnly(nn.Module):
    """A network that returns just its logits at inference, whatever its own output type."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap a model in eval mode."""
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B,C) or (B,C,H,W) of normalised images (B,3,H,W).

        Of a detector (B,A,C+5): at each location the class logits, the centerness logit, and the
        distances to the box's left, top, right and lower side in strides of the location's level.
        """
        output = self.model(images)
        if isinstance(output, DetectionOutput):
            distances = output.distances / output.strides[:, None]
            columns = (output.class_logits, output.centerness_logits[..., None], distances)
            return torch.cat(columns, dim=2)
        if isinstance(output, Mapping):  # torchvision's segmentation models
            output = output["out"]
        logits: Tensor = output if isinstance(output, Tensor) else output[0]
        return logits


def for_inference(model: nn.Module) -> LogitsOnly:
    """Wrap a network of your own making for use: no auxiliary head, logits only, eval mode."""
    if getattr(model, "auxiliary", None) is not None:
        del model.auxiliary
        model.register_module("auxiliary", None)
    return LogitsOnly(model).eval()


def measure_network(model: nn.Module, image: Tensor) -> dict[str, float]:
    """Measure one inference on the image's device.

    Args:
        model: in eval mode, on that device.
        image: (1,3,H,W).

    Returns:
        parameters; multiply_adds (of products and convolutions); weights_mib; activations_mib, the
        most that results of operations held at a time (without an allocator's own overhead); and
        latency_ms, the median of ten runs.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            model(image)
        with LiveTensors() as live:
            model(image)
        seconds = _median_seconds(lambda: model(image), image.device)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "multiply_adds": counter.get_total_flops() / 2,
        "weights_mib": sum(t.numel() * t.element_size() for t in model.state_dict().values())
        / 2**20,
        "activations_mib": live.peak / 2**20,
        "latency_ms": 1000 * seconds,
    }


class LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the bytes of storages that operations make while it is entered; `peak` is their most."""

    def __init__(self) -> None:
        """Start at nothing."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count the new storages among its results."""
        before = {_pointer(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            # A view or an in-place result shares an argument's storage.
            if isinstance(tensor, Tensor) and _pointer(tensor) not in before | self._known:
                self._follow(tensor)
        return result

    def _follow(self, tensor: Tensor) -> None:
        storage, pointer = tensor.untyped_storage(), _pointer(tensor)
        size = storage.nbytes()
        self._known.add(pointer)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._release, pointer, size)

    def _release(self, pointer: int, size: int) -> None:
        self._known.discard(pointer)
        self.bytes -= size


def _pointer(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _median_seconds(run: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for _ in range(_TIMED_RUNS):
        _synchronize(device)
        started = time.perf_counter()
        run()
        _synchronize(device)
        seconds.append(time.perf_counter() - started)
    return float(torch.tensor(seconds, dtype=torch.float64).median())


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
