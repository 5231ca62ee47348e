"""Record any training: five lines in a custom loop, or the callbacks in `fmce.integrations`."""

import math
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from fmce.config.choices import KeepRecorded
from fmce.config.run import RecorderConfig
from fmce.console.log import logger
from fmce.convergence.phases import PhaseConfig
from fmce.convergence.verdict import RELATIVE_THRESHOLD
from fmce.engine.distributed.ranks import current_ranks
from fmce.recorder.attempts import Attempts
from fmce.recorder.folder import RecordedFolder, model_digest, probe_digest
from fmce.recorder.meter import ModuleMeter
from fmce.recorder.probe import bare_model, count_samples
from fmce.recorder.status import Status, current_cqi, status_of
from fmce.recorder.sums import LossSums
from fmce.runs.log import task_loss

# Fields of a metrics line that belong to the recorder.
_OWN_FIELDS = {
    "epoch",
    "loss",
    "steps",
    "bad_losses",
    "cqi",
    "modules",
    "not_measured",
    "time_seconds",
}


class Logger(Protocol):
    """Anything that takes numbers by name at an epoch: Weights & Biases, trackio, Aim, an adapter of five lines."""

    def log(self, values: dict[str, float], *, step: int) -> Any:
        """Take the numbers of an epoch."""
        ...


