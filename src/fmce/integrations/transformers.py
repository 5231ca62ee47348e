"""The recorder as a callback of Hugging Face's Trainer (`pip install 'fmce[transformers]'`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from fmce.config.choices import KeepRecorded
from fmce.convergence.phases import PhaseConfig
from fmce.files import read_json_or_none, write_json
from fmce.recorder.recorder import Logger, Recorder
from fmce.recorder.status import Status

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "the callback needs transformers: pip install 'fmce[transformers]'"
    ) from error

# States kept for resuming, one per checkpoint of the trainer.
_STATES = 20


class TrainerMaturityCallback(TrainerCallback):
    """Records a `Trainer.train` in a run folder; see `fmce.Recorder`, which takes the same arguments.

    The loss is the trainer's logged one, a mean over the steps since the last log, weighted by those steps; a log
    is written at each epoch's end and before each checkpoint. What resuming needs lies in the run folder, since
    the trainer restores callbacks only where a flag asks for it.

    Args:
        folder: Run folder.
        modules: Submodules of the model to measure, such as "bert.encoder".
        probe: Fixed inputs of the model's `forward`; a dict is passed as keyword arguments.
        keep: Checkpoints that the recorder keeps.
        phases: What counts as converged.
        frozen: Modules that are meant to be frozen.
        loggers: Get the numbers of each epoch.
        stop: End the training once the curve is "at_rest", or only once it has "converged"; None never ends it.

    Attributes:
        status: After the newest epoch; None before the first.
        recorder: The recorder while a training runs; None before.
    """

    def __init__(
        self,
        folder: str | Path,
        modules: Sequence[str] | None = None,
        probe: Any = None,
        *,
        keep: KeepRecorded = "none",
        phases: PhaseConfig | None = None,
        frozen: Sequence[str] = (),
        loggers: Sequence[Logger] = (),
        stop: Literal["at_rest", "converged"] | None = None,
    ) -> None:
        self.folder, self.stop = Path(folder), stop
        self.recorder: Recorder | None = None
        self.status: Status | None = None
        self._what = (modules, probe)
        self._options: dict[str, Any] = {"keep": keep, "phases": phases, "frozen": frozen}
        self._options["loggers"] = loggers
        self._logged = 0
        self._ending = False
        self._rate: float | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Make the recorder, and continue after the trainer's checkpoint where it resumed."""
        modules, probe = self._what
        optimizer = _inner(kwargs.get("optimizer"))
        optimizers = [] if optimizer is None else [optimizer]
        model = kwargs["model"]
        self.recorder = Recorder(self.folder, model, modules, probe, optimizers, **self._options)
        self._logged, self._ending = state.global_step, False
        kept = read_json_or_none(self._state_file(state.global_step)) if state.global_step else None
        if kept is not None:
            self.recorder.load_state_dict(kept)
        self.recorder.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask for a log before a checkpoint, so that its state knows every step."""
        if control.should_save:
            control.should_log = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Note the mean loss since the last log."""
        assert self.recorder is not None
        steps = state.global_step - self._logged
        if logs is None or "loss" not in logs or steps < 1:
            return
        self._logged, self._rate = state.global_step, logs.get("learning_rate")
        self.recorder.step(float(logs["loss"]), steps)
        if self._ending and not control.should_evaluate:
            self._end(control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask for the log that completes the epoch."""
        self._ending = True
        if self._logged < state.global_step:
            control.should_log = True
        elif not control.should_evaluate:
            self._end(control)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """End the epoch with the validation loss, where the trainer evaluates at its end."""
        if self._ending:
            self._end(control, (metrics or {}).get("eval_loss"))

    def _end(self, control: TrainerControl, validation_loss: float | None = None) -> None:
        assert self.recorder is not None
        self._ending = False
        self.status = self.recorder.end_epoch(self._rate, validation_loss)
        if self.stop is not None and getattr(self.status, self.stop):
            control.should_training_stop = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep beside the run what resuming from the trainer's checkpoint needs."""
        assert self.recorder is not None
        kept = self.recorder.state_dict()
        if self.recorder.ranks.is_main:
            file = self._state_file(state.global_step)
            file.parent.mkdir(exist_ok=True)
            write_json(file, kept, indent=None)
            for old in sorted(file.parent.glob("step_*.json"))[:-_STATES]:
                old.unlink()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the end of the training."""
        assert self.recorder is not None
        self.recorder.finish()

    def _state_file(self, step: int) -> Path:
        return self.folder / "states" / f"step_{step:08d}.json"


def _inner(optimizer: Any) -> torch.optim.Optimizer | None:
    """Return the optimizer inside Accelerate's wrapper, which runs no hooks of its own."""
    while not type(optimizer).__module__.startswith("torch.") and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer if isinstance(optimizer, torch.optim.Optimizer) else None
