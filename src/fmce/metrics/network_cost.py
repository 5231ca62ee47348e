"""A network as it is used: logits only; its parameters, multiply-adds and latency."""

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

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
    """Wrap a network for use: logits only, in eval mode; an auxiliary head is removed from it."""
    if getattr(model, "auxiliary", None) is not None:
        del model.auxiliary
        model.register_module("auxiliary", None)
    return LogitsOnly(model).eval()


def measure_network(model: nn.Module, image: Tensor) -> dict[str, float]:
    """Measure one inference of a model in eval mode on an image (1,3,H,W), on the device of both.

    Returns:
        "parameters"; "multiply_adds" of products and convolutions, by torch's counter; "weights_mib"; and
        "latency_ms", the median of ten runs.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            model(image)
        seconds = _median_seconds(lambda: model(image), image.device)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "multiply_adds": counter.get_total_flops() / 2,
        "weights_mib": sum(t.nbytes for t in model.state_dict().values()) / 2**20,
        "latency_ms": 1000 * seconds,
    }


def training_multiply_adds(loss: Callable[[], Tensor], parameters: Sequence[Tensor]) -> float:
    """Count the multiply-adds of products and convolutions of a forward and its backward, by torch's counter.

    Args:
        loss: Runs the forward and returns a scalar.
        parameters: What gradients are computed of; without any, the forward alone is counted.

    Raises:
        ValueError: If there are parameters, but the scalar depends on no weights.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        value = loss()
        if parameters:
            if not value.requires_grad:
                raise ValueError(
                    "no output of the model depends on its weights: expected tensors with gradients in eval mode"
                )
            torch.autograd.grad(value, parameters, allow_unused=True)
    return float(counter.get_total_flops()) / 2


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
