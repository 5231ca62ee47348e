"""Which checkpoint of several trainings is the best, without a validation set?

    python -m experiments.selection [--small] [--jobs N] [--minutes M] [--seeds 1 2 3 4] [--judge]

Four trainings of `tiny` per set and seed (Fashion-MNIST and CIFAR-10, 1,000 images at 16 px) differ in rate, optimizer,
width, length and in whether images are varied; every second or fourth epoch is a candidate. Rules that see training
images alone choose one: the highest maturity score (`snapshot`) of the last block, the lowest training loss, the
highest effective rank (RankMe), the last checkpoint. Regret is the test accuracy that a choice misses of the best
candidate's. Trainings leave a file each below --out; --judge scores them with the scorer that comes with fmce and
records a row per set and seed in results/recorder.jsonl. Takes about five minutes on one CPU core; --small one.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.parallel import run_jobs
from experiments.retraining import accuracy
from experiments.script import options_parser, record, run_script
from experiments.stopping import classes
from fmce.engine.runtime import make_runtime
from fmce.files import read_json, write_json
from fmce.models.tiny import tiny
from fmce.recorder.statistics import module_statistics, twin_statistics
from fmce.scoring.history import ModuleHistory
from fmce.scoring.scorer import MaturityScorer
from fmce.seeding import epoch_seed

EXPERIMENT, SEEDS, DATA = "selection", (1, 2, 3, 4), ("fashion-mnist", "cifar10")
MODULE, PROBE, BATCH = "blocks.2", 512, 64


@dataclass(frozen=True)
class Recipe:
    """What the trainings of a group differ in."""

    optimizer: str
    rate: float
    epochs: int
    width: int
    varied: bool


RECIPES: Mapping[str, Recipe] = {
    "slow": Recipe("adam", 1e-3, 20, 8, True),
    "fast": Recipe("adam", 1e-2, 12, 8, True),
    "sgd": Recipe("sgd", 0.05, 20, 6, True),
    "by heart": Recipe("adam", 4e-3, 20, 12, False),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Train what has no file; with --judge, choose and record."""
    parser = options_parser(__doc__, "recorder.jsonl", "runs/selection")
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=list(SEEDS))
    add("--jobs", type=int, default=1, help="trainings at a time (1)")
    add("--minutes", type=float, help="begin no training after that time")
    add("--judge", action="store_true", help="choose among the files there are, train nothing")
    add(
        "--small",
        action="store_true",
        help="one seed of Fashion-MNIST, 600 images, 4 epochs at most",
    )
    options = parser.parse_args(argv)
    about: dict[str, Any] = {"scale": "small"} if options.small else {}
    images, most = (600, 4) if options.small else (1000, 20)
    until = math.inf if options.minutes is None else time.monotonic() + 60 * options.minutes
    groups = [
        (data, seed)
        for seed in options.seeds[: 1 if options.small else None]
        for data in DATA[: 1 if options.small else None]
    ]
    files = {
        (data, seed, name): options.out / f"{data}-seed{seed}-{name.replace(' ', '-')}.json"
        for data, seed in groups
        for name in RECIPES
    }
    if not options.judge:
        options.out.mkdir(parents=True, exist_ok=True)
        jobs = {key: (*key, images, most, file) for key, file in files.items() if not file.exists()}
        for _ in run_jobs(trained, jobs, options.jobs, until):
            pass
    if options.judge or options.small:
        scorer = MaturityScorer.load()
        for data, seed in groups:
            mine = {name: files[data, seed, name] for name in RECIPES}
            if all(file.exists() for file in mine.values()):
                runs = {name: read_json(file) for name, file in mine.items()}
                config = {name: asdict(recipe) for name, recipe in RECIPES.items()}
                result = judged(runs, data, scorer)
                record(options.results, EXPERIMENT, data, config, result, seed=seed, **about)


def candidates_of(epochs: int) -> list[int]:
    """Return the epochs whose checkpoints are candidates.

    >>> candidates_of(24)
    [2, 4, 8, 12, 16, 20, 24]
    """
    return sorted({2, *range(4, epochs, 4), epochs})


