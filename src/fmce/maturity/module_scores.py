"""`fmce score`: how mature each module of a run is at its checkpoints, with what the scores are compared with."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmce.console.progress import Progress
from fmce.engine.runtime import Runtime, make_runtime
from fmce.models.features import eval_mode
from fmce.recorder.history import recorded_histories
from fmce.recorder.module_names import default_modules, probeable
from fmce.recorder.probe import parts_of
from fmce.recorder.statistics import module_statistics, twin_statistics
from fmce.runs.run import Run
from fmce.scoring.history import ModuleHistory
from fmce.scoring.scorer import FORMS, Labels, MaturityScorer, MaturityScores, shipped_scorer

IMAGES, MOST_EPOCHS = 768, 16
BASELINES = ("share_of_schedule", "head_loss", "probe_error", "mean_activation", "weight_norm")
"""What a score is compared with. Losses, errors, activations and norms are natural logarithms."""


@dataclass(frozen=True)
class ScoredModule:
    """One module's scores at each measured epoch.

    Args:
        name: The module, or one of its outputs.
        within_run: Its place between its re-initialised twin and the run's end.
        snapshot: What each checkpoint shows by itself.
        baselines: Name of `BASELINES` → a value per epoch; None where it is not known.
    """

    name: str
    within_run: MaturityScores
    snapshot: MaturityScores
    baselines: Mapping[str, list[float | None]]

    @property
    def snapshot_order(self) -> list[int | None]:
        """The place of each epoch in the order of the snapshot scores, from 1."""
        values = self.snapshot.values
        place = {int(n): p for p, n in enumerate(np.argsort(values, kind="stable"), start=1)}
        return [place[n] if math.isfinite(v) else None for n, v in enumerate(values)]

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as JSON values."""
        return {
            "name": self.name,
            "within_run": self.within_run.to_dict(),
            "snapshot": self.snapshot.to_dict(),
            "snapshot_order": self.snapshot_order,
            "baselines": dict(self.baselines),
        }


