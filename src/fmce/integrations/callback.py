"""What the callbacks of all frameworks are made with: a recorder's arguments, until there is a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypedDict

import torch
from torch import nn

from fmce.config.choices import KeepRecorded
from fmce.convergence.phases import PhaseConfig
from fmce.recorder.recorder import Logger, Recorder
from fmce.recorder.status import Status

Stop = Literal["at_rest", "converged"] | None


class RecordingOptions(TypedDict, total=False):
    """Further arguments of every callback, see `RecordingCallback`."""

    keep: KeepRecorded
    phases: PhaseConfig | None
    frozen: Sequence[str]
    loggers: Sequence[Logger]
    stop: Stop


class RecordingCallback:
    """The part of a callback that does not depend on the framework.

    Args:
        folder: Run folder.
        modules: Submodules of the model to measure.
        probe: Fixed inputs of the model's `forward`.
        keep: Checkpoints that the recorder keeps; None takes what suits the framework.
        phases: What counts as converged.
        frozen: Modules that are meant to be frozen.
        loggers: Get the numbers of each epoch.
        stop: End the training once the curve is "at_rest", or only once it has "converged"; None never ends it.

    Attributes:
        status: After the newest epoch; None before the first.
        recorder: The recorder while a training runs; None before.
    """

    usual_keep: ClassVar[KeepRecorded] = "thinned"

    def __init__(
        self,
        folder: str | Path,
        modules: Sequence[str] | None = None,
        probe: Any = None,
        *,
        keep: KeepRecorded | None = None,
        phases: PhaseConfig | None = None,
        frozen: Sequence[str] = (),
        loggers: Sequence[Logger] = (),
        stop: Stop = None,
    ) -> None:
        self.folder, self.stop = Path(folder), stop
        self.recorder: Recorder | None = None
        self.status: Status | None = None
        self._what = (modules, probe)
        self._options: dict[str, Any] = {"keep": keep or self.usual_keep, "phases": phases}
        self._options |= {"frozen": frozen, "loggers": loggers}

    def record(self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> Recorder:
        """Make the recorder; errors as there."""
        self.recorder = Recorder(self.folder, model, *self._what, optimizers, **self._options)
        return self.recorder

    def wants_to_stop(self) -> bool:
        """Return whether the newest epoch fulfils `stop`."""
        return self.stop is not None and bool(getattr(self.status, self.stop))