def trained(data: str, seed: int, name: str, images: int, most: int, file: Path) -> None:
    """Train one network and write what its candidates are like."""
    recipe = RECIPES[name]
    device = make_runtime("auto").device
    task = classes(data, 16, flip=True, train=images)
    (x, y), _, test = ((a.to(device), b.to(device)) for a, b in task.parts)
    torch.manual_seed(seed)
    model = tiny(10, x.shape[1], recipe.width).to(device)
    if recipe.optimizer == "adam":
        optimizer: Any = torch.optim.Adam(model.parameters(), recipe.rate, fused=True)
    else:
        optimizer = torch.optim.SGD(model.parameters(), recipe.rate, 0.9, weight_decay=5e-4)
    epochs = min(recipe.epochs, most)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    draw = torch.Generator().manual_seed(epoch_seed(seed, 0))

    def varied(part: Tensor, by: torch.Generator) -> Tensor:
        return task.vary(part, part.new_zeros(len(part)), by)[0] if recipe.varied else part

    # Each image of the probe is varied by itself, as in training.
    probe = torch.cat([varied(part, draw) for part in x[:PROBE].split(8)]), y[:PROBE]  # type: ignore[no-untyped-call]
    twin = twin_statistics(model, [MODULE], *probe)[MODULE]
    losses, found = [], []
    for epoch in range(1, epochs + 1):
        model.train()
        draw, total = torch.Generator().manual_seed(epoch_seed(seed, epoch)), 0.0
        for index in torch.randperm(len(x), generator=draw).split(BATCH):  # type: ignore[no-untyped-call]
            loss = F.cross_entropy(model(varied(x[index.to(device)], draw)), y[index.to(device)])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += float(loss.detach()) * len(index)
        losses.append(total / len(x))
        schedule.step()
        if epoch in candidates_of(epochs):
            values = module_statistics(model, [MODULE], *probe)[MODULE]
            found.append({"epoch": epoch, "test": accuracy(model, test), "values": values})
    write_json(file, {"losses": losses, "twin": twin, "candidates": found, "recipe": name})


def judged(runs: Mapping[str, Any], data: str, scorer: MaturityScorer) -> dict[str, Any]:
    """Return the regret of each rule, and the best candidate."""
    rows = []
    for name, run in runs.items():
        found = run["candidates"]
        epochs = np.array([one["epoch"] for one in found])
        values = {k: np.array([one["values"][k] for one in found]) for k in found[0]["values"]}
        recipe = RECIPES[name]
        about = {
            "data": data,
            "architecture": "tiny",
            "width": f"tiny {recipe.width}",
            "recipe": name,
        }
        history = ModuleHistory(
            name, MODULE, epochs, values, run["twin"], np.array(run["losses"]), None, about
        )
        score = scorer.score(history, "snapshot")
        rows += [
            {
                "run": name,
                "epoch": one["epoch"],
                "test": one["test"],
                "score": float(score.values[n]),
                "probe": one["values"]["probe_mse"],
                "loss": run["losses"][one["epoch"] - 1],
                "rank": one["values"]["effective_rank"],
                "last": n == len(found) - 1,
            }
            for n, one in enumerate(found)
        ]
    best = max(row["test"] for row in rows)
    chosen = {
        # Where several reach the end of the scale, its strongest statistic decides.
        "highest score": max(rows, key=lambda row: (row["score"], -row["probe"])),
        "lowest training loss": min(rows, key=lambda row: row["loss"]),
        "highest effective rank": max(rows, key=lambda row: row["rank"]),
    }
    regret = {name: best - row["test"] for name, row in chosen.items()}
    regret["last checkpoint of any run"] = best - float(
        np.mean([row["test"] for row in rows if row["last"]])
    )
    regret["any candidate"] = best - float(np.mean([row["test"] for row in rows]))
    return {"best": best, "regret": regret, "candidates": rows}


if __name__ == "__main__":
    run_script(main)
