"""`fit` in a run folder: a checkpoint and a metrics line after every epoch, and on from there after a kill."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fmce.console.log import logger
from fmce.console.progress import Progress
from fmce.engine.loop import (
    SCHEDULES,
    Batches,
    EpochResult,
    StepOutput,
    TrainingStoppedError,
    fit,
)
from fmce.engine.runtime import Runtime
from fmce.runs.checkpoint import (
    STATES_KEPT,
    checkpoint_epochs,
    checkpoint_metrics,
    delete_checkpoints,
    newest_resumable,
    quarantine,
    save_checkpoint,
)
from fmce.runs.log import append_metrics, rewrite_metrics


def fit_resumable(
    folder: Path,
    model: nn.Module,
    step: Callable[[Any], StepOutput],
    batches: Batches,
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
    runtime: Runtime,
    schedule: str = "cosine",
    measure: Callable[
        [EpochResult, list[dict[str, Any]]], Mapping[str, Any]
    ] = lambda _r, _rows: {},
    title: str = "training",
    newest_only: bool = False,
) -> None:
    """Train with Adam for `epochs` in all, counting those that the folder holds already.

    Args:
        folder: run folder this process owns (`runlog.lock_run`).
        model: freshly built, on the device; gets the newest checkpoint's weights where there is one.
        step: forward pass of one batch.
        batches: training data.
        epochs: last epoch.
        learning_rate: peak.
        seed: of the run.
        runtime: device and precision; of several ranks, the first writes.
        schedule: name in `loop.SCHEDULES`.
        measure: epoch's result and earlier metrics lines → further fields of the epoch's line.
        title: names the work in the progress display.
        newest_only: keep no more checkpoints than a resume may need.
    """
    # fused: one kernel for all weights, where a small network's step would mostly be Adam's.
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    ranks = runtime.ranks
    # Read once: ranks that each chose a checkpoint might choose unlike ones, or see other disks.
    rows, state = ranks.on_rank_zero(lambda: _resume(folder, model))
    if state is not None:
        optimizer.load_state_dict(state)
    first = len(rows) + 1

    def record(result: EpochResult) -> None:
        row = {
            "epoch": result.epoch,
            "loss": result.loss,
            **result.means,
            "learning_rate": result.learning_rate,
        }
        row |= {**measure(result, rows), "time_seconds": result.time_seconds}
        _check_finite(row)
        rows.append(row)
        if not ranks.is_main:
            return
        state = {"optimizer": optimizer.state_dict()}
        save_checkpoint(
            folder / "checkpoints", result.epoch, model.state_dict(), state, {"metrics": row}
        )
        append_metrics(folder, row)
        if newest_only:
            newest = checkpoint_epochs(folder / "checkpoints")[-STATES_KEPT:]
            delete_checkpoints(folder / "checkpoints", keep=newest)
        progress.advance(f"loss {result.loss:.4f}")

    with Progress(title, epochs, start=first - 1) as progress:
        fit(
            model,
            step,
            batches,
            optimizer,
            epochs=epochs,
            seed=seed,
            runtime=runtime,
            schedule=SCHEDULES[schedule](epochs),
            first_epoch=first,
            on_epoch_end=record,
        )


def _check_finite(row: Mapping[str, Any]) -> None:
    """Refuse an epoch whose last step spoilt the weights, which its training loss does not show yet."""
    bad = [k for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)]
    if bad:
        raise TrainingStoppedError(
            f"{bad[0]} became {row[bad[0]]} after epoch {row['epoch']}'s last step; try a lower learning "
            "rate or float32 precision. Checkpoints of earlier epochs are whole"
        )


def _resume(folder: Path, model: nn.Module) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Load the newest whole checkpoint.

    Returns:
        The metrics lines up to it, one an epoch, and the optimiser's state; None without a checkpoint.
    """
    checkpoint, problems = newest_resumable(folder / "checkpoints")
    for problem in problems:
        logger.warning("skipping a damaged checkpoint, %s", problem)
    # Damaged ones that are newer would count as the newest two, which alone keep optimiser state.
    last = 0 if checkpoint is None else checkpoint.epoch
    unusable = [e for e in checkpoint_epochs(folder / "checkpoints") if e > last]
    if unusable:
        aside = quarantine(folder / "checkpoints", unusable)
        logger.warning("moved checkpoints of epochs %s to %s", unusable, aside)
    if checkpoint is None or checkpoint.state is None:
        if problems:
            logger.warning("no checkpoint is left to resume from; starting again")
        return rewrite_metrics(folder, 0, {}), None
    model.load_state_dict(checkpoint.weights)
    logger.info("resuming %s after epoch %d", folder, checkpoint.epoch)
    rows = rewrite_metrics(folder, checkpoint.epoch, checkpoint_metrics(folder / "checkpoints"))
    return rows, checkpoint.state["optimizer"]
