"""Training in a run folder: a checkpoint and a metrics line per epoch; a killed training resumes from them."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from fmce.console.log import logger
from fmce.console.progress import Progress
from fmce.digests import digest_of
from fmce.engine.loop import (
    SCHEDULES,
    Batches,
    EpochResult,
    StepOutput,
    TrainingStoppedError,
    fit,
)
from fmce.engine.runtime import Runtime
from fmce.engine.weight_average import WeightAverage
from fmce.files import reading
from fmce.runs.checkpoint import (
    STATES_KEPT,
    checkpoint_epochs,
    checkpoint_notes,
    checkpoint_path,
    delete_checkpoints,
    newest_resumable,
    save_checkpoint,
    weights_digest,
)
from fmce.runs.log import append_metrics, read_done, rewrite_metrics

MetricsRows = list[dict[str, Any]]


class Meter(Protocol):
    """Measures a network's modules in training; see `fmce.recorder.meter.ModuleMeter`."""

    def follow(self, optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
        """Observe the optimizer's steps inside the block."""
        ...

    def start(self, rows: MetricsRows, epoch: int) -> int:
        """Begin after an epoch; 0 for a new training."""
        ...

    def measure(self, epoch: int) -> Mapping[str, Any]:
        """Return the facts of each module at an epoch's end."""
        ...


@dataclass(frozen=True)
class Optimization:
    """Adam with a learning rate that is set per epoch.

    Args:
        epochs: Last epoch, counted from 1.
        learning_rate: Peak.
        seed: With the epoch, decides every random draw.
        schedule: Name in `fmce.engine.loop.SCHEDULES`.
        average: Moving average of the weights, which the checkpoints then hold; a resume has both.
    """

    epochs: int
    learning_rate: float
    seed: int
    schedule: str = "cosine"
    average: WeightAverage | None = None


def finished(folder: Path) -> dict[str, Any] | None:
    """Return a finished training's summary, where the weights that it ended with are intact.

    Where they are damaged its DONE.json is removed, so that the training resumes before them; for who owns the folder.
    """
    done, checkpoints = read_done(folder), folder / "checkpoints"
    epochs = checkpoint_epochs(checkpoints)
    if done is None or not epochs:
        return done
    try:
        weights_digest(checkpoint_path(checkpoints, epochs[-1]))
    except ValueError:  # the resume names it
        (folder / "DONE.json").unlink()
        return None
    return done


def fit_resumable(
    folder: Path,
    model: nn.Module,
    step: Callable[[Any], StepOutput],
    batches: Batches,
    optimization: Optimization,
    runtime: Runtime,
    *,
    measure: Callable[[EpochResult, MetricsRows], Mapping[str, Any]] = lambda _result, _rows: {},
    title: str = "training",
    newest_only: bool = False,
    meter: Meter | None = None,
) -> None:
    """Train in a run folder, counting the epochs that it holds already.

    Args:
        folder: Run folder that this process owns (`fmce.runs.log.lock_run`).
        model: Freshly built, on the device; takes the newest checkpoint's weights if there is one.
        step: Forward pass of one batch.
        batches: Training data.
        optimization: Epochs, learning rate and seed.
        runtime: Device and precision; of several ranks, the first writes.
        measure: Epoch's result and earlier metrics lines → further fields of the epoch's line.
        title: Names the work in the progress display.
        newest_only: Keep no more checkpoints than a resume may need.
        meter: Measures the modules; on the first of several ranks.

    Raises:
        TrainingStoppedError: If the loss or a weight became NaN or infinite, or the folder is gone.
    """
    # fused: one kernel for all weights, where a small network's step would mostly be Adam's.
    optimizer = torch.optim.Adam(model.parameters(), lr=optimization.learning_rate, fused=True)
    ranks, checkpoints = runtime.ranks, folder / "checkpoints"
    average = optimization.average
    # Read once: ranks that each chose a checkpoint might choose unlike ones, or see other disks.
    rows, state = ranks.on_rank_zero(lambda: _resume(folder, model, average))
    if state is not None:
        optimizer.load_state_dict(state)
    if average is not None:
        ranks.broadcast_parameters(average.model)
    first = len(rows) + 1
    expect_folder = _folder_check(folder)

    def after_step(epoch: int, step: int) -> None:
        if average is not None:
            average.update((epoch - 1) * len(batches) + step)
        if ranks.is_main:
            expect_folder(epoch, step)

    def record(result: EpochResult) -> None:
        row: dict[str, Any] = {
            "epoch": result.epoch,
            "loss": result.loss,
            **result.means,
            "learning_rate": result.learning_rate,
        }
        row |= measure(result, rows)
        if meter is not None and ranks.is_main:
            row["modules"] = meter.measure(result.epoch)
        row["time_seconds"] = result.time_seconds
        _check_finite(row)
        rows.append(row)
        if not ranks.is_main:
            return
        expect_folder(result.epoch, 0)
        state, kept = {"optimizer": optimizer.state_dict()}, model.state_dict()
        if average is not None:
            state["weights"], kept = kept, average.model.state_dict()
        notes = {"metrics": row, "metrics_sha256": digest_of(rows)}
        save_checkpoint(checkpoints, result.epoch, kept, state, notes)
        append_metrics(folder, row)
        if newest_only:
            delete_checkpoints(checkpoints, keep=checkpoint_epochs(checkpoints)[-STATES_KEPT:])
        progress.advance(f"loss {result.loss:.4f}")

    with Progress(title, optimization.epochs, start=first - 1) as progress, ExitStack() as stack:
        if meter is not None and ranks.is_main:
            stack.enter_context(meter.follow(optimizer))
            meter.start(rows, first - 1)
        try:
            fit(
                model,
                step,
                batches,
                optimizer,
                epochs=range(first, optimization.epochs + 1),
                seed=optimization.seed,
                runtime=runtime,
                schedule=SCHEDULES[optimization.schedule](optimization.epochs),
                on_epoch_end=record,
                on_step_end=after_step,
            )
        except FileNotFoundError:  # between two looks at the folder
            expect_folder(max(len(rows), first), 0)
            raise


def _folder_check(folder: Path) -> Callable[[int, int], None]:
    """Return a call for every step that looks once a second whether the folder is still there."""
    file, looked = folder / "config.yaml", time.monotonic()
    file = file if file.exists() else folder

    def check(epoch: int, step: int) -> None:
        nonlocal looked
        if step and time.monotonic() < looked + 1:
            return
        looked = time.monotonic()
        if not file.exists():
            raise TrainingStoppedError(
                f"the run folder {folder} is gone: it was moved or deleted during epoch {epoch}; epoch {epoch - 1} was "
                "its last complete one. Put it back and rerun the command to resume"
            )

    return check


def _check_finite(row: Mapping[str, Any]) -> None:
    """Refuse an epoch whose last step spoilt the weights, which its training loss does not show yet."""
    bad = [k for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)]
    if bad:
        raise TrainingStoppedError(
            f"{bad[0]} became {row[bad[0]]} after epoch {row['epoch']}'s last step; try a lower learning "
            "rate or float32 precision. Checkpoints of earlier epochs are intact"
        )


def _resume(
    folder: Path, model: nn.Module, average: WeightAverage | None
) -> tuple[MetricsRows, dict[str, Any] | None]:
    """Load the newest checkpoint; return its metrics lines and the optimiser's state, None without a checkpoint."""
    checkpoint = newest_resumable(folder / "checkpoints")
    if checkpoint is None:
        return rewrite_metrics(folder, 0, {}), None
    with reading(
        folder / "checkpoints", f"the weights of this network in epoch {checkpoint.epoch}"
    ):
        kept = model if average is None else average.model
        kept.load_state_dict(checkpoint.weights)
        if average is not None:
            model.load_state_dict(checkpoint.state["weights"])
    logger.info("resuming %s after epoch %d", folder, checkpoint.epoch)
    rows = rewrite_metrics(folder, checkpoint.epoch, checkpoint_notes(folder / "checkpoints"))
    return rows, checkpoint.state["optimizer"]
