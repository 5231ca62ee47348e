"""Lines of the table: functions and commands beside other libraries, or beside a few lines of NumPy."""

import csv
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.table.lines import Effort, Found, Line, in_turns, ratio, seconds, silent
from benchmarks.turns import median_ratio
from fmce.convergence.phases import PhaseConfig, find_phases
from fmce.metrics.detection import detection_scores
from fmce.metrics.segmentation import confusion
from fmce.models.build import build_model
from fmce.models.grad_cam import grad_cam
from fmce.seeding import seed_epoch

CLASSES = 19
THRESHOLD = 3e-6
PYTHON = sys.executable
ROOT = Path(__file__).resolve().parents[2]


def lines() -> list[Line]:
    """Return the lines."""
    return [
        Line("Grad-CAM, ResNet-18, 8×224², 10 phases", "autograd by hand, pytorch-grad-cam, torch-cam",
             cams, 1.0, why={"": "the same passes: what differs is noise"}),
        Line("mIoU counts, 1280×720, 19 classes, 8 bits", "scalabel's histogram", pixel_counts, 0.3,
             why={"": "the counting itself, torch.bincount, takes half of it"}),
        Line("AP of images of 20 boxes", "pycocotools", average_precision, 0.5),
        Line("find_phases, 100,000 epochs", "one pass in Python and NumPy", phases_of_a_curve, 1.5,
             why={"": "three more curves are placed, as controls of the smoother, and every value is checked"}),
        Line("fmce phases, CSV of 10⁶ rows", "pandas reads, then the same pass", phases_command, 2.0,
             why={"": "cells are read as text, so that messages keep their spelling"}),
        Line("import fmce", "interpreter's start, subtracted", importing, 0.05, unit="s"),
        Line("fmce --help", "–", helping, 0.3, unit="s"),
        Line("make demo, after the install", "–; wall time on two cores", lambda _: {"": demo()[0]}, 120.0,
             unit="s", long=True, why={"": "eight trainings and two FMCE-Nets, four minutes of processor time"}),
        Line("make demo, first figure", "–; wall time on two cores", lambda _: {"": demo()[1]}, 40.0,
             unit="s", long=True, why={"": "it shows the complete original training, 60 epochs on one core"}),
    ]  # fmt: skip


def cams(effort: Effort) -> Found:
    """Time Grad-CAM of ten checkpoints at one scale against autograd by hand and two libraries."""
    seed_epoch(0, 0)
    layer, phases = "layer4", effort.size(10, 1)
    networks = [build_model("torchvision:resnet18", 10).eval() for _ in range(phases)]
    images, targets = torch.randn(8, 3, 224, 224), torch.arange(8) % 10

    def each(work: Callable[[Any], Tensor]) -> Callable[[], list[Tensor]]:
        return lambda: [work(network) for network in networks]

    def by_hand(network: Any) -> Tensor:
        held: list[Tensor] = []
        hook = network.get_submodule(layer).register_forward_hook(lambda _m, _i, o: held.append(o))
        logits = network(images)
        hook.remove()
        chosen = logits.gather(1, targets[:, None]).sum()
        weights = torch.autograd.grad(chosen, held[0])[0].mean((2, 3), keepdim=True)
        return (weights * held[0]).sum(1).relu().detach()

    def ours(network: Any) -> Tensor:
        return grad_cam(network, images, targets, layer)

    torch.testing.assert_close(ours(networks[0]), by_hand(networks[0]), rtol=1e-4, atol=1e-6)

    def gradcam(network: Any) -> Any:
        return grad_cam_library(network, images, targets, layer)

    def torchcam(network: Any) -> Any:
        return torch_cam(network, images, targets, layer)

    names = ("by hand", "pytorch-grad-cam", "torch-cam")
    works = (ours, by_hand, gradcam, torchcam)
    times = in_turns([each(work) for work in works], effort.turns(5))
    return {name: median_ratio(times[0], times[i]) for i, name in enumerate(names, start=1)}


