"""The recorder as a callback of Hugging Face's Trainer (`pip install 'fmce[transformers]'`)."""

from pathlib import Path
from typing import Any

import torch

from fmce.digests import read_record_or_none, write_record
from fmce.integrations.callback import RecordingCallback

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "the callback needs transformers: pip install 'fmce[transformers]'"
    ) from error

# States kept for resuming, one per checkpoint of the trainer.
_STATES = 20


class TrainerMaturityCallback(RecordingCallback, TrainerCallback):
    """Records a `Trainer.train` in a run folder; see `fmce.Recorder`, which takes the same arguments.

    The loss is the trainer's logged one, a mean over the steps since the last log, weighted by those steps; a log
    is written at each epoch's end and before each checkpoint. What resuming needs lies in the run folder, since
    the trainer restores callbacks only where a flag asks for it.

    Args and attributes are those of `RecordingCallback`; a probe that is a dict is passed as keyword arguments, and
    no checkpoint is kept beside the trainer's unless `keep` asks for it.
    """

    usual_keep = "none"

    _logged = 0
    _ending = False
    _rate: float | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Make the recorder, and continue after the trainer's checkpoint where it resumed."""
        optimizer = _inner(kwargs.get("optimizer"))
        optimizers = [] if optimizer is None else [optimizer]
        recorder = self.record(kwargs["model"], optimizers)
        self._logged, self._ending = state.global_step, False
        file = self._state_file(state.global_step)
        remedy = "resume from another checkpoint, or delete the file"
        kept = read_record_or_none(file, remedy) if state.global_step else None
        if kept is not None:
            recorder.load_state_dict(kept)
        recorder.start()

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
        if self.wants_to_stop():
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
            write_record(file, kept, indent=None)
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
