"""Does a maturity score hold on runs that it never saw?

    python -m experiments.transfer [--small] [--jobs 2] [--large] [--train-only] [--ship FILE]

More than 40 small trainings, unlike in data, architecture, width and recipe, fit the scorer; the trainings of each
protocol are new in one respect, and no choice was made on them. What is stored below --out is not trained again, and
a training that is cut off is repeated. A row per protocol goes to results/transfer.jsonl. Takes about 90 minutes on one
core, so a tenth of that on 14; --large adds ResNet-18 at 32 pixels, for a GPU. --small takes 10 minutes on two.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch

from experiments.script import options_parser, run_script
from experiments.transfer_runs import (
    FITTED,
    LARGE,
    SMALL,
    SMALL_UNSEEN,
    UNSEEN,
    Training,
    train,
)

# Seconds of an epoch relative to those of the smallest network.
_COST = {"vit": 0.5, "mixer": 0.5, "shufflenet": 1.5, "mobilenet": 3.0, "resnet18": 100.0}


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is not stored, fit the scorer, and judge it on unseen runs."""
    parser = options_parser(__doc__, "transfer.jsonl", "runs/transfer")
    parser.add_argument("--small", action="store_true", help="a handful of short trainings")
    parser.add_argument("--large", action="store_true", help="train ResNet-18 at 32 pixels too")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time (%(default)s)")
    parser.add_argument("--minutes", type=float, help="start no training after so many")
    parser.add_argument("--train-only", action="store_true", help="do not fit and judge")
    options = parser.parse_args(argv)
    fitted = SMALL if options.small else FITTED
    unseen = SMALL_UNSEEN if options.small else UNSEEN
    wanted = [*fitted, *(one for some in unseen.values() for one in some)]
    train_all([*wanted, *(LARGE if options.large else ())], options)


def train_all(trainings: Sequence[Training], options: argparse.Namespace) -> None:
    """Train those that are not stored, several at a time and the longest first."""
    missing = [t for t in trainings if not (options.out / f"{t.name}.npz").exists()]
    missing.sort(key=lambda t: -t.epochs * _COST.get(t.architecture, 1.0))
    end = time.monotonic() + 60 * (options.minutes or 1e6)
    # Spawned: a forked process could not use the GPU.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        jobs = {pool.submit(_train_until, one, options.out, end): one for one in missing}
        for number, job in enumerate(as_completed(jobs), start=1):
            name, seconds = jobs[job].name, job.result()
            state = "left for another call" if seconds is None else f"{seconds:.0f} s"
            print(f"{number} of {len(missing)}: {name}: {state}", flush=True)


def _train_until(training: Training, folder: Path, end: float) -> float | None:
    if time.monotonic() > end:
        return None
    torch.set_num_threads(1)
    os.nice(5)
    began = time.perf_counter()
    train(training, folder)
    return time.perf_counter() - began


if __name__ == "__main__":
    run_script(main)
