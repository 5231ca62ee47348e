"""`fmce fmcs`: the phases that a run's FMCE-Net gives one checkpoint's maps of the test images."""

from pathlib import Path
from typing import Any

import torch

from fmce.config.choices import Split
from fmce.engine.runtime import Runtime, make_runtime
from fmce.feature_maps.extractor import MapExtractor
from fmce.feature_maps.source import MapBatch
from fmce.metrics.statistics import mean_sd
from fmce.models.fmce_net import expected_phase
from fmce.runs.checkpoint import checkpoint_path
from fmce.runs.run import Run
from fmce.tasks.fmce_net import score_maps

WARNING = (
    "An FMCE-Net recognises the checkpoints of the run it was trained on; on another seed's run its score "
    "is near chance. Read this score for that run only"
)


def fmcs(
    run: Run,
    *,
    epoch: int | None = None,
    checkpoint: Path | None = None,
    split: Split = "map",
    runtime: Runtime | None = None,
) -> dict[str, Any]:
    """Score the maps that one checkpoint gives the test images.

    Args:
        run: Has an FMCE-Net.
        epoch: Which checkpoint of the run; or
        checkpoint: A checkpoint folder or its model.safetensors, or any safetensors file of a state
            dict; of this run or another of the same model.
        split: Which FMCE-Net.
        runtime: Device and precision; memory order and TF32 are those of the run.

    Returns:
        Mean and standard deviation of the expected phase over images, fraction of images per phase,
        and for a checkpoint of the run with phases, the phase its epoch belongs to.

    Raises:
        ValueError: If neither or both of epoch and checkpoint are given, or the maps do not fit.
        FileNotFoundError: If checkpoint or FMCE-Net are missing.
    """
    setup = run.setup
    runtime = setup.with_run_memory_format(runtime or make_runtime())
    if (epoch is None) == (checkpoint is None):
        raise ValueError("name one checkpoint: either --epoch N or --checkpoint FOLDER")
    folder = checkpoint or checkpoint_path(run.path / "checkpoints", int(epoch or 0))
    if folder.name == "model.safetensors" and (folder.parent / "meta.json").exists():
        folder = folder.parent
    net = run.fmce_net(split).to(runtime.device)
    model = runtime.to_device(run.model_from(folder))
    extract = MapExtractor(model, setup.layer, runtime, setup.origin)
    # Their phase is not known; the class fills the field, which is not read.
    batches = (
        MapBatch(extract(batch.images), batch.targets, batch.image_index, batch.image_index)
        for batch in setup.batches(setup.data.test, runtime).epoch(0)
    )
    logits, _ = score_maps(net, batches, runtime)  # (N,K)
    mean, sd = mean_sd(expected_phase(logits).tolist())
    shares = torch.bincount(logits.argmax(1), minlength=logits.shape[1]) / len(logits)
    true_phase, place = None, folder.resolve()
    if place.parent == (run.path / "checkpoints").resolve() and run.has_phases:
        true_phase = run.phases.phase_at(int(place.name.removeprefix("epoch_")))
    return {
        "checkpoint": str(folder),
        "images": len(logits),
        "mean": mean,
        "sd": sd,
        "share_per_phase": shares.tolist(),
        "true_phase": true_phase,
        "warning": WARNING,
    }
