"""FMCE's Table I: epoch markers and test accuracy of the original task, ours beside the paper's.

    python -m experiments.fmce_table1 --small | --medium [--data mnist …] [--out runs/papers]
    python -m experiments.fmce_table1                         (224 px, for a GPU)
    torchrun --standalone --nproc-per-node=4 -m experiments.fmce_table1      (for four of them)

Time on one idle CPU core: `--small`, three trainings on 1,000 images, 4 minutes; `--medium`, about 8
minutes for each set of 10,000 images. At the paper's scale nothing was run here; by multiply-adds we
expect (an estimate, not a measurement) half an hour for ShuffleNet v2 and several hours for ResNet-50
per row on one H100. A killed run goes on where it was. Puts one row a training into
results/fmce.jsonl. Expected with `--medium`: ten rising markers on MNIST, Fashion-MNIST and CIFAR-10;
test accuracy near 0.98, 0.88 and 0.68.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.paper_runs import (
    Case,
    each_case,
    end,
    options_parser,
    parse,
    record,
    rows_of,
    trained,
    training_result,
)
from experiments.run_script import run_script
from experiments.sections.fmce_markers import HEADER, marker_lines
from fmce.console.tables import print_table

EXPERIMENT, WHAT = "fmce_table1", "original task"


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, record a row each, print both columns."""
    parser = options_parser(__doc__, "fmce.jsonl")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="runs of each case")
    options = parse(parser, argv, together=True)
    ranks = options.runtime.ranks

    def train_case(case: Case) -> None:
        for seed in options.seeds:
            run = trained(case, seed, options)
            if ranks.is_main:
                record(options, EXPERIMENT, WHAT, case, run, training_result(run))

    failed = each_case(options, train_case)
    if ranks.is_main:
        print_markers(rows_of(options, EXPERIMENT))
    end(failed)


def print_markers(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the recorded rows, each data set's under its published ones."""
    print_table("FMCE, Table I: ours beside the paper's", HEADER, marker_lines(rows))


if __name__ == "__main__":
    run_script(main)
