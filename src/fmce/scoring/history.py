"""What is known of one module of one run: its statistics by epoch, and what the run's losses say."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fmce.convergence.banded import Array
from fmce.convergence.phases import PhaseConfig, find_phases

NUM_PHASES = 10
_CONFIG = PhaseConfig(num_phases=NUM_PHASES, relative_threshold=1e-3, if_not_converged="last")


@dataclass(frozen=True)
class ModuleHistory:
    """The statistics of one module over the checkpoints of one run.

    Args:
        run: What the run is called.
        module: What the module, or its output, is called.
        epochs: (E,) epochs that were measured, ascending, from 1.
        values: Statistic → (E,) its value at each of them; NaN where it is undefined.
        twin: Statistic → its value for the module of a re-initialised copy of the network.
        losses: (M,) the training loss of each epoch seen so far; empty where it is not known.
        planned: Epochs of the complete training; None where nobody knows.
        about: What the run is made of, such as data, architecture, width and recipe: what a scorer
            compares with its training card.

    Raises:
        ValueError: If lengths differ, epochs do not ascend, or an epoch has no loss.
    """

    run: str
    module: str
    epochs: NDArray[np.int64]
    values: Mapping[str, Array]
    twin: Mapping[str, float]
    losses: Array = field(default_factory=lambda: np.zeros(0))
    planned: int | None = None
    about: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        epochs = np.asarray(self.epochs, dtype=np.int64)
        values = {name: np.asarray(v, dtype=np.float64) for name, v in self.values.items()}
        object.__setattr__(self, "epochs", epochs)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "losses", np.asarray(self.losses, dtype=np.float64))
        where = f"{self.run}, {self.module}"
        if not epochs.size or epochs[0] < 1 or (np.diff(epochs) <= 0).any():
            raise ValueError(f"{where}: expected ascending epochs from 1, got {epochs.tolist()}")
        for name, value in values.items():
            if value.shape != epochs.shape:
                raise ValueError(
                    f"{where}: expected {epochs.size} values of {name}, got {value.size}"
                )
        if self.losses.size and self.losses.size < epochs[-1]:
            raise ValueError(
                f"{where}: epoch {epochs[-1]} was measured, but only {self.losses.size} losses are known"
            )

    def until(self, epoch: int) -> "ModuleHistory":
        """Return what was known after an epoch.

        Raises:
            ValueError: If nothing was measured by then.
        """
        seen = self.epochs <= epoch
        return replace(
            self,
            epochs=self.epochs[seen],
            values={name: value[seen] for name, value in self.values.items()},
            losses=self.losses[:epoch],
        )

    def phases(self, *, smoothed: bool = False) -> Array:
        """Return the phase of each measured epoch by the complete run's losses; see `continuous_phases`."""
        return continuous_phases(self.losses, smoothed=smoothed)[self.epochs - 1]


def continuous_phases(losses: ArrayLike, *, smoothed: bool = False) -> Array:
    """Return the share of a run's progress at each epoch, as phases from 0 to 10.

    10·p_m / p_{E_K} with p_m = log L_{E_0} − log L_m: FMCE's section IV-C without rounding to markers. E_K is that
    of the smoothed curve in both cases, the last epoch where it has not converged.

    Args:
        losses: (M,) one per epoch.
        smoothed: Progress of the recursive average, as in the papers, which is nearly a clock; else that of
            the losses themselves.

    Raises:
        ValueError: If the curve has no phases.

    >>> continuous_phases(np.exp(-np.arange(21) / 4))[[0, 10, 20]].tolist()
    [0.0, 5.0, 10.0]
    """
    curve = np.asarray(losses, dtype=np.float64)
    found = find_phases(curve, _CONFIG)
    if smoothed:
        curve = np.asarray(found.smoothed)
    logs = np.log(np.maximum(curve, 1e-12))
    progress = logs[found.start_epoch - 1] - logs
    end = progress[found.convergence_epoch - 1]
    return np.asarray(np.clip(NUM_PHASES * progress / end, 0, NUM_PHASES))
