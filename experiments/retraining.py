"""Which module to retrain after a domain shift, or for a class that is added?

    python -m experiments.retraining [--small] [--jobs N] [--minutes M] [--seeds 1 2 3 4 5]

`tiny` learns 2,000 images of CIFAR-10 at 16 px. Then the images change (noise, low contrast, blur), the labels do (each
class gets another's number), or a tenth class comes that it never saw. Of the changed data 500 labelled images retrain
one module each, all else frozen, and 1,000 others test it. Three rules name a module beforehand: where the maturity
statistics of its outputs fall most beyond those of its input, the head by its own loss; where the gradient is largest
in proportion to the weights (surgical fine-tuning); always the first or the last. A row per seed goes to
results/recorder.jsonl. If interrupted, rerun the command to resume. Takes about five minutes on one CPU core; --small
one minute.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.injuries import LEAST_SPAN, fall
from experiments.parallel import run_jobs
from experiments.recorded import Part
from experiments.result_rows import select
from experiments.script import options_parser, record, run_script
from experiments.stopping import classes
from fmce.engine.runtime import make_runtime
from fmce.files import read_json_lines
from fmce.models.features import eval_mode, find_module
from fmce.models.tiny import tiny
from fmce.recorder.statistics import module_statistics, twin_statistics
from fmce.seeding import epoch_seed

EXPERIMENT, SEEDS, CLASSES, NEW_CLASS = "retraining", (1, 2, 3, 4, 5), 10, 9
MODULES = ("stem", "blocks.0", "blocks.1", "blocks.2", "head")
EPOCHS, RETRAINED, FEW, DRAWS, RATE = 15, 8, 500, 3, 4e-3


def _noise(x: Tensor) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return x + 0.7 * torch.randn(x.shape, generator=draw).to(x.device)


def _contrast(x: Tensor) -> Tensor:
    return 0.25 * x


def _blur(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


Shift = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
SHIFTS: Mapping[str, Shift] = {
    "noise": lambda x, y: (_noise(x), y),
    "low contrast": lambda x, y: (_contrast(x), y),
    "blur": lambda x, y: (_blur(x), y),
    "labels exchanged": lambda x, y: (x, CLASSES - 1 - y),
    "class added": lambda x, y: (x, y),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Train, shift, name, retrain, and record a row per seed."""
    parser = options_parser(__doc__, "recorder.jsonl", "runs/retraining")
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=list(SEEDS))
    add("--jobs", type=int, default=1, help="seeds at a time (1)")
    add("--minutes", type=float, help="begin no seed after that time")
    add("--small", action="store_true", help="one seed, 1,000 images, 3 epochs")
    options = parser.parse_args(argv)
    about: dict[str, Any] = {"scale": "small"} if options.small else {}
    images, epochs = (1000, 3) if options.small else (2000, EPOCHS)
    rows = read_json_lines(options.results)
    jobs = {
        seed: (seed, images, epochs)
        for seed in options.seeds[: 1 if options.small else None]
        if not select(rows, experiment=EXPERIMENT, seed=seed, **about)
    }
    until = math.inf if options.minutes is None else time.monotonic() + 60 * options.minutes
    config = {"epochs": epochs, "images": images, "few": FEW, "retrained": RETRAINED, "rate": RATE}
    for seed, result in run_jobs(shifted, jobs, options.jobs, until):
        record(options.results, EXPERIMENT, "cifar10", config, result, seed=seed, **about)


def shifted(seed: int, images: int, epochs: int) -> dict[str, Any]:
    """Return, for each shift, what each rule names and what retraining each module gives."""
    device = make_runtime("auto").device
    task = classes("cifar10", 16, flip=True, train=images + DRAWS * FEW)
    learned, few, test = ((x.to(device), y.to(device)) for x, y in task.parts)
    first, unseen = (
        (learned[0][part], learned[1][part]) for part in (slice(images), slice(images, None))
    )
    few = few[0][:FEW], few[1][:FEW]
    known, cases = first[1] != NEW_CLASS, {}
    complete = fitted(None, (first[0], first[1]), seed, epochs)
    lacking = fitted(None, (first[0][known], first[1][known]), seed, epochs)
    for name, shift in SHIFTS.items():
        added = name == "class added"
        model = lacking if added else complete
        cases[name] = measured(model, unseen, shift(*few), shift(*test), seed)
    return {"test_accuracy": accuracy(complete, test), "shifts": cases}


