"""FMCE's Table II: FMCE-Net on feature maps it was not trained on, by all splits, beside the paper's.

    python experiments/fmce_table2.py --small [--data mnist …] [--splits map image run test]
    python experiments/fmce_table2.py                         (224 px, for a GPU)

Trains the original tasks first where they are missing (fmce_table1.py's runs; split `run` needs a
second seed's). Time: `--small`, about 4 minutes a split on one idle CPU core, for 100,000 maps. At the
paper's scale nothing was run here; the maps are recomputed in every epoch, so each split costs about
ten inferences of the training set by ten backbones (not measured). Puts one row a split into
results/fmce.jsonl. Expected with `--small`: splits `map`, `image` and `test` far above guessing
(0.10), split `run` near it. The paper does not say its split; `map` shares images between both sides.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from paper_runs import Case, options_parser, parse, record, trained
from paper_tables import DATA_NAMES, MODEL_NAMES, paper_table
from result_rows import read_file

from fmce.commands.evaluate import evaluate
from fmce.commands.show import number, print_table
from fmce.commands.train_net import train_net
from fmce.configs import ScorerConfig, Split
from fmce.run_folder import Run

EXPERIMENT = "fmce_table2"
NAMES = ("accuracy", "precision", "recall", "f1", "mae", "spearman")


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, record a row a split, print both columns."""
    parser = options_parser(__doc__, "fmce.jsonl")
    splits = get_args(Split)
    parser.add_argument("--splits", nargs="+", choices=splits, default=list(splits))
    parser.add_argument("--scorer-epochs", type=int, help="epochs of FMCE-Net; small: 4, paper: 10")
    options = parse(parser, argv)
    for case in () if options.rows else options.cases:
        if case.phases:
            score_case(case, options)
    rows = [row for row in read_file(options.results) if row["experiment"] == EXPERIMENT]
    print_scores([row for row in rows if row["scale"] == options.scale])


def score_case(case: Case, options: argparse.Namespace) -> None:
    """Train and measure a case's FMCE-Nets, one a split."""
    run = trained(case, 0, options)
    config = scorer_config(run, options)
    for split in options.splits:
        others = [trained(case, 1, options)] if split == "run" else []
        result = train_net(run, split, others=others, config=config, runtime=options.runtime)
        if split == "run":
            across = evaluate(run, "map", others=others, runtime=options.runtime, quiet=True)
            result = result | {"map_split_on_other_run": next(iter(across["other_runs"].values()))}
        record(
            options, EXPERIMENT, f"FMCE-Net, split {split}", case, run, with_scorer(result, config)
        )


def with_scorer(result: dict[str, Any], config: ScorerConfig) -> dict[str, Any]:
    """Return a result with how its FMCE-Net was trained, and without paths."""
    kept = {k: v for k, v in result.items() if k != "held_out_runs"}
    return kept | {"scorer": {"epochs": config.epochs, "batch_size": config.batch_size}}


def scorer_config(run: Run, options: argparse.Namespace) -> ScorerConfig:
    """Return how FMCE-Net is trained: the run's own section, at `--small` with all maps in memory."""
    config = run.config.scorer
    if options.small:
        # Not given in the paper: 4 epochs see each of 75,000 maps four times.
        config = replace(config, maps="memory", epochs=4)
    return replace(config, epochs=options.scorer_epochs or config.epochs)


def print_scores(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the recorded rows under the published ones."""
    print_table("FMCE, Table II: ours beside the paper's", ("FMCE-Net", *NAMES), score_lines(rows))


def score_lines(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return a line for each published row of the data sets and for each measurement of ours."""
    published = paper_table("fmce_table_2")["rows"]
    lines = []
    for data in dict.fromkeys(row["data"] for row in rows):
        word = DATA_NAMES.get(data, data).split("-")[-1 if data == "mini-imagenet" else 0]
        mine = [p for p in published if p[0].lower().startswith(word.lower())]
        lines += [(f"paper: {p[0]}", *(number(v) for v in p[1:]), "–", "–") for p in mine]
        for row in rows:
            if row["data"] == data:
                lines += row_lines(row)
    return lines


def row_lines(row: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the measurements of one FMCE-Net: held-out maps, test images, another run."""
    result = row["result"]
    model = MODEL_NAMES.get(row["model"], row["model"])
    name = f"here: {DATA_NAMES.get(row['data'], row['data'])}, {model}, split {result['split']}"
    labels = {
        "held_out": "held out",
        "test_images": "test images",
        "map_split_on_other_run": "split map's net on the other run",
    }
    return [
        (f"{name}: {label}", *(number(result[key][n]) for n in NAMES))
        for key, label in labels.items()
        if result.get(key)
    ]


if __name__ == "__main__":
    main()
