"""A first look on paper: operations and least bytes of each speed line, and the floor they set.

    python -m benchmarks.gpu.floors

Operations are those of convolutions and matrix products, a multiply-add counted as two; of a backward
pass twice the forward pass's where weights are trained, once where they are frozen. Least bytes: each
convolution's input and output crosses the memory once forward, its input, both gradients once backward;
all that lies between (normalisation, activation, shuffling) is taken as done on the way. Weights and
Adam's moments cross once a step. The floor is the larger of operations ÷ rate and bytes ÷ bandwidth:
no implementation with these layers runs much faster.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

# Data sheet of the H100 SXM: dense bfloat16 and float32 rates, bytes per second. Leads, until measured.
DATASHEET = {"bfloat16": 989e12, "float32": 67e12, "bandwidth": 3.35e12}
_BYTES = {"bfloat16": 2, "float32": 4}
# Weight, gradient and Adam's two moments, each read and written in float32.
_ADAM_BYTES = 8 * 4


@dataclass(frozen=True)
class Cost:
    """What one image (or feature map) needs at least.

    Attributes:
        operations: Of convolutions and matrix products.
        bytes: Through the device's memory.
        precision: Of the operations.
    """

    operations: float
    bytes: float
    precision: str

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.operations + other.operations, self.bytes + other.bytes, self.precision)

    def floor(self, ceilings: dict[str, float] = DATASHEET) -> dict[str, float | str]:
        """Return the floor in images per second and which ceiling sets it."""
        by_operations = self.operations / ceilings[self.precision]
        by_bytes = self.bytes / ceilings["bandwidth"]
        bound = "operations" if by_operations > by_bytes else "bytes"
        return {"floor_per_second": 1 / max(by_operations, by_bytes), "bound": bound}


@dataclass(frozen=True)
class _Counted:
    operations: float
    inputs: float
    outputs: float
    weights: float


def _counted(build: Callable[[], nn.Module], shape: Sequence[int]) -> _Counted:
    """Count one sample's forward pass without computing it."""
    sizes = [0, 0]

    def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sizes[0] += inputs[0].numel()
        sizes[1] += output.numel()

    with torch.device("meta"):
        model = build().eval()
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(hook)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *shape, device="meta"))
    weights = sum(p.numel() for p in model.parameters())
    return _Counted(counter.get_total_flops(), sizes[0], sizes[1], weights)


def inference(
    build: Callable[[], nn.Module], shape: Sequence[int], precision: str, batch: int
) -> Cost:
    """Return the cost of one sample's forward pass."""
    c, width = _counted(build, shape), _BYTES[precision]
    return Cost(c.operations, width * (c.inputs + c.outputs) + width * c.weights / batch, precision)


def training(
    build: Callable[[], nn.Module], shape: Sequence[int], precision: str, batch: int
) -> Cost:
    """Return the cost of one sample's share of a training step."""
    c, width = _counted(build, shape), _BYTES[precision]
    moved = width * (3 * c.inputs + 2 * c.outputs) + _ADAM_BYTES * c.weights / batch
    return Cost(3 * c.operations, moved, precision)


def frozen(
    build: Callable[[], nn.Module], shape: Sequence[int], precision: str, batch: int
) -> Cost:
    """Return the cost of a frozen network that a gradient passes through."""
    c, width = _counted(build, shape), _BYTES[precision]
    moved = width * (2 * c.inputs + 2 * c.outputs) + 2 * width * c.weights / batch
    return Cost(2 * c.operations, moved, precision)


def main() -> None:
    """Print each line's cost and floor on an H100."""
    from benchmarks.gpu.speed import costs

    print(f"{'line':58s}{'GFLOP':>9s}{'MB':>9s}{'floor/s':>12s}  bound")
    for name, cost in costs(tiny=False).items():
        floor = cost.floor()
        print(
            f"{name:58s}{cost.operations / 1e9:9.2f}{cost.bytes / 1e6:9.2f}"
            f"{floor['floor_per_second']:12,.0f}  {floor['bound']}"
        )


if __name__ == "__main__":
    main()
