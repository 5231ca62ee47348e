"""FMCE and FMCE-Net++ on scikit-learn's digits: markers, FMCE-Net within and across runs, all arms over five seeds.

    python -m experiments.digits [--out runs/digits]

About 15 minutes on 2 CPU cores; a killed run goes on where it was. Puts one row a result into
results/digits.jsonl. Expected: test accuracy 0.99 or more; ten markers ending near epoch 42;
FMCE-Net accuracy 0.95 or more on unseen images of its own run and near 0.1 (chance) on another
seed's; FMCE-Net++ not distinguishable from its baseline.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.result_rows import portable
from experiments.run_script import run_script
from fmce.config.io import to_dict
from fmce.config.presets import preset
from fmce.config.run import RunConfig
from fmce.config.sweep import CompareConfig
from fmce.fmce_net_pp.compare import compare
from fmce.maturity.evaluate import evaluate
from fmce.maturity.train_classifier import train_classifier
from fmce.maturity.train_fmce_net import train_fmce_net
from fmce.runs.log import record_result
from fmce.runs.run import Run

RESULTS = Path(__file__).resolve().parent.parent / "results" / "digits.jsonl"


def main() -> None:
    """Run everything and append the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/digits"))
    out = parser.parse_args().out
    config = preset("digits")
    run, other = (train_classifier(with_seed(config, seed), out / f"seed{seed}") for seed in (0, 1))
    for one in (run, other):
        record("original task", one, original_task(one))
    for split in ("map", "image"):
        record(f"FMCE-Net, split {split}", run, train_fmce_net(run, split))
        across = evaluate(run, split, others=[other])["other_runs"]
        record(f"FMCE-Net, split {split}, on another seed's run", run, *across.values())
    plan = CompareConfig(
        oracle=str(run.path), rafs=(0.95, 0.9, 0.75, 0.5), seeds=(1, 2, 3, 4, 5), same_seed=True
    )
    record("FMCE-Net++ and controls", run, portable(compare(plan, out / "compare")))


def with_seed(config: RunConfig, seed: int) -> RunConfig:
    """Return the config with another seed."""
    return replace(config, train=replace(config.train, seed=seed))


def original_task(run: Run) -> dict[str, Any]:
    """Return a run's test accuracy, its markers and what made them."""
    phases, done = run.phases, run.done or {}
    return {
        "seed": run.config.train.seed,
        "test_accuracy": done["test_accuracy"],
        "markers": list(phases.markers),
        "step_curve_markers": phases.step_curve_markers,
        "unsmoothed_markers": phases.unsmoothed_markers,
        "debiased_markers": phases.debiased_markers,
        "smoothing_distance": phases.smoothing_distance,
        "lr_fraction": phases.lr_fraction,
    }


def record(what: str, run: Run, result: dict[str, Any]) -> None:
    """Record one row in place of an earlier one of the same name and seed."""
    row = {
        "experiment": "digits",
        "what": what,
        "seed": run.config.train.seed,
        "result": result,
        "config": to_dict(run.config),
    }
    record_result(RESULTS, row, key=("what", "seed"))
    print(f"recorded: {what}")


if __name__ == "__main__":
    run_script(main)
