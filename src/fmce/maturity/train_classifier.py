"""`fmce train`: the original task, plain or with FMCE-Net++'s auxiliary loss, in a run folder that resumes."""

from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from fmce.config.io import defaults_of, to_yaml
from fmce.config.run import Keep, RunConfig, RuntimeConfig
from fmce.console.log import logger
from fmce.convergence.cqi import cqi
from fmce.convergence.phases import PhaseConfig
from fmce.convergence.smoothing import smooth_losses
from fmce.data.batch import ImageBatches
from fmce.data.classification.classification import ClassificationData, download_data
from fmce.engine.loop import EpochResult
from fmce.engine.runtime import Runtime, make_runtime
from fmce.maturity.auxiliary import _map_shape, _training_step, with_oracle_digest
from fmce.maturity.phases import run_phases
from fmce.models.checks import check_channels_last, check_classifier
from fmce.runs.checkpoint import delete_checkpoints
from fmce.runs.log import lock_run, mark_done, task_loss
from fmce.runs.resume import fit_resumable
from fmce.runs.run import (
    Run,
    make_transform,
)
from fmce.seeding import seed_epoch
from fmce.tasks.auxiliary_loss import mean_auxiliary
from fmce.tasks.classification import evaluate_classifier


def train_classifier(
    config: RunConfig,
    out: Path,
    *,
    runtime: Runtime | None = None,
    keep: Keep = "all",
    download: bool = False,
    read_test: bool = True,
) -> Run:
    """Train the original task; go on where an earlier process was stopped.

    Processes that torchrun started train together: the batch size is that of all of them.

    Args:
        config: the run; a folder of another config is refused, so asking a finished run for more
            epochs is an error too (its cosine schedule was cut for fewer).
        out: the run folder.
        runtime: the device, chosen automatically by default. How passes are computed is the config's
            `runtime` section; what differs here from the defaults goes into the run's config.
        keep: "markers" deletes, once phases are known, every checkpoint but the first, the markers' and the last;
            "last" keeps the newest two while it trains and the last at the end, with phases or without.
        download: fetch the data set first, if it is not there and torchvision can.
        read_test: evaluate on the test images at the end; off for runs that only choose a setting.

    Returns:
        The finished run. `phases.json` is there if the curve has phases; `DONE.json` says why not otherwise.

    Raises:
        ValueError: the config does not fit the data, the model or the oracle.
        FileExistsError: the folder holds something else.
        TrainingStoppedError: the loss became NaN or infinite.
    """
    config, runtime = merge_runtime(config, runtime or make_runtime(together=True))
    config, ranks = with_oracle_digest(config), runtime.ranks
    if download:
        # A download may take longer than ranks wait for one another.
        ranks.on_rank_zero_slowly(lambda: download_data(config.data.name, config.data.root))
    run = Run(out, config)
    data = run.data
    if data.source:
        logger.info(_describe_data(data))
    seed_epoch(config.train.seed, 0)
    model = run.new_model()  # before the oracle: same weights in both arms
    if runtime.channels_last or runtime.compile:
        check_channels_last(model, runtime.device)
    model = runtime.to_device(model)
    check_classifier(model, config.data.image_size, len(data.class_names))
    _map_shape(config, model)  # a layer that gives no map is told now, not epochs later
    # The step first: a wrong oracle must not leave a folder that belongs to a config of no use.
    text, defaults = to_yaml(config), defaults_of(RunConfig)
    claim = lock_run(out, text, defaults=defaults, ranks=ranks)
    with _training_step(config, model, runtime) as step, claim:
        done = ranks.on_rank_zero(lambda: run.done)
        if done is not None:
            logger.info("%s is finished already (%d epochs)", out, done["epochs"])
            ranks.on_rank_zero(lambda: _prune_checkpoints(run, keep))
            return run
        batches = ImageBatches(
            data.train,
            make_transform(config, data),
            config.train.batch_size,
            seed=config.train.seed,
            device=runtime.device,
            share=ranks.share,
        )
        fit_resumable(
            out,
            model,
            step,
            batches,
            epochs=config.train.epochs,
            learning_rate=config.train.learning_rate,
            seed=config.train.seed,
            runtime=runtime,
            schedule=config.train.schedule,
            measure=_measure(run, model, runtime),
            title=f"training {out.name}",
            newest_only=keep == "last",
        )
        _finish(run, model, runtime, keep, read_test)
    return run