def measured(model: nn.Module, unseen: Part, few: Part, test: Part, seed: int) -> dict[str, Any]:
    """Return a shift's fall in accuracy, what each rule measures, and the accuracy after each retraining."""
    retrained = {
        name: accuracy(fitted(model, few, seed, RETRAINED, name), test) for name in MODULES
    }
    retrained["all"] = accuracy(fitted(model, few, seed, RETRAINED, "all"), test)
    return {
        "before": accuracy(model, test),
        "retrained": retrained,
        "gradient": relative_gradients(model, few),
        "score": falls(model, unseen, few),
    }


def falls(model: nn.Module, unseen: Part, few: Part) -> list[float]:
    """Return how far each module's maturity fell on new data beyond its input's fall, 1 being back to the start.

    A module's fall is the mean over the statistics of (new − old) / (re-initialised − old), old being several draws of
    images as the network learned them, which it did not see. The head's is its own loss instead: what its outputs
    could tell is no question of maps.
    """
    parts = MODULES[:-1]
    draws = list(zip(unseen[0].split(FEW), unseen[1].split(FEW), strict=True))  # type: ignore[no-untyped-call]
    old = [module_statistics(model, parts, x, y) for x, y in draws]
    new, twin = module_statistics(model, parts, *few), twin_statistics(model, parts, *draws[0])
    falls = [fall(new[name], [one[name] for one in old], twin[name]) for name in parts]
    before, after = float(np.mean([_loss(model, part) for part in draws])), _loss(model, few)
    falls.append((after - before) / max(math.log(CLASSES) - before, LEAST_SPAN))
    jumps = np.diff(np.clip(np.array([0.0, *falls]), -1, 2))
    return [float(jump) for jump in jumps]


@torch.no_grad()
def _loss(model: nn.Module, part: Part) -> float:
    with eval_mode(model):
        return float(F.cross_entropy(model(part[0]), part[1]))


def relative_gradients(model: nn.Module, few: Part) -> list[float]:
    """Return each module's gradient on the new data over its weights, mean over tensors (Lee et al., 2023)."""
    net = copy.deepcopy(model).train()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    F.cross_entropy(net(few[0]), few[1]).backward()  # type: ignore[no-untyped-call]
    found = []
    for name in MODULES:
        ratios = [
            float(p.grad.norm() / p.detach().norm().clamp(min=1e-12))
            for p in find_module(net, name).parameters()
            if p.grad is not None
        ]
        found.append(float(np.mean(ratios)))
    return found


def fitted(
    start: nn.Module | None, part: Part, seed: int, epochs: int, name: str = "all"
) -> nn.Module:
    """Train a new network, or one module of a copy, for some epochs of a cosine schedule."""
    x, y = part
    torch.manual_seed(seed)
    net = tiny(CLASSES, x.shape[1], 8).to(x.device) if start is None else copy.deepcopy(start)
    inside = net if name == "all" else find_module(net, name)
    net.requires_grad_(False)
    inside.requires_grad_(True)
    rate = 4e-3 if start is None else RATE
    optimizer = torch.optim.Adam(inside.parameters(), lr=rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(1, epochs + 1):
        net.eval()
        inside.train()
        draw = torch.Generator().manual_seed(epoch_seed(seed, epoch))
        for index in torch.randperm(len(x), generator=draw).split(64):  # type: ignore[no-untyped-call]
            images, targets = x[index.to(x.device)], y[index.to(x.device)]
            if torch.rand((), generator=draw) < 0.5:
                images = images.flip(-1)
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(net(images), targets).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
    return net.eval()


@torch.no_grad()
def accuracy(model: nn.Module, part: Part) -> float:
    """Return the share of images classified correctly."""
    with eval_mode(model):
        preds = torch.cat([model(x).argmax(1) for x in part[0].split(500)])  # type: ignore[no-untyped-call]
    return float((preds == part[1]).float().mean())


if __name__ == "__main__":
    run_script(main)
