"""`fmce train`: the original task, plain or with FMCE-Net++'s auxiliary loss, in a run folder that resumes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fmce.config.choices import Keep
from fmce.config.io import defaults_of, to_yaml
from fmce.config.run import RunConfig
from fmce.console.log import logger
from fmce.engine.loop import EpochResult
from fmce.engine.runtime import Runtime, make_runtime
from fmce.engine.weight_average import WeightAverage
from fmce.maturity.auxiliary import training_step
from fmce.maturity.prepare import prepare
from fmce.recorder.meter import ModuleMeter, meter_or_none
from fmce.recorder.status import current_cqi
from fmce.runs.checkpoint import delete_checkpoints
from fmce.runs.log import lock_run, mark_done, task_loss
from fmce.runs.phases import run_phases
from fmce.runs.resume import MetricsRows, Optimization, finished, fit_resumable
from fmce.runs.run import Run
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
    """Train the original task; a stopped training resumes.

    Processes that torchrun started train together: the batch size is that of all of them.

    Args:
        config: The run; a folder of another config is refused, so asking a finished run for more
            epochs is an error too (its cosine schedule was cut for fewer).
        out: The run folder.
        runtime: The device, chosen automatically by default. How passes are computed is the config's
            `runtime` section; what differs here from the defaults goes into the run's config.
        keep: "markers" deletes, once phases are known, every checkpoint but the first, the markers' and the last;
            "last" keeps the newest two during training and the last at the end, with phases or without.
        download: Fetch the data set first, if it is missing and torchvision can.
        read_test: Evaluate on the test images at the end; off for runs that only choose a setting.

    Returns:
        The finished run. It has `phases.json` if the curve has phases; if not, `DONE.json` gives the reason.

    Raises:
        ValueError: If the config does not fit the data, the model or the oracle.
        FileExistsError: If the folder holds something else.
        TrainingStoppedError: If the loss became NaN or infinite.
    """
    runtime = runtime or make_runtime(together=True)
    run, model, runtime = prepare(config, out, runtime, download=download)
    config, ranks = run.config, runtime.ranks
    claim = lock_run(out, to_yaml(config), defaults=defaults_of(RunConfig), ranks=ranks)
    # The step first: a wrong oracle must not leave a folder that belongs to a config of no use.
    with training_step(run.training, model, runtime) as step, claim:
        done = ranks.on_rank_zero(lambda: finished(out))
        if done is not None:
            logger.info("%s is finished already (%d epochs)", out, done["epochs"])
            ranks.on_rank_zero(lambda: _restore_phases(run, done))
            ranks.on_rank_zero(lambda: _prune_checkpoints(run, keep))
            return run
        section, average = config.train, None
        if section.weight_average:
            average = WeightAverage(model, section.weight_average)
        kept = model if average is None else average.model
        fit_resumable(
            out,
            model,
            step,
            run.training.training_batches(runtime),
            Optimization(
                *(section.epochs, section.learning_rate, section.seed, section.schedule), average
            ),
            runtime,
            measure=_measure(run, kept, runtime),
            title=f"training {out.name}",
            newest_only=keep == "last",
            meter=_meter(run, model, runtime),
        )
        summary: dict[str, Any] = {"epochs": section.epochs}
        if read_test:
            test = run.training.batches(run.training.data.test, runtime)
            scores = evaluate_classifier(kept, test, runtime)
            summary |= {"test_accuracy": scores.accuracy, "test_loss": scores.loss}
            logger.info("test accuracy %.4f", scores.accuracy)
        ranks.on_rank_zero(lambda: _finish(run, summary, keep))
    return run


def _restore_phases(run: Run, done: Mapping[str, Any]) -> None:
    """Find the phases of a finished run again where their file was lost."""
    if "markers" in done and not (file := run.path / "phases.json").exists():
        logger.warning("%s is missing; the phases are found again", file)
        run_phases(run.path)


def _prune_checkpoints(run: Run, keep: Keep) -> None:
    """Delete the checkpoints that were not asked for; without phases "markers" keeps them all."""
    last = run.config.train.epochs
    if keep == "markers" and run.has_phases:
        delete_checkpoints(run.path / "checkpoints", keep={1, last, *run.phases.markers})
    elif keep == "last":
        delete_checkpoints(run.path / "checkpoints", keep={last})


def _meter(run: Run, model: nn.Module, runtime: Runtime) -> ModuleMeter | None:
    """Return what measures the modules, on unvaried validation images."""
    section, validation = run.config.recorder, run.training.data.validation
    count = min(section.probe_images, len(validation))
    probe = run.training.images(validation, runtime)(torch.arange(count)) if count else None
    return meter_or_none(run.path, model, probe, section.modules, frozen=section.frozen)


def _measure(
    run: Run, model: nn.Module, runtime: Runtime
) -> Callable[[EpochResult, MetricsRows], dict[str, Any]]:
    """Return what is measured at an epoch's end beside the training loss."""
    validation = run.training.batches(run.training.data.validation, runtime)

    def measure(result: EpochResult, rows: MetricsRows) -> dict[str, Any]:
        scores = evaluate_classifier(model, validation, runtime)
        losses = [task_loss(row) for row in rows] + [result.means.get("task_loss", result.loss)]
        return {
            **mean_auxiliary(result.means),
            "validation_loss": scores.loss,
            "validation_accuracy": scores.accuracy,
            "cqi": current_cqi(losses, run.config.phases),
        }

    return measure


def _finish(run: Run, summary: dict[str, Any], keep: Keep) -> None:
    """Find the phases, prune the checkpoints and write `DONE.json`."""
    try:
        summary["markers"] = list(run_phases(run.path)[1].markers)
        logger.info("phase markers at epochs %s", summary["markers"])
    except ValueError as reason:
        summary["no_phases_because"] = str(reason)
        logger.info("no phases: %s", reason)
        if run.config.train.epochs > run.config.phases.num_phases:
            logger.info("to try other settings: fmce phases %s --threshold MU", run.path)
    _prune_checkpoints(run, keep)
    mark_done(run.path, summary)
