"""Weights of a module in a few numbers: whether they changed at all, by how much, and how far they have turned.

Copies of the weights would cost as much memory as the network. Instead each parameter leaves a fingerprint of all its
bits (equal weights have equal fingerprints, and others practically never), and a sketch: 1,021 random sums from
which norms and angles of differences follow within about 2 %.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

# A prime, so that no channel count is a multiple of it.
SKETCH_SIZE = 1021
_ROWS = 256
_CHUNK = SKETCH_SIZE * _ROWS
_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}

Sketch = NDArray[np.float64]


@dataclass(frozen=True)
class Weights:
    """What is kept of some tensors.

    Attributes:
        fingerprint: Depends on every bit; 16 hexadecimal digits.
        sketch: (1021,) random sums; that of a difference is the difference of the sketches.
        norm: Euclidean norm.
    """

    fingerprint: str
    sketch: Sketch
    norm: float


@cache
def _randoms(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return random signs (512,1021), the second half like the first, and odd multipliers (256·1021,).

    They are the same on every device.
    """
    rng = np.random.default_rng(0)
    signs = torch.from_numpy(rng.integers(0, 2, (_ROWS, SKETCH_SIZE)) * 2.0 - 1.0)
    odd = torch.from_numpy(rng.integers(0, 2**62, _CHUNK) * 2 + 1)
    return torch.cat([signs, signs]).to(device), odd.to(device)


def _bits(flat: Tensor) -> Tensor:
    """Return the bits of a tensor (P,) as integers (P,)."""
    return flat.contiguous().view(_INTEGERS[flat.element_size()]).long()


@torch.no_grad()
def measure_tensors(tensors: Iterable[Tensor]) -> Weights:
    """Measure tensors in their order.

    Args:
        tensors: Of any shape, type and device. Nothing is drawn from the global random generators.
    """
    mark, norm, sketch = 0, 0.0, np.zeros(SKETCH_SIZE)
    for place, tensor in enumerate(tensors, start=1):
        if not tensor.numel():
            continue
        # Some accelerators have no float64.
        home = tensor if tensor.device.type in ("cpu", "cuda") else tensor.cpu()
        flat = torch.view_as_real(home) if home.is_complex() else home
        one, sums, square = _measure(flat.detach().flatten(), place)
        mark = (mark * 0x9E3779B97F4A7C15 + one) % 2**64
        sketch += sums
        norm += square
    return Weights(f"{mark:016x}", sketch, norm**0.5)


def _measure(flat: Tensor, place: int) -> tuple[int, Sketch, float]:
    """Return fingerprint, sketch (1021,) and squared norm of one tensor (P,)."""
    signs, odd = _randoms(flat.device)
    mark = torch.zeros((), dtype=torch.int64, device=flat.device)
    sums = torch.zeros(SKETCH_SIZE, dtype=torch.float64, device=flat.device)
    square = torch.zeros((), dtype=torch.float64, device=flat.device)
    for number, part in enumerate(torch.split(flat, _CHUNK)):
        bits = _bits(part)
        # An odd number of its own for every chunk; whole numbers wrap alike everywhere.
        mark = mark + (bits * odd[: len(bits)]).sum() * (2 * number + 1)
        x = part.double()
        rows = -(-len(x) // SKETCH_SIZE)
        padded = torch.zeros(rows * SKETCH_SIZE, dtype=torch.float64, device=x.device)
        padded[: len(x)] = x
        # Other rows for every chunk, so that signs of different chunks do not agree.
        first = (17 * place + 41 * number) % _ROWS
        sums += (padded.view(rows, SKETCH_SIZE) * signs[first : first + rows]).sum(0)
        square = square + x.square().sum()
    packed = torch.cat([sums, square[None]]).cpu().numpy()
    return int(mark.item()) % 2**64, packed[:-1], float(packed[-1])


def measure_modules(modules: Mapping[str, nn.Module]) -> dict[str, Weights]:
    """Measure the parameters of each module; one without parameters is left out."""
    found = {}
    for name, module in modules.items():
        parameters = list(module.parameters())
        if parameters:
            found[name] = measure_tensors(parameters)
    return found


def share_moved(before: Weights, after: Weights) -> float:
    """Return ‖Δw‖ / ‖w‖, from the sketches; exactly 0 where no bit changed."""
    if before.fingerprint == after.fingerprint:
        return 0.0
    return _ratio(float(np.linalg.norm(after.sketch - before.sketch)), before.norm)


def cosine_between(before: Weights, after: Weights) -> float:
    """Return the cosine between two states of the same weights, from the sketches; NaN of zeros."""
    if before.fingerprint == after.fingerprint and before.norm > 0:
        return 1.0
    lengths = np.linalg.norm(before.sketch), np.linalg.norm(after.sketch)
    if not min(lengths) > 0:
        return float("nan")
    return float(before.sketch @ after.sketch / (lengths[0] * lengths[1]))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("inf")


def describe_change(before: Weights, after: Weights) -> str:
    """Describe how weights differ, in a few words."""
    angle, ratio = cosine_between(before, after), _ratio(after.norm, before.norm)
    if angle > 1 - 1e-6:
        return f"multiplied by {ratio:.4g}"
    if angle < 0.5:
        return f"unlike before (cosine {angle:.2f}), as after a new initialisation"
    return f"moved by {share_moved(before, after):.1%} (cosine {angle:.4f})"
