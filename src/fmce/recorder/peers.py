"""Weights beside those of other trainings of the same network.

Trainings that differ in their seed end with nearly the same norm of every parameter, though no weight is the same. A
module that was re-initialised, rescaled or overwritten stands out, without a record of its own training.
"""

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn
from torch.linalg import vector_norm

from fmce.convergence.banded import Array
from fmce.models.features import find_module
from fmce.runs.weights import load_into

# With two, the spread says too little: healthy networks were up to 11 standard deviations away.
FEWEST_PEERS = 3
# Relative spread below which that of a few trainings is chance.
_LEAST_SPREAD = 0.02
# A norm below it counts as zero.
_SMALLEST_NORM = 1e-6


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
        model: The network with the weights to judge.
        modules: Names of its submodules.
        peers: Weights files or checkpoint folders of at least three healthy trainings of the same network.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there are too few, one does not fit the network, or one has the very weights to judge.
    """
    if len(peers) < FEWEST_PEERS:
        raise ValueError(
            f"expected checkpoints of at least {FEWEST_PEERS} other trainings to compare with, got {len(peers)}"
        )
    ours, rows, twin = _norms(model), list[dict[str, float]](), copy.deepcopy(model)
    if not ours:
        return {}
    for number, peer in enumerate(peers):
        load_into(twin, Path(peer), "the network")
        theirs = _norms(twin)
        known = {"the checkpoint": ours} | dict(zip(map(str, peers), rows, strict=False))
        same = next((name for name, row in known.items() if row == theirs), None)
        if same is not None:
            raise ValueError(
                f"peer {number + 1}, {peer}: expected another training, got the weights of {same}"
            )
        rows.append(theirs)
    logs = _logs([list(row.values()) for row in rows])  # (peers,P)
    spread = logs.std(0, ddof=1)
    spread = np.maximum(spread, max(_LEAST_SPREAD, float(np.median(spread))))
    # The mean of a few is uncertain too.
    away = np.abs(_logs(list(ours.values())) - logs.mean(0)) / spread / np.sqrt(1 + 1 / len(peers))
    distances = dict(zip(ours, np.where(np.isfinite(away), away, np.inf).tolist(), strict=True))
    found = {}
    for module in modules:
        inside = find_module(model, module).named_parameters(remove_duplicate=False)
        own = {name: distances[f"{module}.{name}"] for name, _ in inside}
        if own:
            worst = max(own, key=own.__getitem__)
            norms = [row[f"{module}.{worst}"] for row in rows]
            norm = ours[f"{module}.{worst}"]
            found[module] = Unlike(own[worst], worst, norm, min(norms), max(norms))
    return found


def _norms(model: nn.Module) -> dict[str, float]:
    parameters = model.named_parameters(remove_duplicate=False)
    return {
        name: float(
            vector_norm(p.detach(), dtype=torch.cdouble if p.is_complex() else torch.double)
        )
        for name, p in parameters
    }


def _logs(norms: ArrayLike) -> Array:
    return np.asarray(np.log(np.maximum(np.asarray(norms), _SMALLEST_NORM)))