def merge_runtime(config: RunConfig, runtime: Runtime) -> tuple[RunConfig, Runtime]:
    """Let config and runtime say the same of how passes are computed; the config is what is recorded."""
    given = {
        f.name: getattr(runtime, f.name)
        for f in fields(RuntimeConfig)
        if getattr(runtime, f.name) != f.default
    }
    section = replace(config.runtime, **given)
    return replace(config, runtime=section), replace(runtime, **asdict(section))


def _prune_checkpoints(run: Run, keep: Keep) -> None:
    """Delete the checkpoints that were not asked for; without phases "markers" keeps them all."""
    last = run.config.train.epochs
    if keep == "markers" and run.has_phases:
        delete_checkpoints(run.path / "checkpoints", keep={1, last, *run.phases.markers})
    elif keep == "last":
        delete_checkpoints(run.path / "checkpoints", keep={last})


def _describe_data(data: ClassificationData) -> str:
    counts = (
        f"{len(data.train)} train, {len(data.validation)} validation, {len(data.test)} test images"
    )
    return f"data {data.name}: {counts} of {len(data.class_names)} classes from {data.source}"


def _measure(
    run: Run, model: nn.Module, runtime: Runtime
) -> Callable[[EpochResult, list[dict[str, Any]]], dict[str, Any]]:
    """Return what an epoch's metrics line says beside the training loss."""
    validation = run.batches(run.data.validation, runtime)

    def measure(result: EpochResult, rows: list[dict[str, Any]]) -> dict[str, Any]:
        scores = evaluate_classifier(model, validation, runtime)
        losses = [task_loss(row) for row in rows] + [result.means.get("task_loss", result.loss)]
        return {
            **mean_auxiliary(result.means),
            "validation_loss": scores.loss,
            "validation_accuracy": scores.accuracy,
            "cqi": current_cqi(losses, run.config.phases),
        }

    return measure


def current_cqi(losses: list[float], config: PhaseConfig) -> float | None:
    """Return the CQI of the newest epoch; None in the first, where it is undefined."""
    if len(losses) < 2:
        return None
    smoothed = smooth_losses(losses, config.decay, config.smoothing)
    return float(cqi(smoothed, config.window)[-1])


def _finish(run: Run, model: nn.Module, runtime: Runtime, keep: Keep, read_test: bool) -> None:
    summary: dict[str, Any] = {"epochs": run.config.train.epochs}
    if read_test:
        test = evaluate_classifier(model, run.batches(run.data.test, runtime), runtime)
        summary |= {"test_accuracy": test.accuracy, "test_loss": test.loss}
        logger.info("test accuracy %.4f", test.accuracy)
    runtime.ranks.on_rank_zero(lambda: _find_phases(run, summary, keep))


def _find_phases(run: Run, summary: dict[str, Any], keep: Keep) -> None:
    """Write what is known at a run's end."""
    try:
        summary["markers"] = list(run_phases(run.path)[1].markers)
        logger.info("phase markers at epochs %s", summary["markers"])
    except ValueError as reason:
        summary["no_phases_because"] = str(reason)
        logger.info("no phases: %s", reason)
        if run.config.train.epochs > run.config.phases.num_phases:
            logger.info(
                "other settings need no new training: fmce phases %s --threshold MU", run.path
            )
    _prune_checkpoints(run, keep)
    mark_done(run.path, summary)
