"""FMCE-Net++'s Table I: test accuracy by RAF with plain training and four controls, beside the paper's.

    python -m experiments.fmce_net_pp_table1 --small | --medium [--out runs/papers]
    python -m experiments.fmce_net_pp_table1 [--model …] [--data …]     (224 px, for a GPU)

Fashion-MNIST at 16 px with `tiny`, three RAFs and three seeds, all four controls: 24 trainings of E_K
epochs. `--medium`: 5,000 images, about 40 minutes on one idle CPU core (`--jobs 2` takes two); its oracle
is the cosine run of sensitivity.py with an FMCE-Net of split `map`. `--small`: 1,000 images (not timed).
At the paper's scale nothing was run here; the plan is eight RAFs and five seeds per row, 66 trainings with
the oracle's. Each is about as long as one of fmce_table1.py's: by the estimate there, on one GPU a day or two
a row for ShuffleNet v2 and more than a week for ResNet-50. So --model and --data pick rows, and
`--engine ray` spreads each row's trainings over GPUs and machines. Trainings that are done are never
redone. Puts one row a network and data set into results/fmce_net_pp.jsonl. Expected: no difference
that is clear of zero.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from experiments import sensitivity
from experiments.paper_runs import (
    SWEPT,
    Case,
    each_case,
    end,
    options_parser,
    parse,
    rows_of,
    trained,
    with_phases,
)
from experiments.result_rows import portable
from experiments.run_script import run_script
from experiments.sections.fmce_plus import HEADER, about, accuracy_lines
from fmce.config.io import to_dict
from fmce.config.sweep import SweepConfig
from fmce.console.tables import print_table
from fmce.fmce_net_pp.sweep.results import Comparison
from fmce.fmce_net_pp.sweep.run import make_workers, sweep
from fmce.maturity.train_classifier import train_classifier
from fmce.maturity.train_fmce_net import train_fmce_net
from fmce.runs.log import record_result
from fmce.runs.run import Run

EXPERIMENT, WHAT = "fmce_net_pp_table1", "FMCE-Net++ sweep"
SWEPT_DATA = "fashion-mnist"
PAPER_RAFS = (0.95, 0.9, 0.85, 0.8, 0.78, 0.75, 0.7, 0.5)


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, record a row a network and data set, print both columns."""
    parser = options_parser(__doc__, "fmce_net_pp.jsonl")
    add = parser.add_argument
    add("--jobs", type=int, help="trainings at a time (by default one a core or GPU)")
    add("--engine", choices=("local", "ray"), default="local", help="where trainings run")
    add("--address", help="Ray cluster to use; by default one on this machine")
    options = parse(parser, argv)
    check_group(parser, options)
    options.cases = swept_cases(options)
    failed = each_case(options, partial(sweep_case, options))
    print_accuracies(rows_of(options, EXPERIMENT))
    end(failed)


def check_group(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse another group than the one swept below the paper's scale, and rows that the paper's table lacks."""
    if not swept_cases(options):
        parser.error(f"the paper's table has no row of {', '.join(options.data or ())}")
    if options.scale in SWEPT and (options.data or [SWEPT_DATA], options.model or ["tiny"]) != (
        [SWEPT_DATA],
        ["tiny"],
    ):
        parser.error(
            f"--{options.scale} sweeps tiny on {SWEPT_DATA} alone; leave --data and --model out"
        )


def swept_cases(options: argparse.Namespace) -> list[Case]:
    """Return the cases that are swept: a reduced one on processors, else all that the paper's table has."""
    if options.scale in SWEPT:
        return [SWEPT[options.scale]]
    return [case for case in options.cases if case.data != "mini-imagenet"]


def sweep_folder(options: argparse.Namespace, case: Case) -> Path:
    """Return the sweep's folder: each case has its own, so that rows can be asked for one by one."""
    folder: Path = options.out / "sweeps" / options.scale
    return folder / case.name if options.scale == "paper" else folder


def sweep_case(options: argparse.Namespace, case: Case) -> None:
    """Train what a case's sweep lacks, and record its row.

    Raises:
        ValueError: trainings are left failed.
    """
    subset = options.scale in SWEPT
    config = subset_sweep(options, case) if subset else paper_sweep(options, case)
    folder = sweep_folder(options, case)
    workers = make_workers(
        options.engine, folder, options.jobs, options.device, address=options.address
    )
    result = sweep(config, folder, workers=workers, device=options.device)
    for group in result.groups:
        record(options, config, group, len(result.failed))
    if result.failed:
        raise ValueError(
            f"failed trainings: {', '.join(result.failed)}; rerun the command to try them again"
        )


def subset_sweep(options: argparse.Namespace, case: Case) -> SweepConfig:
    """Return the grid on a subset, its oracle trained."""
    oracle = subset_oracle(options, case)
    return SweepConfig(
        models=(case.model,),
        data=(case.data,),
        # The three that the paper has for both networks on Fashion-MNIST, without its weakest.
        rafs=(0.95, 0.9, 0.75),
        seeds=(1, 2, 3),
        preset="small",
        settings=(*case.settings, *options.settings),
        oracles=(str(oracle.path.resolve()),),
    )


def subset_oracle(options: argparse.Namespace, case: Case) -> Run:
    """Return the oracle's run with its FMCE-Net: the paper's split, all maps in memory."""
    if options.scale == "small":
        run = trained(case, 0, options)
    else:
        folder = sensitivity.schedule_folder(options.out, case.data, "cosine")
        config = sensitivity.schedule_config(case.data, "cosine", options.settings)
        run = train_classifier(config, folder, runtime=options.runtime)
    with_phases(run)
    scorer = replace(run.config.fmce_net, storage="memory")
    train_fmce_net(run, "map", config=scorer, runtime=options.runtime)
    return run


def paper_sweep(options: argparse.Namespace, case: Case) -> SweepConfig:
    """Return the paper's grid for a network on a data set."""
    return SweepConfig(
        models=(case.model,),
        data=(case.data,),
        rafs=PAPER_RAFS,
        seeds=(1, 2, 3, 4, 5),
        preset="paper",
        settings=tuple(options.settings),
    )


def record(
    options: argparse.Namespace,
    config: SweepConfig,
    group: Comparison,
    failed: int,
) -> None:
    """Record one group's arms and comparisons; where no test accuracy was read an earlier row stays."""
    if not group.arms:
        print(f"not recorded: {group.group}: no test accuracy was read", flush=True)
        return
    left = ("group", "model", "data")
    row = {
        "experiment": EXPERIMENT,
        "what": WHAT,
        "scale": options.scale,
        "data": group.data,
        "model": group.model,
        "seed": group.seeds,
        "result": {k: v for k, v in portable(group).items() if k not in left} | {"failed": failed},
        "config": {k: v for k, v in to_dict(config).items() if k != "oracles"},
    }
    record_result(options.results, row, key=("experiment", "scale", "data", "model"))


def print_accuracies(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the recorded rows, with a column for each published network of the data set."""
    for row in rows:
        print(about(row))
        print_table("FMCE-Net++, Table I: ours beside the paper's", HEADER, accuracy_lines(row))


if __name__ == "__main__":
    run_script(main)
