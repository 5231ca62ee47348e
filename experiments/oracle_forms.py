"""FMCE-Net++ on a network that over-fits and on one that does not: the published oracle, a ridge probe, all controls.

    python -m experiments.oracle_forms [--small] [--jobs N] [--minutes M] [--seeds 1 2 3 4 5 6]

`tiny` learns 600 images of CIFAR-100 without variation, which it learns by heart, and of Fashion-MNIST with it; both at
12 px. Per set: the oracle's training with its FMCE-Net, then every arm of `fmce compare` at RAF 0.9, fixed beforehand,
at six paired seeds. A row per set and seed goes to results/fmce_net_pp.jsonl. Of the sets below FMCE_DATA, balanced
parts of 6,000 training and 2,000 test images at half their size are kept below --out. If interrupted, rerun the
command to resume. Takes about ten minutes on one CPU core; --small two. Expected: no gain by the published oracle that
a control does not give too.
"""

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from experiments.parallel import run_jobs
from experiments.result_rows import select
from experiments.script import options_parser, record, run_script
from fmce.config.io import to_dict
from fmce.config.presets import make_config
from fmce.config.run import AuxiliaryConfig, RunConfig
from fmce.config.sweep import BASELINE, CONTROLS, TREATMENT
from fmce.data.classification.classification import load_classification
from fmce.data.classification.splits import balanced_subset
from fmce.files import read_json_lines, replacing
from fmce.fmce_net_pp.arms import arm_config, plain_config
from fmce.maturity.train_classifier import train_classifier
from fmce.maturity.train_fmce_net import train_fmce_net
from fmce.runs.run import Run, open_run

EXPERIMENT, ORACLE_SEED, SEEDS, RAF = "oracle_forms", 0, (1, 2, 3, 4, 5, 6), 0.9
ARMS = (BASELINE, TREATMENT, *CONTROLS)
_BOTH = (
    "data.image_size=12 data.train_images=600 train.batch_size=64 train.learning_rate=4e-3 "
    "phases.if_not_converged=last fmce_net.epochs=10 fmce_net.storage=memory recorder.probe_images=0"
)
# Whether images are varied decides whether the network learns them by heart.
SETTINGS = {
    "cifar100": f'{_BOTH} data.shift=0 data.flip=false train.epochs=24 model.options={{"width":12}}',
    "fashion-mnist": f'{_BOTH} data.shift=1 train.epochs=20 model.options={{"width":6}}',
}
_SMALL = ("train.epochs=3", "data.train_images=500", "phases.num_phases=2", "fmce_net.epochs=1")
_PACKED = (6000, 2000)


def main(argv: Sequence[str] | None = None) -> None:
    """Train what has no row, and record a row per set and seed."""
    parser = options_parser(__doc__, "fmce_net_pp.jsonl", "runs/oracle_forms")
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=list(SEEDS))
    add("--jobs", type=int, default=1, help="trainings at a time (1)")
    add("--minutes", type=float, help="begin no training after that time")
    add("--small", action="store_true", help="two seeds, 500 images, 3 epochs")
    options = parser.parse_args(argv)
    for data, seed in trained_groups(options):
        record_seed(options, data, seed)


def pack(name: str, folder: Path) -> None:
    """Write a class-balanced part of a set at half its size, unless it is there."""
    if (folder / f"{name}.npz").exists():
        return
    data = load_classification(name)
    arrays: dict[str, Any] = {}
    for part, images, count in zip(
        ("train", "test"), (data.train, data.test), _PACKED, strict=True
    ):
        chosen = images.select(torch.from_numpy(balanced_subset(images.targets.numpy(), count, 0)))
        small = F.avg_pool2d(chosen.images.float(), 2).round().to(torch.uint8)
        arrays[f"x_{part}"] = small.permute(0, 2, 3, 1).numpy()
        arrays[f"y_{part}"] = chosen.targets.numpy()
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / f"{name}.npz") as beside, open(beside, "wb") as file:
        np.savez_compressed(file, **arrays)


def config_of(options: argparse.Namespace, data: str) -> RunConfig:
    """Return the plain training of a set."""
    own = [*SETTINGS[data].split(), f"train.seed={ORACLE_SEED}", *(_SMALL if options.small else ())]
    config = make_config("small", data, settings=own)
    folder = options.out / "data"
    pack(data, folder)
    return replace(config, data=replace(config.data, root=str(folder)))


def trained_groups(options: argparse.Namespace) -> "list[tuple[str, int]]":
    """Train what is missing; return each set and seed that has all arms and no row yet."""
    rows = read_json_lines(options.results)
    seeds = options.seeds[: 2 if options.small else None]
    missing = [
        (data, seed)
        for seed in seeds
        for data in SETTINGS
        if not select(rows, experiment=EXPERIMENT, data=data, seed=seed, **about(options))
    ]
    oracles = {
        data: (config_of(options, data), options.out / data / "oracle")
        for data in SETTINGS
        if any(data == other for other, _ in missing)
    }
    until = math.inf if options.minutes is None else time.monotonic() + 60 * options.minutes
    ready = dict(run_jobs(make_oracle, oracles, options.jobs, until))
    jobs = {
        (data, seed, arm): (str(ready[data]), arm, seed, options.out / data / f"{arm}-seed{seed}")
        for data, seed in missing
        for arm in ARMS
        if data in ready
    }
    done = {name for name, _ in run_jobs(train_arm, jobs, options.jobs, until)}
    return [one for one in missing if all((*one, arm) in done for arm in ARMS)]


def about(options: argparse.Namespace) -> dict[str, Any]:
    """Return what tells rows of a reduced run apart."""
    return {"scale": "small"} if options.small else {}


def make_oracle(config: RunConfig, folder: Path) -> Path:
    """Train the oracle's run and its FMCE-Net."""
    run = train_classifier(config, folder, keep="markers")
    train_fmce_net(run, "map")
    return folder.resolve()


def train_arm(oracle: str, arm: str, seed: int, folder: Path) -> None:
    """Train one arm, as long as the oracle's complete run."""
    treatment = AuxiliaryConfig("ral", oracle, raf=RAF)
    config = arm_config(plain_config(open_run(oracle), "full"), arm, seed, treatment)
    train_classifier(config, folder, keep="last")


def record_seed(options: argparse.Namespace, data: str, seed: int) -> None:
    """Record what a seed's arms came to."""
    arms = {}
    for arm in ARMS:
        run = open_run(options.out / data / f"{arm}-seed{seed}")
        arms[arm] = measured(run)
    oracle = open_run(options.out / data / "oracle")
    config = to_dict(plain_config(oracle, "full")) | {"raf": RAF}
    config["data"]["root"] = None
    result = {"arms": arms, "oracle_markers": list(oracle.phases.markers)}
    what = "FMCE-Net++, other oracles and controls"
    record(
        options.results, EXPERIMENT, what, config, result, data=data, seed=seed, **about(options)
    )


def measured(run: Run) -> dict[str, Any]:
    """Return an arm's scores on test images, and what it came to on those it learned."""
    last, done = run.curve[-1], run.done or {}
    return {
        **{name: done[name] for name in ("test_accuracy", "test_loss")},
        "train_accuracy": last["accuracy"],
        "train_loss": run.losses[-1],
        "epoch_seconds": float(np.median([row["time_seconds"] for row in run.curve])),
    }


if __name__ == "__main__":
    run_script(main)
