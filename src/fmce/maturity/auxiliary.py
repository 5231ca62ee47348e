"""The training step that a config's auxiliary section asks for: plain, RAL or feature matching."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import nn

from fmce.config.run import AuxiliaryConfig, RunConfig
from fmce.data.batch import ImageBatch
from fmce.engine.loop import StepOutput
from fmce.engine.runtime import Runtime
from fmce.feature_maps.extractor import map_extractor
from fmce.models.build import feature_shape
from fmce.models.compiled import CompiledModel
from fmce.models.features import FeatureMaps
from fmce.models.fmce_net import FMCENet
from fmce.runs.checkpoint import checkpoint_path, file_digest
from fmce.runs.run import (
    Run,
    check_same_data,
    layer_of,
    open_run,
)
from fmce.tasks.auxiliary_loss import CapturedMaps, feature_matching_step, ral_step
from fmce.tasks.classification import classification_step

Step = Callable[[ImageBatch], StepOutput]


def with_oracle_digest(config: RunConfig) -> RunConfig:
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
        oracle.fmce_net(auxiliary.oracle_split, auxiliary.oracle_width)
        weights = oracle.fmce_net_file(auxiliary.oracle_split, auxiliary.oracle_width)
    return replace(config, auxiliary=replace(auxiliary, oracle_digest=file_digest(weights)))


@contextmanager
def _training_step(config: RunConfig, model: nn.Module, runtime: Runtime) -> Iterator[Step]:
    """Give the step that the config's auxiliary section asks for, with its hooks in place meanwhile."""
    auxiliary = config.auxiliary
    if auxiliary.kind == "none":
        with CompiledModel(model) if runtime.compile else nullcontext(model) as network:
            yield classification_step(network)
        return
    layer = layer_of(config, model)
    oracle_run = open_run(str(auxiliary.oracle))
    if auxiliary.init == "checkpoint":
        _check_same_model(config, oracle_run)
        start = oracle_run.model(oracle_run.phases.convergence_epoch)
        model.load_state_dict(start.state_dict())
    if auxiliary.kind == "feature_matching":
        _check_same_model(config, oracle_run)
        teacher = map_extractor(oracle_run, oracle_run.phases.convergence_epoch, runtime)
        with _capturing(model, layer, runtime) as (network, maps):
            yield feature_matching_step(
                network, maps, layer, teacher, raf=auxiliary.raf, ranks=runtime.ranks
            )
        return
    oracle = runtime.to_device(load_oracle(auxiliary, oracle_run, config.train.seed))
    _check_map_shape(config, model, oracle, oracle_run)
    with _capturing(model, layer, runtime) as (network, maps):
        yield ral_step(
            network,
            maps,
            layer,
            oracle,
            raf=auxiliary.raf,
            target_phase=auxiliary.target_phase,
            oracle_every=auxiliary.oracle_every,
            oracle_batch_fraction=auxiliary.oracle_batch_fraction,
        )


@contextmanager
def _capturing(
    model: nn.Module, layer: str, runtime: Runtime
) -> Iterator[tuple[nn.Module, CapturedMaps]]:
    """Give the network to train with and the maps that its latest call left at the layer."""
    if runtime.compile:
        with CompiledModel(model, layer) as compiled:
            yield compiled, compiled
    else:
        with FeatureMaps(model, layer, keep_gradients=True) as maps:
            yield model, maps


def load_oracle(auxiliary: AuxiliaryConfig, run: Run, seed: int) -> FMCENet:
    """Return the frozen FMCE-Net, or one of its shape with random weights for the control."""
    oracle = run.fmce_net(auxiliary.oracle_split, auxiliary.oracle_width)
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
    return feature_shape(model, layer_of(config, model), (3, side, side), device)


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
