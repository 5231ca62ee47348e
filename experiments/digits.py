"""FMCE and FMCE-Net++ on scikit-learn's digits: markers, FMCE-Net within and across runs, all arms over five seeds.

    python -m experiments.digits [--out runs/digits]

Time: about 15 minutes on 2 CPU cores. If interrupted, rerun the command to resume. Records one row per result
in results/digits.jsonl. Expected: test accuracy 0.99 or more; ten markers that end near epoch 42; FMCE-Net
accuracy 0.95 or more on unseen images of its own run and near 0.1 (chance) on another seed's; FMCE-Net++ not
distinguishable from its baseline.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from experiments.paper_runs import marker_results
from experiments.script import options_parser, portable, record, run_script
from fmce.config.presets import make_config
from fmce.config.sweep import CompareConfig
from fmce.fmce_net_pp.compare import compare
from fmce.maturity.evaluate import evaluate
from fmce.maturity.train_classifier import train_classifier
from fmce.maturity.train_fmce_net import train_fmce_net
from fmce.runs.run import Run


def main(argv: Sequence[str] | None = None) -> None:
    """Run everything and record the rows."""
    options = options_parser(__doc__, "digits.jsonl", "runs/digits").parse_args(argv)
    run, other = (
        train_classifier(
            make_config("digits", "digits", settings=[f"train.seed={seed}"]),
            options.out / f"seed{seed}",
        )
        for seed in (0, 1)
    )
    save = partial(record, options.results, "digits")
    for one in (run, other):
        seed = one.config.train.seed
        save("original task", one.config, original_task(one), seed=seed)
    for split in ("map", "image"):
        what = f"FMCE-Net, split {split}"
        save(what, run.config, train_fmce_net(run, split), seed=0)
        across = evaluate(run, split, others=[other])["other_runs"]
        save(f"{what}, on another seed's run", run.config, *across.values(), seed=0)
    rafs, seeds = (0.95, 0.9, 0.75, 0.5), (1, 2, 3, 4, 5)
    plan = CompareConfig(oracle=str(run.path), rafs=rafs, seeds=seeds, same_seed=True)
    result = portable(compare(plan, options.out / "compare"))
    save("FMCE-Net++ and controls", run.config, result, seed=0)


def original_task(run: Run) -> dict[str, Any]:
    """Return a run's test accuracy, its markers and what made them."""
    accuracy = (run.done or {})["test_accuracy"]
    return {"seed": run.config.train.seed, "test_accuracy": accuracy} | marker_results(run)


if __name__ == "__main__":
    run_script(main)
