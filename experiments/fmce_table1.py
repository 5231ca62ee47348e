"""FMCE's Table I: epoch markers and test accuracy of the original task, ours beside the paper's.

    python -m experiments.fmce_table1 --small | --medium [--data mnist …] [--out runs/papers]
    python -m experiments.fmce_table1                         (224 px, for a GPU)
    torchrun --standalone --nproc-per-node=4 -m experiments.fmce_table1      (on four GPUs)

Time on one idle CPU core: `--small`, three trainings on 1,000 images, 4 minutes; `--medium`, about 8 minutes
per set of 10,000 images. At the paper's scale nothing was run here; by multiply-adds we expect (an estimate,
not a measurement) half an hour for ShuffleNet v2 and several hours for ResNet-50 per row on one H100. If
interrupted, rerun the command to resume. Records one row per training in results/fmce.jsonl. Expected with
`--medium`: ten rising markers on MNIST, Fashion-MNIST and CIFAR-10; test accuracy near 0.98, 0.88 and 0.68.
"""

from collections.abc import Sequence

from experiments.paper_runs import (
    Case,
    paper_parser,
    parse,
    print_rows,
    record_case,
    run_cases,
    trained,
    training_result,
)
from experiments.script import run_script
from experiments.tables.fmce import marker_table

EXPERIMENT, WHAT = "fmce_table1", "original task"


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, record a row each, print ours beside the paper's."""
    parser = paper_parser(__doc__, "fmce.jsonl")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="runs of each case")
    options = parse(parser, argv, together=True)

    def train_case(case: Case) -> None:
        for seed in options.seeds:
            run = trained(case, seed, options)
            if options.runtime.ranks.is_main:
                record_case(options, EXPERIMENT, WHAT, case, run, training_result(run))

    title = "FMCE, Table I: ours beside the paper's"
    run_cases(options, train_case, lambda: print_rows(options, EXPERIMENT, title, marker_table))


if __name__ == "__main__":
    run_script(main)
