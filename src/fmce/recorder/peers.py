"""Weights beside those of other trainings of the same network.

Trainings that differ only in their seed end with nearly the same norm of every parameter, though no weight is the same.
A module that was re-initialised, rescaled or overwritten stands out, even where its training was not recorded.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from fmce.convergence.banded import Array
from fmce.models.features import find_module
from fmce.recorder.weights import Weights, measure_tensors
from fmce.runs.weights import load_into

# With three, healthy networks were up to 16 standard deviations away, with four up to 7.
FEWEST_PEERS = 4
# Relative spread below which that of a few trainings is chance.
_LEAST_SPREAD = 0.02
# A root mean square below it counts as zero.
_SMALLEST = 1e-3


class Unlike(NamedTuple):
    """How unlike its peers a module is, by its most unlike parameter.

    Attributes:
        distance: Of the log norm from the peers' mean, in standard deviations; infinite where it is not finite.
        parameter: Its name within the module.
        norm: Its Euclidean norm.
        least: The least norm of the peers.
        most: The largest.
    """

    distance: float
    parameter: str
    norm: float
    least: float
    most: float

    def to_dict(self) -> dict[str, str | float | None]:
        """Return it as JSON values, a number that is not finite as null."""
        values: dict[str, str | float] = self._asdict()
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }


def unlike_peers(
    model: nn.Module, modules: Sequence[str], peers: Sequence[str | Path]
) -> dict[str, Unlike]:
    """Return how unlike those of other trainings each module's weights are; one without parameters is left out.

    The standard deviation of a parameter's log norm is at least 0.02 and that of the median parameter.

    Args:
        model: The network with the weights to judge, which it has afterwards too.
        modules: Names of its submodules.
        peers: Weights files or checkpoint folders of at least four healthy trainings of the same network.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there are too few, one does not fit the network, or two have equal weights, the network included.
    """
    if isinstance(peers, str | Path) or len(peers) < FEWEST_PEERS:
        given = peers if isinstance(peers, str | Path) else len(peers)
        raise ValueError(
            f"peers: expected checkpoints of at least {FEWEST_PEERS} other trainings, got {given}"
        )
    ours, rows = _measured(model), list[dict[str, Weights]]()
    if not ours:
        return {}
    kept = {name: value.clone() for name, value in _tensors(model).items()}
    try:
        for number, peer in enumerate(peers):
            load_into(model, Path(peer), "the network")
            theirs = _measured(model)
            known = {"the checkpoint": ours} | dict(zip(map(str, peers), rows, strict=False))
            marks = _marks(theirs)
            same = next((name for name, row in known.items() if _marks(row) == marks), None)
            if same is not None:
                raise ValueError(
                    f"peer {number + 1}, {peer}: expected another training, got the weights of {same}"
                )
            rows.append(theirs)
    finally:
        model.load_state_dict(kept, strict=False)
    sizes = [p.numel() for _, p in model.named_parameters(remove_duplicate=False)]
    now, others = _logs([ours], sizes)[0], _logs(rows, sizes)  # (P,), (peers,P)
    spread = others.std(0, ddof=1)
    spread = np.maximum(spread, max(_LEAST_SPREAD, float(np.median(spread))))
    # The mean of a few is uncertain too.
    away = np.abs(now - others.mean(0)) / spread / np.sqrt(1 + 1 / len(rows))
    distances = dict(zip(ours, np.where(np.isfinite(away), away, np.inf).tolist(), strict=True))
    found = {}
    for module in modules:
        inside = find_module(model, module).named_parameters(remove_duplicate=False)
        own = {name: distances[f"{module}.{name}"] for name, _ in inside}
        if own:
            worst = max(own, key=own.__getitem__)
            norms = [row[f"{module}.{worst}"].norm for row in rows]
            norm = ours[f"{module}.{worst}"].norm
            found[module] = Unlike(own[worst], worst, norm, min(norms), max(norms))
    return found


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {n: value for n, value in model.state_dict().items() if isinstance(value, Tensor)}


def _measured(model: nn.Module) -> dict[str, Weights]:
    parameters = model.named_parameters(remove_duplicate=False)
    return {name: measure_tensors([parameter]) for name, parameter in parameters}


def _marks(row: Mapping[str, Weights]) -> list[str]:
    return [weights.fingerprint for weights in row.values()]


def _logs(rows: Sequence[Mapping[str, Weights]], sizes: Sequence[int]) -> Array:
    """Return the logs of the root mean squares (R,P)."""
    norms = np.array([[weights.norm for weights in row.values()] for row in rows])
    squares = norms / np.sqrt(np.maximum(sizes, 1))
    return np.asarray(np.log(np.maximum(squares, _SMALLEST)))
