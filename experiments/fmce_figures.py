"""FMCE's figures: loss with its phases, Grad-CAM over the phases with numbers, and what FMCE-Net confuses.

    python -m experiments.fmce_figures --small | --medium [--data mnist …] [--images 6]
    python -m experiments.fmce_figures                        (224 px, for a GPU)

Uses the runs of fmce_table1.py, trained first where they are missing; the confusion matrices need
fmce_table2.py's FMCE-Nets and are left out without them. A minute for each set once its run is there
(one CPU core). Writes OUT/figures/*.png and puts the numbers of Grad-CAM into results/fmce.jsonl.
Expected: the paper reads growing focus from pictures of chosen images; the numbers beside the pictures
say whether energy concentrates (Gini) and whether the focus settles (overlap with the phase before).
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

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
from fmce.console.tables import number, print_table
from fmce.files import read_json
from fmce.maturity.explain import explain
from fmce.report.figures import save_figure
from fmce.report.loss_figure import loss_phases_figure
from fmce.report.map_figures import confusion_figure
from fmce.runs.run import Run

EXPERIMENT, WHAT = "fmce_figures", "Grad-CAM over phases"
NAMES = ("gini", "area_above_half_max", "centroid_drift", "overlap")


def main(argv: Sequence[str] | None = None) -> None:
    """Draw every case's figures, record and print the numbers of Grad-CAM."""
    parser = options_parser(__doc__, "fmce.jsonl")
    parser.add_argument("--images", type=int, default=100, help="test images the numbers are of")
    parser.add_argument("--shown", type=int, default=6, help="how many of them are drawn")
    options = parse(parser, argv)
    options.cases = [case for case in options.cases if case.phases]
    failed = each_case(options, lambda case: draw_case(case, options))
    print_numbers(rows_of(options, EXPERIMENT))
    end(failed)


def draw_case(case: Case, options: argparse.Namespace) -> None:
    """Draw a case's figures and record Grad-CAM's numbers."""
    run = with_phases(trained(case, 0, options))
    folder = options.out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    save_figure(loss_phases_figure(run.losses, run.phases), folder / f"{case.name}-phases.png")
    draw_confusions(run, folder, case.name)
    result = explain(run, num_images=options.images, runtime=options.runtime)
    numbers = {
        "images": options.images,
        "epochs": result["epochs"],
        "per_phase": result["per_phase"],
    }
    record(options, EXPERIMENT, WHAT, case, run, numbers)
    # Last, so that the run's own picture is of the few images that can be looked at.
    explain(run, num_images=options.shown, runtime=options.runtime)
    shutil.copyfile(run.path / "explain" / "grad_cam.png", folder / f"{case.name}-grad-cam.png")
    print(f"figures: {folder}/{case.name}-*.png", flush=True)


def draw_confusions(run: Run, folder: Path, name: str) -> None:
    """Draw what each FMCE-Net of the run confuses on held-out maps."""
    for file in sorted((run.path / "fmce_net").glob("*/metrics.json")):
        held_out = read_json(file)["held_out"]
        if held_out:
            counts = np.array(held_out["confusion"])
            title = f"{name}: FMCE-Net, split {file.parent.name}"
            figure = confusion_figure(counts, title=title)
            save_figure(figure, folder / f"{name}-confusion-{file.parent.name}.png")


def print_numbers(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print Grad-CAM's numbers by phase, a table a case."""
    for row in rows:
        result = row["result"]
        pairs = zip(result["epochs"], result["per_phase"], strict=True)
        lines = [
            (k, epoch, *(number(means[n], 3) for n in NAMES))
            for k, (epoch, means) in enumerate(pairs, start=1)
        ]
        title = f"Grad-CAM over phases: {row['data']}, {row['model']}, {result['images']} images"
        print_table(title, ("phase", "epoch", *NAMES), lines)


if __name__ == "__main__":
    run_script(main)
