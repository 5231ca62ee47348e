"""FMCE's Table II: FMCE-Net on feature maps it was not trained on, by all splits, beside the paper's.

    python -m experiments.fmce_table2 --small | --medium [--data mnist …] [--splits map image run test]
    python -m experiments.fmce_table2                         (224 px, for a GPU)
    torchrun --standalone --nproc-per-node=4 -m experiments.fmce_table2      (on four GPUs)

Trains the original tasks first where they are missing (the runs of fmce_table1; split `run` needs those of a
second seed). Time on one idle CPU core: `--small`, a minute and a half per split, 20 minutes in all, most of
them for the maps of 10,000 test images; `--medium`, about 4 minutes per split of 100,000 maps, with ShuffleNet
v2's maps 15. At the paper's scale nothing was run here; the maps are recomputed in every epoch, so each split
costs about ten inferences of the training set by ten backbones (not measured). Records one row per split in
results/fmce.jsonl. Expected with `--medium`: splits `map`, `image` and `test` far above guessing (0.10), split
`run` near it. The paper does not name its split; `map` shares images between both sides.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, get_args

from experiments.paper_runs import (
    Case,
    paper_parser,
    parse,
    print_rows,
    record_case,
    run_cases,
    trained,
    with_phases,
)
from experiments.script import run_script
from experiments.tables.fmce import fmce_net_table
from fmce.config.choices import Split
from fmce.config.run import FMCENetConfig
from fmce.engine.distributed.ranks import ALONE
from fmce.engine.runtime import Runtime
from fmce.maturity.evaluate import evaluate
from fmce.maturity.train_fmce_net import train_fmce_net
from fmce.runs.run import Run

EXPERIMENT = "fmce_table2"


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, record a row per split, print ours beside the paper's."""
    parser = paper_parser(__doc__, "fmce.jsonl")
    splits = get_args(Split)
    parser.add_argument("--splits", nargs="+", choices=splits, default=list(splits))
    parser.add_argument("--fmce-net-epochs", type=int, help="epochs of FMCE-Net (default: 10)")
    options = parse(parser, argv, together=True)
    options.cases = [case for case in options.cases if case.phases]
    title = "FMCE, Table II: ours beside the paper's"
    run_cases(
        options,
        lambda case: measure_case(case, options),
        lambda: print_rows(options, EXPERIMENT, title, fmce_net_table),
    )


def measure_case(case: Case, options: argparse.Namespace) -> None:
    """Train and measure a case's FMCE-Nets, one per split."""
    run = with_phases(trained(case, 0, options))
    config = run.config.fmce_net
    config = replace(config, epochs=options.fmce_net_epochs or config.epochs)
    if options.scale != "paper":
        config = replace(config, storage="memory")
    # NHWC order maps images 1.6 times as fast on the processor measured; values differ by rounding.
    runtime = replace(options.runtime, channels_last=True)
    for split in options.splits:
        others = [with_phases(trained(case, 1, options))] if split == "run" else []
        result = train_fmce_net(run, split, others=others, config=config, runtime=runtime)
        result = with_training(result, config)
        if split == "run":
            moved = runtime.ranks.on_rank_zero_slowly(partial(on_other_run, run, others, runtime))
            result["map_split_on_other_run"] = moved
        record_case(options, EXPERIMENT, f"FMCE-Net, split {split}", case, run, result)


def with_training(result: dict[str, Any], config: FMCENetConfig) -> dict[str, Any]:
    """Return a result with how its FMCE-Net was trained, and without paths."""
    kept = {k: v for k, v in result.items() if k != "held_out_runs"}
    return kept | {"fmce_net": {"epochs": config.epochs, "batch_size": config.batch_size}}


def on_other_run(run: Run, others: Sequence[Run], runtime: Runtime) -> dict[str, Any]:
    """Return how the FMCE-Net of split map does on another run's maps, measured by this process alone."""
    across = evaluate(run, "map", others=others, runtime=replace(runtime, ranks=ALONE))
    return dict(next(iter(across["other_runs"].values())))


if __name__ == "__main__":
    run_script(main)