def grad_cam_library(network: Any, images: Tensor, targets: Tensor, layer: str) -> Any:
    """Compute the maps by pytorch-grad-cam, which enlarges them to the images."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with GradCAM(network, [network.get_submodule(layer)]) as cam:
        return cam(images, [ClassifierOutputTarget(int(t)) for t in targets])


def torch_cam(network: Any, images: Tensor, targets: Tensor, layer: str) -> Any:
    """Compute the maps by torch-cam."""
    from torchcam.methods import GradCAM

    with GradCAM(network, layer, input_shape=tuple(images.shape[1:])) as cam:
        scores = network(images)
        return cam(targets.tolist(), scores, normalized=False)


def pixel_counts(effort: Effort) -> Found:
    """Time the counts of one frame's pixels."""
    from scalabel.eval.sem_seg import fast_hist

    draw = torch.Generator().manual_seed(0)
    # Runs of eight pixels, as masks have.
    preds, targets = (
        torch.randint(0, CLASSES, (720, 160), generator=draw, dtype=torch.uint8).repeat_interleave(
            8, 1
        )
        for _ in range(2)
    )
    targets[:40] = 255
    ours = confusion(preds, targets, CLASSES)
    # Scalabel's last class is the ignored one.
    theirs = fast_hist(targets.numpy(), preds.numpy(), CLASSES + 1)[:CLASSES, :CLASSES]
    assert np.array_equal(ours.numpy(), theirs), "both must count alike"
    return {
        "8 bits": ratio(
            lambda: confusion(preds, targets, CLASSES),
            lambda: fast_hist(targets.numpy(), preds.numpy(), CLASSES + 1),
            effort.turns(25),
        )
    }


def average_precision(effort: Effort) -> Found:
    """Time COCO's scores of random boxes, reading included on both sides."""
    from contextlib import redirect_stdout
    from io import StringIO

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    draw, count = torch.Generator().manual_seed(0), effort.size(10_000, 500)

    def boxes(scored: bool) -> dict[str, Tensor]:
        corner = 600 * torch.rand(20, 2, generator=draw)
        found = {
            "boxes": torch.cat([corner, corner + 10 + 200 * torch.rand(20, 2, generator=draw)], 1),
            "labels": torch.randint(0, CLASSES, (20,), generator=draw),
        }
        return found | ({"scores": torch.rand(20, generator=draw)} if scored else {})

    truth = [boxes(False) for _ in range(count)]
    preds = [
        {k: torch.cat([t[k], p[k]])[:20] for k in t} | {"scores": p["scores"]}
        for t, p in ((t, boxes(True)) for t in truth)
    ]
    ap = []

    def ours() -> None:
        ap.append(detection_scores(truth, preds, CLASSES).ap)

    def theirs() -> None:
        with redirect_stdout(StringIO()):
            data, results = COCO(), []
            annotations = coco_rows(truth)
            data.dataset = {
                "images": [{"id": i + 1} for i in range(count)],
                "categories": [{"id": c + 1, "name": str(c)} for c in range(CLASSES)],
                "annotations": [row | {"id": i + 1} for i, row in enumerate(annotations)],
            }
            data.createIndex()
            results = coco_rows(preds)
            evaluation = COCOeval(data, data.loadRes(results), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        ap.append(float(evaluation.stats[0]))

    mine, peers = in_turns((ours, theirs), 1, warm=False)  # minutes long: nothing to warm up
    found = mine[0] / peers[0]
    assert max(ap) - min(ap) < 1e-6, "both must score alike"
    return {f"{count:,} images": found}


def coco_rows(images: list[dict[str, Tensor]]) -> list[dict[str, Any]]:
    """Return boxes as COCO's rows."""
    rows = []
    for number, image in enumerate(images, start=1):
        scores = image["scores"].tolist() if "scores" in image else [None] * len(image["labels"])
        for box, label, score in zip(
            image["boxes"].tolist(), image["labels"].tolist(), scores, strict=True
        ):
            left, top, right, bottom = box
            row = {"image_id": number, "category_id": label + 1, "iscrowd": 0,
                   "bbox": [left, top, right - left, bottom - top],
                   "area": (right - left) * (bottom - top)}  # fmt: skip
            rows.append(row if score is None else row | {"score": score})
    return rows


def curve(epochs: int) -> np.ndarray:
    """Return a loss that falls and trembles, until it moves by less than the threshold an epoch."""
    trembling = 1 + 0.01 * np.random.default_rng(0).random(epochs)
    return np.asarray(2.3 * np.exp(-np.arange(epochs) / (0.15 * epochs)) * trembling)


def one_pass(
    losses: np.ndarray, phases: int = 10, decay: float = 0.85, window: int = 5
) -> list[int]:
    """Return markers as one writes it once and without checks: one smoothing, no controls."""
    mean, smoothed = float(losses[0]), []
    for loss in losses.tolist():
        mean = decay * mean + (1 - decay) * loss
        smoothed.append(mean)
    curve = np.array(smoothed)
    total = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(curve)))])
    ends = np.arange(1, len(curve))
    width = np.minimum(window, ends)
    cqi = (total[ends] - total[ends - width]) / width  # of epochs 2, 3, …
    below = np.flatnonzero(cqi[np.argmax(cqi) :] <= THRESHOLD)
    end = int(np.argmax(cqi) + below[0]) + 1 if below.size else len(curve) - 1
    start = int(np.argmax(losses))
    progress = np.log(curve[start]) - np.log(curve)
    levels = np.arange(1, phases) * progress[end] / phases
    inside = [int(np.argmax(progress[start : end + 1] >= level)) for level in levels]
    return [*(start + 1 + place for place in inside), end + 1]


