"""FMCE's Table II: FMCE-Net on feature maps it was not trained on, by all splits, beside the paper's.

    python -m experiments.fmce_table2 --small | --medium [--data mnist …] [--splits map image run test]
    python -m experiments.fmce_table2                         (224 px, for a GPU)
    torchrun --standalone --nproc-per-node=4 -m experiments.fmce_table2      (for four of them)

Trains the original tasks first where they are missing (fmce_table1.py's runs; split `run` needs a
second seed's). Time on one idle CPU core: `--small`, a minute and a half a split, 20 minutes in all, most
of them for the maps of 10,000 test images; `--medium`, about 4 minutes a split of 100,000 maps, with
ShuffleNet v2's maps 15. At the paper's scale nothing was run here; the maps are recomputed in every
epoch, so each split costs about ten inferences of the training set by ten backbones (not measured).
Puts one row a split into results/fmce.jsonl. Expected with `--medium`: splits `map`, `image` and `test`
far above guessing (0.10), split `run` near it. The paper does not say its split; `map` shares images
between both sides.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, get_args

from experiments.paper_runs import (
    Case,
    each_case,
    end,
    options_parser,
    parse,
    record,
    rows_of,
    trained,
    with_phases,
)
from experiments.run_script import run_script
from experiments.sections.fmce_nets import HEADER, score_lines
from fmce.config.choices import Split
from fmce.config.run import FMCENetConfig
from fmce.console.tables import print_table
from fmce.engine.distributed.ranks import ALONE
from fmce.engine.runtime import Runtime
from fmce.maturity.evaluate import evaluate
from fmce.maturity.train_fmce_net import train_fmce_net
from fmce.runs.run import Run

EXPERIMENT = "fmce_table2"


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, record a row a split, print both columns."""
    parser = options_parser(__doc__, "fmce.jsonl")
    splits = get_args(Split)
    parser.add_argument("--splits", nargs="+", choices=splits, default=list(splits))
    parser.add_argument("--scorer-epochs", type=int, help="epochs of FMCE-Net; 10 by default")
    options = parse(parser, argv, together=True)
    options.cases = [case for case in options.cases if case.phases]
    failed = each_case(options, lambda case: score_case(case, options))
    if options.runtime.ranks.is_main:
        print_scores(rows_of(options, EXPERIMENT))
    end(failed)


def score_case(case: Case, options: argparse.Namespace) -> None:
    """Train and measure a case's FMCE-Nets, one a split."""
    run = with_phases(trained(case, 0, options))
    config = scorer_config(run, options)
    # NHWC order maps images 1.6 times as fast on the processor measured; values differ by rounding.
    runtime = replace(options.runtime, channels_last=True)
    for split in options.splits:
        others = [with_phases(trained(case, 1, options))] if split == "run" else []
        result = train_fmce_net(run, split, others=others, config=config, runtime=runtime)
        if split == "run":
            moved = runtime.ranks.on_rank_zero_slowly(partial(on_other_run, run, others, runtime))
            result = result | {"map_split_on_other_run": moved}
        record(
            options, EXPERIMENT, f"FMCE-Net, split {split}", case, run, with_scorer(result, config)
        )


def on_other_run(run: Run, others: Sequence[Run], runtime: Runtime) -> dict[str, Any]:
    """Return how the FMCE-Net of split map does on another run's maps, measured by this process alone."""
    alone = replace(runtime, ranks=ALONE)
    across = evaluate(run, "map", others=others, runtime=alone)
    return dict(next(iter(across["other_runs"].values())))


def with_scorer(result: dict[str, Any], config: FMCENetConfig) -> dict[str, Any]:
    """Return a result with how its FMCE-Net was trained, and without paths."""
    kept = {k: v for k, v in result.items() if k != "held_out_runs"}
    return kept | {"scorer": {"epochs": config.epochs, "batch_size": config.batch_size}}


def scorer_config(run: Run, options: argparse.Namespace) -> FMCENetConfig:
    """Return how FMCE-Net is trained: the run's own section, below the paper's scale with all maps in memory."""
    config = run.config.fmce_net
    if options.scale != "paper":
        config = replace(config, storage="memory")
    return replace(config, epochs=options.scorer_epochs or config.epochs)


def print_scores(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the recorded rows under the published ones."""
    print_table("FMCE, Table II: ours beside the paper's", HEADER, score_lines(rows))


if __name__ == "__main__":
    run_script(main)
