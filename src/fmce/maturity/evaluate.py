"""`fmce evaluate`: a run's classifier at each marker, and its FMCE-Net on maps of test images and of other runs."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from fmce.config.choices import Split
from fmce.config.io import read_yaml, with_settings
from fmce.config.run import FMCENetConfig
from fmce.digests import read_record, write_record
from fmce.engine.runtime import Runtime, make_runtime
from fmce.maturity.train_fmce_net import measure_on_test_images
from fmce.runs.run import Run, check_same_data
from fmce.tasks.classification import evaluate_classifier

_OF_TRAINING = {f.name for f in fields(FMCENetConfig)} - {"width", "storage", "shuffle_buffer"}


def evaluate(
    run: Run,
    split: Split = "map",
    *,
    others: Sequence[Run] = (),
    settings: Sequence[str] = (),
    runtime: Runtime | None = None,
) -> dict[str, Any]:
    """Evaluate a run's classifier and FMCE-Net on the test images; write `evaluation.json`.

    Args:
        run: Has phases and an FMCE-Net.
        split: Which FMCE-Net.
        others: Runs whose maps FMCE-Net scores too, though it was not trained on them.
        settings: `field=value` on top of the `fmce_net` sections: "width=0.25" chooses the FMCE-Net,
            "storage=stored" and "shuffle_buffer=512" decide how the other runs' maps are read.
        runtime: Device and precision; memory order and TF32 are those of the run.

    Returns:
        "classifier" (one row per marker), "fmce_net" (held-out maps, test images) and "other_runs".

    Raises:
        FileNotFoundError: If phases, checkpoints or the FMCE-Net are missing.
        ValueError: If another run's maps have another shape or number of phases, or a setting
            concerns training.
    """
    runtime = run.setup.with_run_memory_format(runtime or make_runtime())
    for other in others:
        check_same_data(run.config, other)
    width = _with_settings(run, settings).width
    net = run.fmce_net(split, width).to(runtime.device)
    trained = net_metrics(run.fmce_net_folder(split, width))
    classifier = []
    test = run.setup.batches(run.setup.data.test, runtime)
    # A recorded network may be no classifier, or its images may have no classes.
    classifies = run.own is None or (run.own.labelled and _gives_logits(run, runtime))
    for phase, epoch in enumerate(run.marker_epochs if classifies else (), start=1):
        scores = evaluate_classifier(runtime.to_device(run.model(epoch)), test, runtime)
        row = {"phase": phase, "epoch": epoch, "test_accuracy": scores.accuracy}
        classifier.append({**row, "test_loss": scores.loss})
    other_runs = {}
    for other in others:
        config = _with_settings(other, settings)
        try:
            measured = measure_on_test_images(net, other, runtime, config)
        except ValueError as error:
            raise ValueError(f"{other.path} does not fit this FMCE-Net: {error}") from error
        other_runs[str(other.path)] = measured.to_dict()
    result = {
        "split": split,
        "width": width,
        "classifier": classifier,
        "fmce_net": {key: trained[key] for key in ("held_out", "test_images")},
        "other_runs": other_runs,
    }
    write_record(run.path / "evaluation.json", result)
    return result


@torch.no_grad()
def _gives_logits(run: Run, runtime: Runtime) -> bool:
    """Return whether the network gives one row of logits (B,classes) per image."""
    images = run.setup.images(run.setup.data.test, runtime)(torch.arange(1))
    output = runtime.to_device(run.model(run.marker_epochs[-1]))(images)
    return isinstance(output, torch.Tensor) and output.ndim == 2


def _with_settings(run: Run, settings: Sequence[str]) -> FMCENetConfig:
    """Return a run's fmce_net section with what concerns a trained FMCE-Net; refuse the rest."""
    for setting in settings:
        if setting.partition("=")[0].strip() in _OF_TRAINING:
            raise ValueError(
                f"{setting!r} is for training an FMCE-Net (fmce train-net); here width chooses one, and "
                "storage and shuffle_buffer decide how the other runs' maps are read"
            )
    return with_settings(run.config.fmce_net, settings)


def net_metrics(folder: Path) -> dict[str, Any]:
    """Return what the training of an FMCE-Net noted in its folder.

    Raises:
        FileNotFoundError: If it was not finished.
        ValueError: If the file is damaged.
    """
    needed = ("held_out", "test_images", "held_out_runs")
    return read_record(
        folder / "metrics.json", needed, f"delete {folder} and repeat fmce train-net"
    )


def runs_trained_on(run: Run, split: Split, width: float) -> set[Path]:
    """Return the folders of the runs whose maps an FMCE-Net was trained on, as absolute paths."""
    folder = run.fmce_net_folder(split, width)
    others = [other["path"] for other in read_yaml(folder / "config.yaml")["others"]]
    held_out = net_metrics(folder)["held_out_runs"]
    known = {run.path.resolve(), *(Path(path).resolve() for path in others)}
    return known - {Path(path).resolve() for path in held_out}