def phases_of_a_curve(effort: Effort) -> Found:
    """Time the phases of a long curve."""
    losses = curve(100_000)
    config = PhaseConfig(threshold=THRESHOLD)
    apart = np.abs(np.subtract(find_phases(losses, config).markers, one_pass(losses))).max()
    assert apart <= 1, "both must find the same, but for one epoch by rounding"
    sides = (lambda: find_phases(losses, config), lambda: one_pass(losses))
    return {"": ratio(*sides, effort.turns(15))}


def phases_command(effort: Effort) -> Found:
    """Time the command on a file, and a script that reads it by pandas."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "log.csv"
        with open(file, "w", newline="", encoding="utf-8") as opened:
            writer = csv.writer(opened)
            writer.writerow(["epoch", "loss", "accuracy"])
            losses = curve(effort.size(1_000_000, 100_000))
            writer.writerows(
                (i, f"{x:.9f}", f"{1 - x / 3:.4f}") for i, x in enumerate(losses, start=1)
            )
        script = (
            "import sys, pandas; from benchmarks.table.functions import one_pass; "
            "print(one_pass(pandas.read_csv(sys.argv[1])['loss'].to_numpy()))"
        )
        ours = [PYTHON, "-m", "fmce", "phases", str(file), "--threshold", str(THRESHOLD)]
        theirs = [PYTHON, "-c", script, str(file)]
        return {"": ratio(lambda: silent(ours), lambda: silent(theirs), effort.turns(3))}


def importing(effort: Effort) -> Found:
    """Time the import of the package."""
    turns = effort.turns(9)
    return {"": seconds([PYTHON, "-c", "import fmce"], turns) - seconds([PYTHON, "-c", ""], turns)}


def helping(effort: Effort) -> Found:
    """Time the help."""
    return {"": seconds([PYTHON, "-m", "fmce", "--help"], effort.turns(9))}


@cache
def demo() -> tuple[float, float]:
    """Run the demo and look for its first figure meanwhile; wall seconds of all and up to the figure, all cores."""
    import os

    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with tempfile.TemporaryDirectory() as name:
        started, figure = time.perf_counter(), 0.0
        command = [PYTHON, "-m", "fmce", "demo", "--out", f"{name}/demo"]
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            time.sleep(0.2)
            if not figure and any(Path(name).rglob("*.png")):
                figure = time.perf_counter() - started
        if process.returncode:
            raise RuntimeError(f"fmce demo ended with exit code {process.returncode}")
        return time.perf_counter() - started, figure