@dataclass(frozen=True)
class RunScores:
    """The scores of a run's modules.

    Args:
        run: Its folder.
        modules: From the first to the last.
        images: How many images were measured; None where the recorder had measured already.
        finished: Whether the training is over; else the end is extrapolated.
    """

    run: Path
    modules: tuple[ScoredModule, ...]
    images: int | None
    finished: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as JSON values."""
        return {
            "run": str(self.run),
            "images": self.images,
            "finished": self.finished,
            "modules": [one.to_dict() for one in self.modules],
        }


def score_run(
    run: Run,
    *,
    modules: Sequence[str] | None = None,
    epochs: Sequence[int] = (),
    images: int = IMAGES,
    scorer: MaturityScorer | None = None,
    runtime: Runtime | None = None,
) -> RunScores:
    """Score the modules of a run at some of its checkpoints.

    Where a recorder with labelled samples measured the modules at each epoch, these measurements are taken. Else
    training images are varied as in training and given to kept checkpoints: all, or 16 of them.

    Args:
        run: Of `fmce train` or a recorder; a recorder's needs its model and images, see `open_run`, where it did not
            measure with labels. Images without targets are scored without labels.
        modules: Names as in `model.named_modules()`; None takes those recorded, or else the children.
        epochs: Further epochs to measure; their checkpoints must be kept.
        images: Of the training images, how many.
        scorer: None takes the one that comes with fmce.
        runtime: Device and precision.

    Raises:
        ValueError: If a module is unknown, or there are too few images.
        FileNotFoundError: If there is no checkpoint.
    """
    scorer = scorer or shipped_scorer()
    histories = [] if modules or epochs else recorded_histories(run.path)
    heads: Mapping[int, float] = {}
    measured = None
    if not histories:
        measured = _Measured(run, images, runtime or make_runtime())
        histories, heads = measured.histories(modules, epochs)
    finished = run.done is not None
    scored = [_scored(history, heads, scorer, finished) for history in histories]
    count = None if measured is None else len(measured.inputs)
    return RunScores(run.path, tuple(scored), count, finished)


def _scored(
    history: ModuleHistory, heads: Mapping[int, float], scorer: MaturityScorer, finished: bool
) -> ScoredModule:
    labels: Labels = "class" if "probe_mse" in history.values else "free"
    within_run, snapshot = (
        scorer.score(history, form, labels, finished=finished) for form in FORMS
    )
    epochs = history.epochs.tolist()
    planned = history.planned or len(history.losses) or epochs[-1]
    baselines: dict[str, list[float | None]] = {
        "share_of_schedule": [epoch / planned for epoch in epochs],
        "head_loss": [heads.get(epoch) for epoch in epochs],
    }
    for name in BASELINES[2:]:
        values = history.values.get(name, np.full(len(epochs), math.nan))
        baselines[name] = [float(v) if math.isfinite(v) else None for v in values]
    return ScoredModule(history.module, within_run, snapshot, baselines)


class _Measured:
    """A run, and the training images that its checkpoints are measured on."""

    def __init__(self, run: Run, images: int, runtime: Runtime) -> None:
        setup = run.setup
        self.run, self.runtime = run, setup.with_run_memory_format(runtime)
        train = setup.data.train
        draw = torch.Generator().manual_seed(0)
        index = torch.randperm(len(train), generator=draw)[:images]
        x = train.images[index]
        if run.own is None:  # a custom loop gives its images as the training varies them
            x = run.training.transform(x, draw)
        self.inputs = x.to(self.runtime.device)
        targets = train.targets[index]
        self.labels = None if bool((targets < 0).any()) else targets

    def histories(
        self, modules: Sequence[str] | None, more: Sequence[int]
    ) -> tuple[list[ModuleHistory], dict[int, float]]:
        """Return the history of each module's outputs, and the own head's log loss by epoch."""
        run, kept = self.run, self.run.epochs
        if not kept:
            raise FileNotFoundError(
                f"{run.path} has no checkpoints to score; train with --keep all"
            )
        epochs = sorted({*spread(kept, MOST_EPOCHS), *more})
        new = self.runtime.to_device(run.setup.new_model())
        names = modules or run.config.recorder.modules
        if names is None:
            names = probeable(new, default_modules(new), self.inputs)
        heads, found = {}, []
        with Progress("measuring checkpoints", len(epochs) + 1) as progress:
            twin = twin_statistics(new, names, self.inputs, self.labels)
            progress.advance("re-initialised twins")
            for epoch in epochs:
                model = self.runtime.to_device(run.model(epoch))
                found.append(module_statistics(model, names, self.inputs, self.labels))
                loss = head_loss(model, self.inputs, self.labels)
                if loss is not None:
                    heads[epoch] = loss
                progress.advance(f"epoch {epoch}")
        losses = np.asarray(run.losses)
        return [
            ModuleHistory(
                *(str(run.path), output, np.array(epochs)),
                {name: np.array([one[output][name] for one in found]) for name in values},
                values,
                losses=losses if np.isfinite(losses).all() else np.zeros(0),
                planned=run.config.train.epochs if run.own is None else None,
                about=about_run(run),
            )
            for output, values in twin.items()
        ], heads


def spread(kept: Sequence[int], most: int) -> list[int]:
    """Return at most so many of the kept epochs, denser at the beginning, with the first and the last.

    >>> spread(range(1, 61), 5)
    [1, 5, 16, 34, 60]
    """
    if len(kept) <= most:
        return list(kept)
    places = np.linspace(0, 1, most) ** 2 * (len(kept) - 1)
    return sorted({kept[round(float(place))] for place in places})


def about_run(run: Run) -> dict[str, str]:
    """Return what a run is made of, in the words of the training card of the scorer that comes with fmce."""
    if run.own is not None:
        return {}
    data, model, train = run.config.data, run.config.model, run.config.train
    width = model.options.get("width", 16) if model.name == "tiny" else ""
    return {
        "data": f"{data.name} {data.image_size}px",
        "architecture": model.name,
        "width": f"{model.name} {width}",
        "recipe": f"adam-{train.learning_rate:g}-{train.epochs}-{train.schedule}-{train.batch_size}",
    }


@torch.no_grad()
def head_loss(model: nn.Module, inputs: Tensor, labels: Tensor | None) -> float | None:
    """Return the log of a classifier's mean cross-entropy; None where the output is no logits of the labels."""
    if labels is None or labels.ndim != 1:
        return None
    with eval_mode(model):
        outputs = [model(part) for _, part in parts_of(inputs, len(inputs))]
    if not all(isinstance(one, Tensor) and one.ndim == 2 for one in outputs):
        return None
    logits = torch.cat(outputs).float()
    if int(labels.max()) >= logits.shape[1]:
        return None
    loss = float(F.cross_entropy(logits, labels.to(logits.device)))
    return math.log(max(loss, 1e-12)) if math.isfinite(loss) else None
