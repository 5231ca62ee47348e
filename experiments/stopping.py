"""May it stop? Epochs saved and accuracy given up by stopping a training on convergence.

    python -m experiments.stopping [DATA …] [--small] [--seeds 0 1 2]

Digits, MNIST, Fashion-MNIST, CIFAR-10 and CamVid (all but the digits below FMCE_DATA) are trained with a recorder
for 40 epochs of a cosine schedule. Every rule is read from that one training: stop when the verdict is "converged",
when the curve is at rest at all, when CQI is at or below µ (the published rule), or after 10 epochs without a lower
validation loss, with the best weights. Then the same seed is trained with a cosine as long as the first and the last
of these took. A row per set and seed goes to results/recorder.jsonl; what has a row is not repeated. Takes about
20 minutes; --small, the digits alone for 12 epochs, a minute.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.recorded import Part, classification_parts, data_root, outputs, train_epoch
from experiments.result_rows import select
from experiments.script import options_parser, record, run_script
from fmce.config.distillation import DistillationDataConfig
from fmce.data.transforms import normalize
from fmce.distillation.data.segmentation import segmentation_data
from fmce.files import read_json_lines
from fmce.losses.distillation import IGNORE_INDEX, segmentation_cross_entropy
from fmce.metrics.segmentation import confusion, segmentation_scores
from fmce.models.pspnet import pspnet
from fmce.models.tiny import tiny
from fmce.recorder.recorder import Recorder
from fmce.runs.log import read_done, read_metrics

EPOCHS, PATIENCE, SEEDS = 40, 10, (0, 1, 2)


@dataclass(frozen=True)
class Task:
    """What is trained.

    Attributes:
        parts: Training, validation and test images.
        build: Makes a network.
        loss: Output and targets → mean loss.
        score: Outputs for batches and all targets → score, 0 to 1.
        flip: Whether mirrored images are as good.
        batch: Images per step.
        rate: Highest learning rate.
    """

    parts: tuple[Part, Part, Part]
    build: Callable[[], nn.Module]
    loss: Callable[[Any, Tensor], Tensor] = F.cross_entropy
    score: Callable[[list[Any], Tensor], float] = lambda outs, y: float(
        (torch.cat(outs).argmax(1) == y).float().mean()
    )
    flip: bool = False
    batch: int = 32
    rate: float = 4e-3

    def vary(self, x: Tensor, y: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """Shift a batch (B,C,H,W) by up to a pixel, and perhaps mirror it; masks (B,H,W) alike."""
        shift = torch.randint(-1, 2, (2,), generator=draw).tolist()
        mirror = self.flip and bool(torch.rand((), generator=draw) < 0.5)

        def moved(values: Tensor) -> Tensor:
            rolled = values.roll(shift, (-2, -1))
            return rolled.flip(-1) if mirror else rolled

        return moved(x), moved(y) if y.ndim > 1 else y


def classes(name: str, size: int, *, flip: bool = False, train: int = 1000) -> Task:
    """Return the task of a classification data set at a size in pixels."""

    def resized(part: Part) -> Part:
        shape = (size, size)
        return F.interpolate(part[0], shape, mode="bilinear", antialias=True), part[1]

    first, second, third = map(resized, classification_parts(name, train, 1000))
    return Task((first, second, third), partial(tiny, 10, first[0].shape[1], 8), flip=flip)


def camvid() -> Task:
    """Return the task of CamVid at 48×64: half its labels; half its validation images each to choose and to test."""
    config = DistillationDataConfig(
        "camvid", data_root("camvid"), 48, 64, labelled=184, unlabelled=None
    )
    data = segmentation_data(config)

    def part(images: Tensor, masks: Tensor | None) -> Part:
        assert masks is not None
        return normalize(images.float() / 255, data.mean, data.std), masks.long()

    labelled, (x, y) = data.labelled, part(data.validation.images, data.validation.targets)
    return Task(
        (part(labelled.images, labelled.targets), (x[::2], y[::2]), (x[1::2], y[1::2])),
        partial(pspnet, "test_resnet", len(data.class_names), auxiliary=False),
        loss=lambda out, masks: segmentation_cross_entropy(out.logits, masks),
        score=partial(_miou, len(data.class_names)),
        flip=True,
        batch=16,
    )


def _miou(num_classes: int, outs: list[Any], masks: Tensor) -> float:
    preds = torch.cat([out.logits.argmax(1) for out in outs])
    counts = confusion(preds, masks, num_classes, ignore_index=IGNORE_INDEX)
    return segmentation_scores(counts).miou


TASKS: Mapping[str, Callable[[], Task]] = {
    "digits": partial(classes, "digits", 8),
    "mnist": partial(classes, "mnist", 14),
    "fashion-mnist": partial(classes, "fashion-mnist", 14, flip=True),
    "cifar10": partial(classes, "cifar10", 16, flip=True),
    "camvid": camvid,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Train what has no row, and record one per data set and seed."""
    parser = options_parser(__doc__, "recorder.jsonl", "runs/stopping")
    parser.add_argument("data", nargs="*", metavar="DATA", help=f"of {', '.join(TASKS)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--small", action="store_true", help="the digits, one seed, 12 epochs")
    options = parser.parse_args(argv)
    if unknown := set(options.data) - set(TASKS):
        parser.error(f"unknown data {min(unknown)}; choose from {', '.join(TASKS)}")
    about: dict[str, Any] = {"scale": "small"} if options.small else {}
    epochs = 12 if options.small else EPOCHS
    for seed in options.seeds[: 1 if options.small else None]:
        for name in ["digits"] if options.small else options.data or list(TASKS):
            rows = read_json_lines(options.results)
            if select(rows, experiment="stopping", what=name, seed=seed, **about):
                continue
            result = compared(TASKS[name](), options.out / f"{name}-seed{seed}", seed, epochs)
            config = {"epochs": epochs, "patience": PATIENCE}
            record(options.results, "stopping", name, config, result, seed=seed, **about)


