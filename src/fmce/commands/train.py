"""`fmce train`: the original task, plain or with FMCE-Net++'s auxiliary loss, in a run folder that resumes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fmce.commands.phases import run_phases
from fmce.configs import AuxiliaryConfig, Keep, RunConfig, RuntimeConfig, defaults_of, to_yaml
from fmce.convergence.cqi import cqi
from fmce.convergence.phases import PhaseConfig
from fmce.convergence.smoothing import smooth_losses
from fmce.data.batch import ImageBatch, ImageBatches
from fmce.data.classification import ClassificationData, download_data
from fmce.engine.checkpoint import checkpoint_path, delete_checkpoints, file_digest
from fmce.engine.loop import EpochResult, StepOutput
from fmce.engine.resumable import fit_in_folder
from fmce.engine.runlog import mark_done, open_for_writing
from fmce.engine.runtime import Runtime, make_runtime
from fmce.engine.seeding import seed_epoch
from fmce.models.build import feature_shape
from fmce.models.checks import check_channels_last, check_classifier
from fmce.models.compiled import CompiledModel
from fmce.models.features import FeatureMaps
from fmce.models.fmce_net import FMCENet
from fmce.run_folder import (
    Run,
    check_same_data,
    make_transform,
    open_run,
    tap_of,
    task_loss,
)
from fmce.tasks.classify import classification_step, evaluate_classifier
from fmce.tasks.with_ral import CapturedMaps, feature_matching_step, mean_auxiliary, ral_step

Step = Callable[[ImageBatch], StepOutput]


def train(
    config: RunConfig,
    out: Path,
    *,
    runtime: Runtime | None = None,
    keep: Keep = "all",
    download: bool = False,
    read_test: bool = True,
    quiet: bool = False,
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
        quiet: print no progress.

    Returns:
        The finished run. `phases.json` is there if the curve has phases; `DONE.json` says why not otherwise.

    Raises:
        ValueError: the config does not fit the data, the model or the oracle.
        FileExistsError: the folder holds something else.
        TrainingStoppedError: the loss became NaN or infinite.
    """
    config, runtime = settled(config, runtime or make_runtime(together=True))
    config, ranks = as_recorded(config), runtime.ranks
    quiet = quiet or not ranks.first
    if download:
        # A download may take longer than ranks wait for one another.
        ranks.from_first_slowly(lambda: download_data(config.data.name, config.data.root))
    run = Run(out, config)
    data = run.data
    _say(quiet or not data.source, _about(data))
    seed_epoch(config.train.seed, 0)
    model = run.new_model()  # before the oracle: same weights in both arms
    if runtime.channels_last or runtime.compile:
        check_channels_last(model, runtime.device)
    model = runtime.put(model)
    check_classifier(model, config.data.image_size, len(data.class_names))
    _map_shape(config, model)  # a tap that gives no map is told now, not epochs later
    # The step first: a wrong oracle must not leave a folder that belongs to a config of no use.
    text, defaults = to_yaml(config), defaults_of(RunConfig)
    claim = open_for_writing(out, text, defaults=defaults, ranks=ranks)
    with _training_step(config, model, runtime) as step, claim:
        done = ranks.from_first(lambda: run.done)
        if done is not None:
            _say(quiet, f"{out} is finished already ({done['epochs']} epochs)")
            ranks.from_first(lambda: _thin_out(run, keep))
            return run
        batches = ImageBatches(
            data.train,
            make_transform(config, data),
            config.train.batch_size,
            seed=config.train.seed,
            device=runtime.device,
            share=ranks.share,
        )
        fit_in_folder(
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
            quiet=quiet,
            newest_only=keep == "last",
        )
        _finish(run, model, runtime, keep, read_test, quiet)
    return run


def settled(config: RunConfig, runtime: Runtime) -> tuple[RunConfig, Runtime]:
    """Let config and runtime say the same of how passes are computed; the config is what is recorded."""
    given = {
        f.name: getattr(runtime, f.name)
        for f in fields(RuntimeConfig)
        if getattr(runtime, f.name) != f.default
    }
    section = replace(config.runtime, **given)
    return replace(config, runtime=section), replace(runtime, **asdict(section))


def as_recorded(config: RunConfig) -> RunConfig:
    """Return the config as its run folder keeps it: with the digest of the oracle's weights.

    Raises:
        ValueError: the oracle cannot supervise this run: other images, or the same seed.
        FileNotFoundError: the oracle's FMCE-Net or checkpoint is not there.
    """
    auxiliary = config.auxiliary
    if auxiliary.kind == "none":
        return config
    oracle = open_run(str(auxiliary.oracle))
    check_same_data(config, oracle)
    if config.train.seed == oracle.config.train.seed and not auxiliary.same_seed:
        raise ValueError(
            f"seed {config.train.seed} is the oracle's own, and an arm of that seed may only be pulled to its "
            "own checkpoint; take another --seed, or --set auxiliary.same_seed=true to do it all the same"
        )
    if auxiliary.kind == "feature_matching":
        checkpoint = checkpoint_path(oracle.path / "checkpoints", oracle.phases.convergence_epoch)
        weights = checkpoint / "model.safetensors"
        if not weights.exists():
            raise FileNotFoundError(
                f"feature matching needs {weights}, the oracle run's checkpoint E_K"
            )
    else:
        oracle.scorer(auxiliary.oracle_split, auxiliary.oracle_width)
        weights = oracle.scorer_file(auxiliary.oracle_split, auxiliary.oracle_width)
    return replace(config, auxiliary=replace(auxiliary, oracle_digest=file_digest(weights)))


