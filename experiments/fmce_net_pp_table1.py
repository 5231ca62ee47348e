"""FMCE-Net++'s Table I: test accuracy by RAF with plain training and all controls, beside the paper's.

    python -m experiments.fmce_net_pp_table1 --small | --medium [--out runs/papers]
    python -m experiments.fmce_net_pp_table1 [--model …] [--data …]     (224 px, for a GPU)

Fashion-MNIST at 16 px with `tiny`, three RAFs and three seeds, all seven controls: 33 trainings of E_K epochs.
Time: `--medium`, 5,000 images, about an hour on one idle CPU core (`--jobs 2` uses two); its oracle is the
cosine run of sensitivity with an FMCE-Net of split `map`. `--small`, 1,000 images, was not timed. At the
paper's scale nothing was run here; the plan is eight RAFs and five seeds per row, 66 trainings with the
oracle's, each about as long as one of fmce_table1: by the estimate there, on one GPU a day or two per row for
ShuffleNet v2 and more than a week for ResNet-50. So --model and --data pick rows, and `--engine ray` spreads
the trainings of a row over GPUs and machines. If interrupted, rerun the command to resume. Records one row per
network and data set in results/fmce_net_pp.jsonl. Expected: no difference that is clear of zero.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from experiments import sensitivity
from experiments.paper_runs import (
    SWEPT,
    Case,
    paper_parser,
    parse,
    rows_of,
    run_cases,
    trained,
    with_phases,
)
from experiments.script import portable, record, run_script
from experiments.tables.fmce_net_pp import arm_table, setup_table
from fmce.config.io import to_dict
from fmce.config.sweep import SweepConfig
from fmce.console.tables import print_table
from fmce.fmce_net_pp.sweep.results import Comparison
from fmce.fmce_net_pp.sweep.run import make_workers, sweep
from fmce.maturity.train_classifier import train_classifier
from fmce.maturity.train_fmce_net import train_fmce_net
from fmce.runs.run import Run

EXPERIMENT = "fmce_net_pp_table1"
PAPER_RAFS = (0.95, 0.9, 0.85, 0.8, 0.78, 0.75, 0.7, 0.5)


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, record a row per network and data set, print ours beside the paper's."""
    parser = paper_parser(__doc__, "fmce_net_pp.jsonl")
    add = parser.add_argument
    add("--jobs", type=int, help="trainings at a time (default: one per core or GPU)")
    add("--engine", choices=("local", "ray"), default="local", help="where trainings run")
    add("--address", help="Ray cluster to use (default: start one on this machine)")
    options = parse(parser, argv)
    check_group(parser, options)
    options.cases = swept_cases(options)
    run_cases(options, partial(sweep_case, options), lambda: print_accuracies(options))


def check_group(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse another group than the one swept below the paper's scale, and rows that the paper's table lacks."""
    if not swept_cases(options):
        parser.error(f"the paper's table has no row of {', '.join(options.data or ())}")
    asked = (options.data or ["fashion-mnist"], options.model or ["tiny"])
    if options.scale in SWEPT and asked != (["fashion-mnist"], ["tiny"]):
        parser.error(
            f"--{options.scale} sweeps tiny on fashion-mnist alone; leave --data and --model out"
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
    """Train what a case's sweep lacks, and record its row."""
    config, folder = sweep_config(options, case), sweep_folder(options, case)
    workers = make_workers(
        options.engine, folder, options.jobs, options.device, address=options.address
    )
    result = sweep(config, folder, workers=workers, device=options.device)
    for group in result.groups:
        record_group(options, config, group, len(result.failed))
    if result.failed:
        raise ValueError(
            f"failed trainings: {', '.join(result.failed)}; rerun the command to try them again"
        )


def sweep_config(options: argparse.Namespace, case: Case) -> SweepConfig:
    """Return the paper's grid for a network on a data set, or a smaller one with its oracle trained."""
    base = SweepConfig(models=(case.model,), data=(case.data,))
    if options.scale == "paper":
        settings, seeds = tuple(options.settings), (1, 2, 3, 4, 5)
        return replace(base, rafs=PAPER_RAFS, seeds=seeds, preset="paper", settings=settings)
    return replace(
        base,
        # The three that the paper has for both networks on Fashion-MNIST, without its weakest.
        rafs=(0.95, 0.9, 0.75),
        seeds=(1, 2, 3),
        preset="small",
        settings=(*case.settings.split(), *options.settings),
        oracles=(str(subset_oracle(options, case).path.resolve()),),
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


def record_group(
    options: argparse.Namespace, config: SweepConfig, group: Comparison, failed: int
) -> None:
    """Record one group's arms and comparisons; where no test accuracy was read an earlier row stays."""
    if not group.arms:
        print(f"not recorded: {group.group}: no test accuracy was read", flush=True)
        return
    about = {"scale": options.scale, "data": group.data, "model": group.model, "seed": group.seeds}
    result = portable(group) | {"failed": failed}
    for name in ("group", "model", "data"):
        del result[name]
    values = to_dict(config)
    del values["oracles"]  # paths
    record(options.results, EXPERIMENT, "FMCE-Net++ sweep", values, result, **about)


def print_accuracies(options: argparse.Namespace) -> None:
    """Print the recorded rows beside the paper's."""
    for row in rows_of(options, EXPERIMENT):
        print_table("FMCE-Net++, Table I: what was compared", *setup_table([row]))
        table = arm_table(row["result"], row["data"])
        print_table("FMCE-Net++, Table I: ours beside the paper's", *table)


if __name__ == "__main__":
    run_script(main)
