"""Does freezing modules that came to rest save anything that a shorter schedule does not?

    python -m experiments.freezing [--small] [--jobs N] [--minutes M] [--data NAME …] [--seeds 1 2 3 4 5]

`tiny` learns 800 images of the digits and of Fashion-MNIST, at 8 and 12 px, for 16 epochs of a cosine schedule. From
the stem on, a module is frozen when it is at rest: by its clock (drift of its outputs per epoch) or by its score (error
of a ridge probe on its maps). At the same cost of multiply-adds, forward and backward: a schedule shortened to it,
epochs spaced linearly in time, and the epochs that the clock gave for another seed, so that only the order of depth is
left. A row per set and seed goes to results/recorder.jsonl. If interrupted, rerun the command to resume. Takes about
two minutes on one CPU core; --small half a minute. Expected: the shorter schedule is at least as good.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.parallel import run_jobs
from experiments.result_rows import select
from experiments.script import options_parser, record, run_script
from experiments.stopping import Task, classes
from fmce.engine.runtime import make_runtime
from fmce.files import read_json, read_json_lines, write_json
from fmce.losses.auxiliary import ridge_probe_error
from fmce.models.features import FeatureMaps, eval_mode, find_module
from fmce.recorder.gram import drift_between, gram_matrix, gram_triangle, pooled
from fmce.recorder.prices import module_prices
from fmce.seeding import epoch_seed

EXPERIMENT, SEEDS, EPOCHS, PROBE, WINDOW = "freezing", (1, 2, 3, 4, 5), 16, 256, 3
DATA = {"digits": 8, "fashion-mnist": 12}
"""Name → side in pixels."""
MODULES = ("stem", "blocks.0", "blocks.1", "blocks.2")
# Change per epoch, mean of three, below which a module is at rest: of its drift, and of its probe's error.
CLOCK_LEVEL, SCORE_LEVEL = 0.005, 0.01
FIRST = ("full", "clock", "score")
SECOND = ("shortened", "shortened as score", "time-linear", "depth order")


def main(argv: Sequence[str] | None = None) -> None:
    """Train what has no row, and record one per set and seed."""
    parser = options_parser(__doc__, "recorder.jsonl", "runs/freezing")
    add = parser.add_argument
    add("--data", nargs="+", choices=list(DATA), default=list(DATA), help="both by default")
    add("--seeds", type=int, nargs="+", default=list(SEEDS), help="at least two")
    add("--jobs", type=int, default=1, help="trainings at a time (1)")
    add("--minutes", type=float, help="begin no training after that time")
    add("--small", action="store_true", help="two seeds of the digits, 500 images, 8 epochs")
    options = parser.parse_args(argv)
    if len(options.seeds) < 2:
        parser.error("--seeds: depth order takes another seed's epochs, so there must be two")
    about: dict[str, Any] = {"scale": "small"} if options.small else {}
    images, epochs = (500, 8) if options.small else (800, EPOCHS)
    until = math.inf if options.minutes is None else time.monotonic() + 60 * options.minutes
    rows = read_json_lines(options.results)
    groups = [
        (data, seed)
        for seed in options.seeds[: 2 if options.small else None]
        for data in options.data[: 1 if options.small else None]
        if not select(rows, experiment=EXPERIMENT, what=data, seed=seed, **about)
    ]
    first = {
        (*group, arm): (options.out, *group, images, epochs, Plan(arm, epochs))
        for group in groups
        for arm in FIRST
    }
    found = dict(run_jobs(trained, first, options.jobs, until))
    second = {}
    for data, seed in groups:
        if all((data, seed, arm) in found for arm in FIRST):
            others = [o for o in options.seeds if o != seed and (data, o, "clock") in found]
            other = found.get((data, others[seed % len(others)], "clock")) if others else None
            mine = {arm: found[data, seed, arm] for arm in FIRST}
            for plan in at_the_same_cost(mine, other, epochs):
                second[data, seed, plan.arm] = (options.out, data, seed, images, epochs, plan)
    found |= dict(run_jobs(trained, second, options.jobs, until))
    for data, seed in groups:
        if all((data, seed, arm) in found for arm in (*FIRST, *SECOND)):
            arms = {arm: found[data, seed, arm] for arm in (*FIRST, *SECOND)}
            config = {
                "epochs": epochs,
                "images": images,
                "clock": CLOCK_LEVEL,
                "score": SCORE_LEVEL,
            }
            record(options.results, EXPERIMENT, data, config, {"arms": arms}, seed=seed, **about)


@dataclass(frozen=True)
class Plan:
    """How one arm trains.

    Attributes:
        arm: Its name.
        epochs: Length of its schedule.
        freeze: Epochs after which the first modules are frozen, in turn; "clock" and "score" decide for themselves.
    """

    arm: str
    epochs: int
    freeze: Sequence[int] = field(default_factory=tuple)


def at_the_same_cost(
    mine: Mapping[str, Any], other: Mapping[str, Any] | None, epochs: int
) -> list[Plan]:
    """Return the arms that cost what a seed's freezing did; without another seed's clock, no depth order."""
    clock, score = mine["clock"], mine["score"]
    plans = [
        Plan("shortened", min(epochs, round(clock["cost"] * epochs))),
        Plan("shortened as score", min(epochs, round(score["cost"] * epochs))),
        Plan("time-linear", epochs, linear_epochs(clock["cost"], clock["savings"], epochs)),
    ]
    return plans if other is None else [*plans, Plan("depth order", epochs, other["freeze"])]


def linear_epochs(wanted: float, savings: Sequence[float], epochs: int) -> list[int]:
    """Return the epochs, evenly spaced from one to the last, that cost nearest to a share of the full training.

    >>> linear_epochs(0.6, [0.2, 0.6], 10)
    [1, 6]
    """
    count = len(savings)
    choices = [
        [round(start + (epochs - start) * i / count) for i in range(count)]
        for start in range(1, epochs)
    ]
    return min(choices, key=lambda freeze: abs(cost_of(freeze, savings, epochs) - wanted))


def cost_of(freeze: Sequence[int], savings: Sequence[float], epochs: int) -> float:
    """Return the share of a full training's multiply-adds that freezing after these epochs leaves.

    >>> cost_of([5], [0.5], 10)
    0.75
    """
    steps = [0.0, *savings]
    spent = [1 - steps[sum(epoch > f for f in freeze)] for epoch in range(1, epochs + 1)]
    return sum(spent) / epochs


def trained(
    out: Path, data: str, seed: int, images: int, epochs: int, plan: Plan
) -> dict[str, Any]:
    """Return what an arm came to; from its file where it was trained before."""
    file = out / f"{data}-seed{seed}" / f"{plan.arm.replace(' ', '-')}.json"
    if file.exists():
        return dict(read_json(file))
    task = replace(classes(data, DATA[data], flip=data != "digits", train=images), batch=64)
    result = train(task, seed, epochs, plan)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, result)
    return result


def train(task: Task, seed: int, full: int, plan: Plan) -> dict[str, Any]:
    """Train one arm."""
    device = make_runtime("auto").device
    x, y = (part.to(device) for part in task.parts[0])
    torch.manual_seed(seed)
    model = task.build().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=task.rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, plan.epochs)
    savings = [price.saving for price in module_prices(model, MODULES, x[:2])]
    rest = AtRest(model, x[:PROBE], y[:PROBE], plan.arm)
    frozen: list[int] = []
    for epoch in range(1, plan.epochs + 1):
        model.train()
        for name in MODULES[: len(frozen)]:
            find_module(model, name).eval()
        draw = torch.Generator().manual_seed(epoch_seed(seed, epoch))
        for index in torch.randperm(len(x), generator=draw).split(task.batch):  # type: ignore[no-untyped-call]
            inputs, targets = task.vary(x[index.to(device)], y[index.to(device)], draw)
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
        while len(frozen) < len(MODULES) and ready(plan, rest, frozen, epoch):
            for parameter in find_module(model, MODULES[len(frozen)]).parameters():
                parameter.requires_grad_(False)
                parameter.grad = None
            frozen.append(epoch)
    probing = PROBE / len(x) / 3 if plan.arm in FIRST[1:] else 0.0
    cost = cost_of(frozen, savings, plan.epochs) * plan.epochs / full + probing
    return {"freeze": frozen, "cost": cost, "savings": savings, "epochs": plan.epochs} | tested(
        model, *(part.to(device) for part in task.parts[2])
    )


def ready(plan: Plan, rest: "AtRest", frozen: Sequence[int], epoch: int) -> bool:
    """Return whether the next module is to be frozen after this epoch."""
    if plan.arm in FIRST[1:]:
        return rest.measured(epoch, len(frozen))
    return len(frozen) < len(plan.freeze) and epoch >= plan.freeze[len(frozen)]


class AtRest:
    """Measures on a probe of training images whether modules are at rest.

    Args:
        model: The network.
        x: Images (N,C,H,W), unvaried.
        y: Classes (N,).
        by: "clock" or "score".
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, by: str) -> None:
        self.model, self.x, self.y, self.by = model, x, y, by
        self.last: list[Any] = []
        self.changes: list[list[float]] = [[] for _ in MODULES]
        self.epoch = 0

    def measured(self, epoch: int, module: int) -> bool:
        """Return whether a module is at rest at the end of an epoch; measures once an epoch."""
        if epoch > self.epoch:
            self.epoch = epoch
            now = self._now()
            for index, value in enumerate(now if self.last else ()):
                self.changes[index].append(self._change(self.last[index], value))
            self.last = now
        recent = self.changes[module][-WINDOW:]
        level = CLOCK_LEVEL if self.by == "clock" else SCORE_LEVEL
        return len(recent) == WINDOW and sum(recent) / WINDOW <= level

    @torch.no_grad()
    def _now(self) -> list[Any]:
        with eval_mode(self.model), FeatureMaps(self.model, MODULES) as maps:
            self.model(self.x)
        held = [maps.single(name) for name in MODULES]
        if self.by == "score":
            return [ridge_probe_error(one, self.y, 10).item() for one in held]
        return [gram_triangle(gram_matrix(pooled(one))) for one in held]

    def _change(self, before: Any, now: Any) -> float:
        measure: Callable[[Any, Any], float] = drift_between
        if self.by == "score":
            return abs(math.log(now / before))
        return measure(before, now)


@torch.no_grad()
def tested(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Return accuracy and loss on test images."""
    with eval_mode(model):
        logits = torch.cat([model(part) for part in x.split(500)])  # type: ignore[no-untyped-call]
    accuracy = float((logits.argmax(1) == y).float().mean())
    return {"test_accuracy": accuracy, "test_loss": float(F.cross_entropy(logits, y))}


if __name__ == "__main__":
    run_script(main)