def _thin_out(run: Run, keep: Keep) -> None:
    """Delete the checkpoints that were not asked for; without phases "markers" keeps them all."""
    last = run.config.train.epochs
    if keep == "markers" and run.has_phases:
        delete_checkpoints(run.path / "checkpoints", keep={1, last, *run.phases.markers})
    elif keep == "last":
        delete_checkpoints(run.path / "checkpoints", keep={last})


def _about(data: ClassificationData) -> str:
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


def _finish(
    run: Run, model: nn.Module, runtime: Runtime, keep: Keep, read_test: bool, quiet: bool
) -> None:
    summary: dict[str, Any] = {"epochs": run.config.train.epochs}
    if read_test:
        test = evaluate_classifier(model, run.batches(run.data.test, runtime), runtime)
        summary |= {"test_accuracy": test.accuracy, "test_loss": test.loss}
        _say(quiet, f"test accuracy {test.accuracy:.4f}")
    runtime.ranks.from_first(lambda: _find_phases(run, summary, keep, quiet))


def _find_phases(run: Run, summary: dict[str, Any], keep: Keep, quiet: bool) -> None:
    """Write what is known at a run's end."""
    try:
        summary["markers"] = list(run_phases(run.path)[1].markers)
        _say(quiet, f"phase markers at epochs {summary['markers']}")
    except ValueError as reason:
        summary["no_phases_because"] = str(reason)
        _say(quiet, f"no phases: {reason}")
        if run.config.train.epochs > run.config.phases.num_phases:
            _say(
                quiet, f"other settings need no new training: fmce phases {run.path} --threshold MU"
            )
    _thin_out(run, keep)
    mark_done(run.path, summary)


@contextmanager
def _training_step(config: RunConfig, model: nn.Module, runtime: Runtime) -> Iterator[Step]:
    """Give the step that the config's auxiliary section asks for, with its hooks in place meanwhile."""
    auxiliary = config.auxiliary
    if auxiliary.kind == "none":
        with CompiledModel(model) if runtime.compile else nullcontext(model) as network:
            yield classification_step(network)
        return
    tap = tap_of(config, model)
    oracle_run = open_run(str(auxiliary.oracle))
    if auxiliary.init == "checkpoint":
        _check_same_model(config, oracle_run)
        start = oracle_run.model(oracle_run.phases.convergence_epoch)
        model.load_state_dict(start.state_dict())
    if auxiliary.kind == "feature_matching":
        _check_same_model(config, oracle_run)
        teacher = oracle_run.extractor(oracle_run.phases.convergence_epoch, runtime)
        with _capturing(model, tap, runtime) as (network, maps):
            yield feature_matching_step(
                network, maps, tap, teacher, raf=auxiliary.raf, ranks=runtime.ranks
            )
        return
    oracle = runtime.put(load_oracle(auxiliary, oracle_run, config.train.seed))
    _check_map_shape(config, model, oracle, oracle_run)
    with _capturing(model, tap, runtime) as (network, maps):
        yield ral_step(
            network,
            maps,
            tap,
            oracle,
            raf=auxiliary.raf,
            target_phase=auxiliary.target_phase,
            every=auxiliary.every,
            batch_share=auxiliary.batch_share,
        )


@contextmanager
def _capturing(
    model: nn.Module, tap: str, runtime: Runtime
) -> Iterator[tuple[nn.Module, CapturedMaps]]:
    """Give the network to train with and the maps that its latest call left at the tap."""
    if runtime.compile:
        with CompiledModel(model, tap) as compiled:
            yield compiled, compiled
    else:
        with FeatureMaps(model, tap, keep_gradients=True) as maps:
            yield model, maps


def load_oracle(auxiliary: AuxiliaryConfig, run: Run, seed: int) -> FMCENet:
    """Return the frozen FMCE-Net, or one of its shape with random weights for the control."""
    oracle = run.scorer(auxiliary.oracle_split, auxiliary.oracle_width)
    check_target_phase(auxiliary, oracle.num_phases)
    if auxiliary.oracle_weights == "random":
        generator_state = torch.random.get_rng_state()
        torch.manual_seed(seed)
        oracle = FMCENet(oracle.map_shape, oracle.num_phases, width=oracle.width)
        torch.random.set_rng_state(generator_state)
    return oracle.eval().requires_grad_(False)


def check_target_phase(auxiliary: AuxiliaryConfig, num_phases: int) -> None:
    """Refuse a target phase that an oracle of so many phases does not know.

    Raises:
        ValueError: it is none of them.
    """
    phase = auxiliary.target_phase
    if phase is not None and not 1 <= phase <= num_phases:
        raise ValueError(
            f"auxiliary.target_phase must be in 1…{num_phases}, the oracle's phases, got {phase}"
        )


def _map_shape(config: RunConfig, model: nn.Module) -> tuple[int, int, int]:
    side = config.data.image_size
    device = next(model.parameters()).device
    return feature_shape(model, tap_of(config, model), (3, side, side), device)


def _check_map_shape(config: RunConfig, model: nn.Module, oracle: FMCENet, oracle_run: Run) -> None:
    shape = _map_shape(config, model)
    if shape != oracle.map_shape:
        raise ValueError(
            f"this run's maps are {shape} but the FMCE-Net of {oracle_run.path} takes {oracle.map_shape}; "
            "use an oracle of the same model and image size"
        )


def _check_same_model(config: RunConfig, oracle_run: Run) -> None:
    ours, theirs = config.model, oracle_run.config.model
    if (ours, config.data.image_size) != (theirs, oracle_run.config.data.image_size):
        raise ValueError(
            f"this needs the oracle run's own model and image size: here {ours.name} at "
            f"{config.data.image_size}, there {theirs.name} at {oracle_run.config.data.image_size}"
        )


def _say(quiet: bool, text: str) -> None:
    if not quiet:
        print(text, flush=True)
