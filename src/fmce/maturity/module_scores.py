"""`fmce score`: how mature each module of a run is at its checkpoints, with what the scores are compared with."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fmce.engine.runtime import Runtime
from fmce.maturity.histories import PROBE, run_histories
from fmce.recorder.history import recorded_histories
from fmce.runs.run import Run
from fmce.scoring.history import ModuleHistory
from fmce.scoring.scorer import FORMS, Labels, MaturityScorer, MaturityScores, shipped_scorer

MOST_EPOCHS = 16
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
    images: int = PROBE,
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
    scorer, count = scorer or shipped_scorer(), None
    found = [] if modules or epochs else recorded_histories(run.path)
    if not found:
        kept = run.epochs
        if not kept:
            raise FileNotFoundError(
                f"{run.path} has no checkpoints to score; train with --keep all"
            )
        chosen = sorted({*spread(kept, MOST_EPOCHS), *epochs})
        found = run_histories(run, modules, probe=images, epochs=chosen, runtime=runtime)
        count = min(images, len(run.setup.data.train))
    finished = run.done is not None or all(h.planned == len(h.losses) for h in found)
    scored = tuple(_scored(history, scorer, finished) for history in found)
    return RunScores(run.path, scored, count, finished)


def _scored(history: ModuleHistory, scorer: MaturityScorer, finished: bool) -> ScoredModule:
    labels: Labels = "class" if "probe_mse" in history.values else "free"
    within_run, snapshot = (
        scorer.score(history, form, labels, finished=finished) for form in FORMS
    )
    epochs = history.epochs.tolist()
    planned = history.planned or len(history.losses) or epochs[-1]
    baselines: dict[str, list[float | None]] = {
        "share_of_schedule": [epoch / planned for epoch in epochs],
    }
    for name in BASELINES[1:]:
        values = history.values.get(name, np.full(len(epochs), math.nan))
        baselines[name] = [float(v) if math.isfinite(v) else None for v in values]
    return ScoredModule(history.module, within_run, snapshot, baselines)


def spread(kept: Sequence[int], most: int) -> list[int]:
    """Return at most so many of the kept epochs, denser at the beginning, with the first and the last.

    >>> spread(range(1, 61), 5)
    [1, 5, 16, 34, 60]
    """
    if len(kept) <= most:
        return list(kept)
    places = np.linspace(0, 1, most) ** 2 * (len(kept) - 1)
    return sorted({kept[round(float(place))] for place in places})
