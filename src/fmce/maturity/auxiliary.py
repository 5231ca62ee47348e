"""The training step that a config's auxiliary section asks for: plain, RAL or a control of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from fmce.config.run import AuxiliaryConfig
from fmce.config.trust import function_names
from fmce.data.batch import ImageBatch
from fmce.engine.loop import StepOutput
from fmce.engine.runtime import Runtime
from fmce.feature_maps.extractor import map_extractor
from fmce.models.compiled import CompiledModel
from fmce.models.features import FeatureMaps
from fmce.models.fmce_net import FMCENet
from fmce.runs.run import Run, open_run
from fmce.runs.setup import TrainingSetup
from fmce.tasks.auxiliary_loss import (
    CapturedMaps,
    feature_matching_step,
    ral_step,
    ridge_probe_step,
)
from fmce.tasks.classification import classification_step

Step = Callable[[ImageBatch], StepOutput]


@contextmanager
def training_step(setup: TrainingSetup, model: nn.Module, runtime: Runtime) -> Iterator[Step]:
    """Yield the step that the config's auxiliary section asks for, with its hooks in place meanwhile.

    The network is on the device; with `auxiliary.init: checkpoint` it takes the weights that the oracle's run
    had at E_K.

    Raises:
        ValueError: If the oracle does not fit the network or its maps.
        FileNotFoundError: If the oracle's FMCE-Net or checkpoint is missing.
    """
    auxiliary, smoothing = setup.config.auxiliary, setup.config.train.label_smoothing
    if auxiliary.kind == "none":
        with _compiled(model, None, runtime) or nullcontext(model) as network:
            yield classification_step(network, smoothing)
        return
    layer = setup.layer_of(model)
    if auxiliary.kind == "ridge_probe":
        if runtime.ranks.world_size > 1:
            raise ValueError(
                "auxiliary.kind=ridge_probe needs every batch in one process; train it without torchrun"
            )
        with _capturing(model, layer, runtime) as (network, maps):
            yield ridge_probe_step(network, maps, layer, raf=auxiliary.raf, smoothing=smoothing)
        return
    oracle_run = open_run(str(auxiliary.oracle), trust=function_names(setup.config))
    matching = auxiliary.kind == "feature_matching"
    if matching or auxiliary.init == "checkpoint":
        _check_same_model(setup, oracle_run)
    if auxiliary.init == "checkpoint":
        start = oracle_run.model(oracle_run.phases.convergence_epoch)
        model.load_state_dict(start.state_dict())
    if matching:
        teacher = map_extractor(oracle_run, oracle_run.phases.convergence_epoch, runtime)
        how: dict[str, Any] = {"raf": auxiliary.raf, "ranks": runtime.ranks}
        how["smoothing"] = smoothing
        with _capturing(model, layer, runtime) as (network, maps):
            yield feature_matching_step(network, maps, layer, teacher, **how)
        return
    oracle = runtime.to_device(load_oracle(auxiliary, oracle_run, setup.config.train.seed))
    if (shape := setup.map_shape(model)) != oracle.map_shape:
        raise ValueError(
            f"this run's maps are {shape} but the FMCE-Net of {oracle_run.path} takes {oracle.map_shape}; "
            "use an oracle of the same model and image size"
        )
    fields = ("raf", "target_phase", "oracle_every", "oracle_batch_fraction")
    how = {name: getattr(auxiliary, name) for name in fields} | {"smoothing": smoothing}
    with _capturing(model, layer, runtime) as (network, maps):
        yield ral_step(network, maps, layer, oracle, **how)


@contextmanager
def _capturing(
    model: nn.Module, layer: str, runtime: Runtime
) -> Iterator[tuple[nn.Module, CapturedMaps]]:
    """Yield the network to train with and the maps that its latest call left at the layer."""
    if compiled := _compiled(model, layer, runtime):
        with compiled:
            yield compiled, compiled
    else:
        with FeatureMaps(model, layer, keep_gradients=True) as maps:
            yield model, maps


def _compiled(model: nn.Module, layer: str | None, runtime: Runtime) -> CompiledModel | None:
    """Return the model to train through, where the runtime asks for one."""
    if runtime.compile or runtime.cuda_graphs:
        return CompiledModel(model, layer, replay=runtime.cuda_graphs)
    return None


def load_oracle(auxiliary: AuxiliaryConfig, run: Run, seed: int) -> FMCENet:
    """Return the frozen FMCE-Net, or for the control one of its shape with random weights drawn by `seed`."""
    oracle = run.fmce_net(auxiliary.oracle_split, auxiliary.oracle_width)
    check_target_phase(auxiliary, oracle.num_phases)
    if auxiliary.oracle_weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            oracle = FMCENet(oracle.map_shape, oracle.num_phases, width=oracle.width)
    return oracle.eval().requires_grad_(False)


def check_target_phase(auxiliary: AuxiliaryConfig, num_phases: int) -> None:
    """Refuse a target phase that an oracle of so many phases does not know."""
    phase = auxiliary.target_phase
    if phase is not None and not 1 <= phase <= num_phases:
        raise ValueError(
            f"auxiliary.target_phase must be in 1…{num_phases}, the oracle's phases, got {phase}"
        )


def _check_same_model(setup: TrainingSetup, oracle_run: Run) -> None:
    ours, theirs = setup.config, oracle_run.config
    if (ours.model, ours.data.image_size) != (theirs.model, theirs.data.image_size):
        raise ValueError(
            f"this needs the oracle run's own model and image size: here {ours.model.name} at "
            f"{ours.data.image_size}, there {theirs.model.name} at {theirs.data.image_size}"
        )