def compared(task: Task, folder: Path, seed: int, epochs: int) -> dict[str, Any]:
    """Train a full schedule and those shortened to what stopping took; return curve, stops and scores."""
    curve, stops = trained(task, folder / "full", seed, epochs)
    best = patience_epoch(curve["validation"], PATIENCE)
    stops["patience"] = min(best + PATIENCE, epochs)
    scores = {name: curve["score"][epoch - 1] for name, epoch in stops.items()}
    scores["patience"] = curve["score"][best - 1]
    lengths = {stops["converged"], stops["patience"]} - {epochs}
    shortened = {
        str(length): trained(task, folder / f"short{length}", seed, length)[0]["score"][-1]
        for length in sorted(lengths)
    }
    shortened[str(epochs)] = curve["score"][-1]
    return {
        "epochs": epochs,
        "full": curve["score"][-1],
        "stops": stops,
        "scores": scores,
        "shortened": shortened,
        "curve": curve,
    }


def trained(
    task: Task, folder: Path, seed: int, epochs: int
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Return a training's curves, and the epoch at which each rule of the recorder would stop it."""
    if read_done(folder) is None:
        _train(task, folder, seed, epochs)
    rows = read_metrics(folder)
    names = ("loss", "learning_rate", "validation", "score")
    return {name: [row[name] for row in rows] for name in names}, (read_done(folder) or {})["stops"]


def _train(task: Task, folder: Path, seed: int, epochs: int) -> None:
    torch.manual_seed(seed)
    model = task.build()
    optimizer = torch.optim.Adam(model.parameters(), lr=task.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    recorder = Recorder(folder, model, optimizer=optimizer, keep="none")
    stops = dict.fromkeys(("converged", "at rest", "published"), epochs)
    learn, choose, test = task.parts
    for epoch in range(1, epochs + 1):
        train_epoch(
            *(model, optimizer, learn, seed, recorder),
            batch=task.batch,
            loss_fn=task.loss,
            vary=task.vary,
        )
        chosen, tested = outputs(model, choose[0]), outputs(model, test[0])
        losses = [
            task.loss(o, y) * len(y)
            for o, y in zip(chosen, torch.split(choose[1], 64), strict=True)
        ]
        # Not as validation_loss, which would let the verdict see what patience sees.
        status = recorder.end_epoch(
            validation=float(sum(losses)) / len(choose[1]), score=task.score(tested, test[1])
        )
        rules = (status.converged, status.at_rest, status.phases is not None)
        for name, stop in zip(stops, rules, strict=True):
            if stop:
                stops[name] = min(stops[name], epoch)
        schedule.step()
    recorder.finish(stops=stops)


def patience_epoch(losses: Sequence[float], patience: int) -> int:
    """Return the epoch of the lowest loss when it has not been lower for so many epochs, from 1.

    >>> patience_epoch([3.0, 1.0, 2.0, 2.0, 0.5], patience=2)
    2
    """
    best = 0
    for epoch, loss in enumerate(losses):
        if loss < losses[best]:
            best = epoch
        elif epoch - best >= patience:
            break
    return best + 1


if __name__ == "__main__":
    run_script(main)
