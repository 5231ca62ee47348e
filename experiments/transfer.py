"""Does a maturity score hold on runs that it never saw?

    python -m experiments.transfer [--small] [--jobs 2] [--large] [--train-only] [--ship FILE]

More than 50 small trainings, unlike in data, architecture, width and recipe, fit the scorer; the trainings of each
protocol are new in that respect; docs/results.md says which choices followed a look at some of them. If interrupted,
rerun the command to resume: trainings stored below --out are kept. A row per protocol goes to results/transfer.jsonl.
Takes about an hour on two cores, --small five minutes. --large adds ResNet-18 at 32 pixels with a fine stem, for a GPU.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from experiments.script import options_parser, record, run_script
from experiments.transfer_runs import (
    FITTED,
    LARGE,
    PROBE,
    SMALL,
    SMALL_UNSEEN,
    UNSEEN,
    VIEWS,
    StoredRun,
    Training,
    load_runs,
    train,
)
from experiments.transfer_study import (
    Case,
    baseline_predictors,
    cases_of,
    errors,
    half_way,
    judged,
    summary,
)
from fmce.console.tables import number, print_table
from fmce.scoring.scorer import MaturityScorer

COMMAND = "python -m experiments.transfer"


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is not stored, fit the scorer, and judge it on unseen runs."""
    parser = options_parser(__doc__, "transfer.jsonl", "runs/transfer")
    parser.add_argument("--small", action="store_true", help="a handful of short trainings")
    parser.add_argument("--large", action="store_true", help="train ResNet-18 at 32 pixels too")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time (%(default)s)")
    parser.add_argument("--minutes", type=float, help="start no training after so many")
    parser.add_argument("--train-only", action="store_true", help="do not fit and judge")
    parser.add_argument("--ship", type=Path, metavar="FILE", help="write the fitted scorer there")
    options = parser.parse_args(argv)
    fitted = SMALL if options.small else FITTED
    unseen = dict(SMALL_UNSEEN if options.small else UNSEEN)
    if options.large:
        unseen["larger network"] = [*unseen["larger network"], *LARGE]
    began = time.monotonic()
    train_all(in_turn(fitted, unseen), options)
    if options.train_only:
        return
    stored = load_runs(options.out, fitted)
    scorer = fitted_scorer(stored)
    if options.ship is not None:
        scorer.save(options.ship)
        print(f"wrote {options.ship}: {options.ship.stat().st_size / 1000:.0f} kB", flush=True)
    known = [case for run in stored for case in cases_of(run)]
    about: dict[str, Any] = {"scale": "small"} if options.small else {}
    for protocol, trainings in unseen.items():
        runs = load_runs(options.out, trainings)
        cases = [case for run in runs for case in cases_of(run)]
        if not cases:
            continue
        result = judgement(scorer, known, cases)
        config = {"fitted": len(stored), "runs": [run.training.name for run in runs]}
        seconds = sum(run.seconds for run in (*stored, *runs))
        result["core_minutes"] = round(seconds / 60, 1)
        record(options.results, "transfer", protocol, config, result, **about)
        show(protocol, result)
    print(f"took {(time.monotonic() - began) / 60:.1f} minutes")


def in_turn(fitted: Sequence[Training], unseen: Mapping[str, Sequence[Training]]) -> list[Training]:
    """Return all trainings so that a study that is cut off has some of each kind: two fitted ones to one unseen."""
    others = [one for some in zip_longest(*unseen.values()) for one in some if one is not None]
    pairs = [fitted[n : n + 2] for n in range(0, len(fitted), 2)]
    found: list[Training] = []
    for pair, other in zip_longest(pairs, others):
        found += [*(pair or ()), *(() if other is None else (other,))]
    return found


def fitted_scorer(runs: Sequence[StoredRun]) -> MaturityScorer:
    """Fit the scorer on the modules of stored runs."""
    histories = [case.history for run in runs for case in cases_of(run)]
    recipe = {
        "command": COMMAND,
        "images": PROBE,
        "views": VIEWS,
        "target": "phases of the unsmoothed training loss, 0 to 10",
    }
    return MaturityScorer.fit(histories, card=recipe)


def judgement(
    scorer: MaturityScorer, known: Sequence[Case], cases: Sequence[Case]
) -> dict[str, Any]:
    """Return how far the scores of unseen runs are off, beside what they have to beat."""
    last = [case for case in cases if case.last]
    before = [case for case in cases if not case.last]
    fitted = [case for case in known if case.last]
    result: dict[str, Any] = {}
    for target in ("raw", "official"):
        predictors = baseline_predictors(fitted, target)
        result[target] = {
            "score": judged(scorer, last, target=target),
            **{
                name: summary([errors(case, predict(case), target) for case in last])
                for name, predict in predictors.items()
            },
        }
    return result | {
        "snapshot": judged(scorer, last, "snapshot"),
        "without labels": judged(scorer, last, labels="free"),
        "intermediate": judged(scorer, before),
        "unfinished": half_way(scorer, last),
    }


def show(protocol: str, result: Mapping[str, Any]) -> None:
    """Print what was found in a protocol."""
    lines = {
        **result["raw"],
        **{n: result[n] for n in ("intermediate", "snapshot", "without labels")},
    }
    rows = [
        (name, *(number(one.get(c), 3) for c in ("mae", "rho", "rho_worst", "covered")))
        for name, one in lines.items()
    ]
    header = ("predictor", "MAE in phases", "ρ", "worst ρ", "in the 90 % interval")
    print_table(f"Unseen {protocol}: {result['raw']['score']['runs']} runs", header, rows)
    half = result["unfinished"]["planned"].get("0.5")
    if half:
        print(f"half-way: {half['mae']:.2f} phases off, {half['covered']:.0%} in the interval")


def train_all(trainings: Sequence[Training], options: argparse.Namespace) -> None:
    """Train those that are not stored, several at a time, in their order."""
    missing = [t for t in trainings if not (options.out / f"{t.name}.npz").exists()]
    if not missing:
        return
    end = time.monotonic() + 60 * (options.minutes or 1e6)
    # Spawned: a forked process could not use the GPU.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        jobs = {pool.submit(_train_until, one, options.out, end): one for one in missing}
        for number_, job in enumerate(as_completed(jobs), start=1):
            name, seconds = jobs[job].name, job.result()
            state = "left for another call" if seconds is None else f"{seconds:.0f} s"
            print(f"{number_} of {len(missing)}: {name}: {state}", flush=True)


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