class Recorder:
    """Records a training in a run folder that every `fmce` command reads.

    The model is left as it was found: mode, hooks, buffers, gradients and random generators. A measurement that
    fails is reported once and recorded as missing; it never ends the training. What is wrong with the arguments
    is an error before the first step, or at it.

    Where `torch.distributed` is initialised, every process makes a recorder and calls the same methods: sums are
    those of all, the first process measures and writes, and all get the same status.

    Args:
        folder: Run folder. One that holds epochs of this training is continued, see `start`.
        model: The network; wrappers of `torch.compile` and DistributedDataParallel are looked through.
        modules: Submodules to measure, as in `model.named_modules()`; None takes the children with parameters.
        probe: Fixed inputs, not varied, at least 8 samples and better 256: a tensor, or a dict (keyword
            arguments where `forward` has parameters of these names), list or tuple (positional arguments). A
            `ScoredProbe` adds labels, and each epoch then has maturity scores. None measures weights and gradients,
            but no outputs.
        optimizer: The one that trains the model, or several. Its steps are observed; without it, nothing is known
            of gradients.
        keep: Checkpoints: "all", "thinned" (at most four per phase, so that every later marker has one within a
            quarter of a phase), or "none".
        phases: What counts as converged; by default changes below a thousandth of the loss's range.
        frozen: Modules that are meant to be frozen, and raise no alarm for it.
        loggers: Get the numbers of each epoch, see `Logger`.

    Raises:
        ValueError: If a module is unknown (near names are listed) or returns no tensor, or the model cannot take
            the probe, or the probe is too small.
        FileExistsError: If the folder holds another model's run, or something else.
        BlockingIOError: If another process records there.

    Example:
        >>> import tempfile
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> inputs, targets = torch.randn(64, 4), torch.randn(64, 1)
        >>> with Recorder(tempfile.mkdtemp(), model, probe=inputs, optimizer=optimizer) as recorder:
        ...     for epoch in range(3):
        ...         loss = nn.functional.mse_loss(model(inputs), targets)
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...         optimizer.step()
        ...         recorder.step(loss, len(inputs))
        ...         status = recorder.end_epoch()
        >>> status.epoch, status.alarms
        (3, ())
    """

    _open: ClassVar["weakref.WeakValueDictionary[Path, Recorder]"] = weakref.WeakValueDictionary()

    def __init__(
        self,
        folder: str | Path,
        model: nn.Module,
        modules: Sequence[str] | None = None,
        probe: Any = None,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] = (),
        *,
        keep: KeepRecorded = "thinned",
        phases: PhaseConfig | None = None,
        frozen: Sequence[str] = (),
        loggers: Sequence[Logger] = (),
    ) -> None:
        self.model = bare_model(model)
        self.phases = phases or PhaseConfig(relative_threshold=RELATIVE_THRESHOLD)
        self.folder = Path(folder)
        self.loggers = list(loggers)
        self.ranks = current_ranks(next(self.model.parameters(), torch.empty(0)).device)
        optimizers = (
            [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else list(optimizer)
        )
        self._meter: ModuleMeter | None = None
        if self.ranks.is_main:
            self._meter = ModuleMeter(self.folder, model, modules, probe, optimizers, frozen)
        config = RecorderConfig(
            modules=None if self._meter is None else tuple(self._meter.modules),
            probe_images=0 if probe is None else count_samples(probe),
            frozen=tuple(frozen),
            keep=keep,
            model=model_digest(self.model),
            probe=None if probe is None else probe_digest(probe),
        )
        self._files = RecordedFolder(self.folder, keep, self.phases)
        self._held = ExitStack()
        place = self.folder.absolute()
        if (earlier := Recorder._open.get(place)) is not None:
            earlier.close()  # in a notebook, a cell that runs again
        self._held.enter_context(self._files.claim(config, self.ranks))
        Recorder._open[place] = self
        self._rows = self.ranks.on_rank_zero(self._files.lines)
        self._epoch = len(self._rows)
        self._expected: int | None = None
        self._started = False
        self._sums = LossSums()
        self._attempts = Attempts()
        self._since = time.perf_counter()
        me = weakref.ref(self)
        for one in optimizers:
            # After the step: with a closure, its gradients do not exist before.
            self._held.callback(one.register_step_pre_hook(_hook(me, Recorder.start)).remove)
            self._held.callback(one.register_step_post_hook(_hook(me, Recorder.after_step)).remove)
        # Gone after the first training forward, which would already move norm statistics.
        self._first = model.register_forward_pre_hook(_first_hook(me))
        self._held.callback(self._first.remove)

    @property
    def epoch(self) -> int:
        """The last epoch recorded; a training that continues starts with the next one."""
        return self._epoch

    def start(self) -> int:
        """Find the epoch after which the training continues; the first step does so too.

        Call it after the weights were loaded, where the loop needs to know. It is the one that `load_state_dict`
        names, else the newest whose weights the model has. Lines and checkpoints of later epochs are deleted.

        Returns:
            That epoch; 0 for a new training.

        Raises:
            ValueError: If the folder holds epochs, and the model has the weights of none of them.
            FileExistsError: If the folder holds a finished training whose later epochs would be deleted.
        """
        if self._started:
            return self._epoch
        self._started = True
        self._first.remove()
        held = len(self._rows)
        self._epoch = self.ranks.on_rank_zero(self._begin)
        self._rows = self._rows[: self._epoch]
        if held and self.ranks.is_main:
            logger.info(
                "%s holds %d epochs; recording continues after epoch %d",
                *(self.folder, held, self._epoch),
            )
        self._since = time.perf_counter()
        return self._epoch

    def _begin(self) -> int:
        assert self._meter is not None
        partial_epoch = self._sums.steps > 0
        epoch = self._meter.start(self._rows, self._expected, partial=partial_epoch)
        self._files.cut(self._rows, epoch)
        return epoch

    def step(self, loss: Tensor | float, samples: int = 1) -> None:
        """Note a training step; the host does not wait for the device.

        Args:
            loss: The batch's mean loss, a number or a tensor with one element.
            samples: Samples that it covers.

        Raises:
            ValueError: If the loss is no single number, the first one is not finite, or there are no samples.
        """
        if isinstance(loss, Tensor) and loss.numel() != 1:
            raise ValueError(
                f"expected one loss, the batch's mean, got a tensor of shape {tuple(loss.shape)}"
            )
        if samples < 1:
            raise ValueError(f"expected at least 1 sample, got {samples}")
        if not self._started:
            self.start()
        # Once: later losses are looked at when the epoch ends.
        if not self._sums.steps and self._epoch == 0:
            first = float(loss.detach() if isinstance(loss, Tensor) else loss)
            if not math.isfinite(first):
                raise ValueError(
                    f"the first loss is {first}; check the data, the targets and the learning rate"
                )
        self._sums.add(loss, float(samples))

    def after_step(self) -> None:
        """Look at the gradients just after an optimizer step; the optimizers given call it themselves."""
        if self._meter is not None:
            self._meter.after_step()

    def end_epoch(
        self,
        learning_rate: float | None = None,
        validation_loss: float | None = None,
        **metrics: float,
    ) -> Status:
        """Measure the modules, write the epoch's metrics line and checkpoint, and judge the curve.

        Save your own checkpoint after it, so that both agree on the epoch.

        Args:
            learning_rate: The epoch's; by default that of the optimizer's first group now.
            validation_loss: Decides overfitting.
            metrics: Further numbers of the metrics line.

        Returns:
            The status; on every process the same.
        """
        if not self._started:
            self.start()
        loss = self._sums.mean(self.ranks)
        row: dict[str, Any] = {"epoch": self._epoch + 1, "loss": loss, "steps": self._sums.steps}
        if self._sums.bad:
            row["bad_losses"] = self._sums.bad
        rate = self._rate() if learning_rate is None else learning_rate
        row["learning_rate"] = _number(rate)
        if validation_loss is not None:
            row["validation_loss"] = _number(validation_loss)
        taken = sorted(_OWN_FIELDS & metrics.keys())
        if taken and self.ranks.is_main:
            logger.warning("metrics with names of the recorder's own are left out: %s", taken)
        row |= {name: _number(value) for name, value in metrics.items() if name not in taken}
        self._sums = LossSums()
        self._epoch += 1
        status = self.ranks.on_rank_zero(lambda: self._record(row))
        self._since = time.perf_counter()
        return status

    def _record(self, row: dict[str, Any]) -> Status:
        assert self._meter is not None
        seconds, attempt = time.perf_counter() - self._since, self._attempts.run
        losses = [*map(task_loss, self._rows), task_loss(row)]
        row["cqi"] = attempt("CQI", partial(current_cqi, losses, self.phases))
        row["modules"] = self._meter.measure(row["epoch"])
        if self._meter.attempts.failed:
            row["not_measured"] = dict(self._meter.attempts.failed)
        row["time_seconds"] = seconds
        self._rows.append(row)
        attempt("the checkpoint", partial(self._files.save, row, self.model, losses))
        attempt("the metrics line", partial(self._files.write, self._rows))
        status = attempt("the status", partial(status_of, self._rows, self.phases))
        for one in self.loggers:
            values = partial(one.log, _flat(row), step=row["epoch"])
            attempt(f"{type(one).__name__}.log", values)
        return status or Status(row["epoch"], row["loss"])

    def _rate(self) -> float | None:
        optimizers = [] if self._meter is None else self._meter.optimizers
        return float(optimizers[0].param_groups[0]["lr"]) if optimizers else None

    def state_dict(self) -> dict[str, Any]:
        """Return plain values to keep in a checkpoint of your own beside the weights."""
        meter = None if self._meter is None else self._meter.state()
        return {"epoch": self._epoch, "sums": self._sums.state(), "modules": meter}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue after the epoch that a `state_dict` belongs to; load the weights of the same checkpoint.

        Raises:
            ValueError: If training began already, or the folder lacks epochs before that one.
        """
        if self._started:
            raise ValueError("load the recorder's state before the first step")
        if state["epoch"] > len(self._rows):
            raise ValueError(
                f"the state belongs to epoch {state['epoch']}, but {self.folder} holds {len(self._rows)} epochs; "
                "continue in the folder where the training was recorded"
            )
        self._expected = self._epoch = int(state["epoch"])
        self._sums = LossSums(**state["sums"])
        if self._meter is not None and state["modules"] is not None:
            self._meter.load_state(state["modules"])

    def finish(self, **summary: Any) -> None:
        """Note that the training is over: find its phases, write `DONE.json` with the summary, and close."""
        end = partial(self._files.finish, self._epoch, summary)
        self.ranks.on_rank_zero(partial(self._attempts.run, "the end", end))
        self.close()

    def close(self) -> None:
        """Let go of the folder and of the optimizers' steps; the training may be continued later."""
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._epoch:
            self.finish()
        else:
            self.close()


# Neither hook keeps the recorder alive.
def _hook(
    recorder: "weakref.ref[Recorder]", action: Callable[[Recorder], object]
) -> Callable[..., None]:
    def call(*_: object) -> None:
        if (alive := recorder()) is not None:
            action(alive)

    return call


def _first_hook(recorder: "weakref.ref[Recorder]") -> Callable[..., None]:
    def begin(model: nn.Module, _: object) -> None:
        if model.training and not torch.compiler.is_compiling() and (alive := recorder()):
            alive.start()

    return begin


def _number(value: Any) -> float | None:
    """Return a finite number; None for anything else, which JSON could not hold."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers in nested values by their path, such as "modules/neck/moved"."""
    flat: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            flat[prefix + key] = float(value)
    return flat
