"""The recorder as a callback of Lightning 2.6.6 or newer (`pip install 'fmce[lightning]'`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from fmce.integrations.callback import RecordingCallback, RecordingOptions
from fmce.recorder.probe import count_samples

try:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import Callback
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "the callback needs Lightning: pip install 'fmce[lightning]'"
    ) from error


class MaturityCallback(RecordingCallback, Callback):
    """Records a `Trainer.fit` in a run folder; see `fmce.Recorder`, which takes the same arguments.

    Its state lies in Lightning's checkpoints, so a resumed fit continues the folder. The loss is the one that
    `training_step` returns.

    Args:
        folder: Run folder.
        modules: Submodules of the LightningModule to measure, such as "net.layer4".
        probe: Fixed inputs of the LightningModule's `forward`.
        validation: Name of the logged validation loss; recorded where it was logged in the epoch.
        options: See `RecordingCallback`; checkpoints are thinned.
    """

    def __init__(
        self,
        folder: str | Path,
        modules: Sequence[str] | None = None,
        probe: Any = None,
        *,
        validation: str = "val_loss",
        **options: Unpack[RecordingOptions],
    ) -> None:
        super().__init__(folder, modules, probe, **options)
        self.validation = validation
        self._state: dict[str, Any] | None = None

    @property
    def state_key(self) -> str:
        """Tells several of these callbacks apart in a checkpoint."""
        return self._generate_state_key(folder=str(self.folder))

    def state_dict(self) -> dict[str, Any]:
        """Return what Lightning keeps in its checkpoints."""
        return {} if self.recorder is None else {"recorder": self.recorder.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what Lightning kept."""
        self._state = state_dict.get("recorder")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the recorder: after the sanity check, with the optimizers, before the first step."""
        recorder = self.record(pl_module, trainer.optimizers)
        state, done = self._state, trainer.current_epoch
        if state is not None and state["epoch"] < done:
            self._close_epoch(state, done)
        elif state is not None:
            recorder.load_state_dict(state)
        recorder.start()

    def _close_epoch(self, state: Mapping[str, Any], done: int) -> None:
        """Continue from a checkpoint that Lightning wrote after an epoch's last step, before our end of it."""
        assert self.recorder is not None
        if self.recorder.epoch >= done:
            # The folder has the epoch: its weights are those of the checkpoint.
            self.recorder.load_state_dict({**state, "epoch": done, "sums": {}})
            return
        self.recorder.load_state_dict(state)
        self.recorder.start()
        self.recorder.end_epoch()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the loss of a batch."""
        assert self.recorder is not None
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if loss is not None:
            # Lightning gives it divided by the number of batches whose gradients it adds up.
            samples = max(count_samples(batch), 1)
            self.recorder.step(loss * trainer.accumulate_grad_batches, samples)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, write and judge the epoch; it runs before the module's own end of the epoch."""
        assert self.recorder is not None
        value = trainer.callback_metrics.get(self.validation)
        validation = None if value is None else float(value)
        self.status = self.recorder.end_epoch(validation_loss=validation)
        if self.stop is not None:
            decision = trainer.strategy.reduce_boolean_decision(self.wants_to_stop(), all=False)
            trainer.should_stop = trainer.should_stop or decision

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the end of the training."""
        assert self.recorder is not None
        self.recorder.finish()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Let go of the folder, in which a later fit may continue."""
        if self.recorder is not None:
            self.recorder.close()
