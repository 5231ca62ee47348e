"""FMCE's figures: loss with its phases, Grad-CAM over the phases with numbers, and what FMCE-Net confuses.

    python -m experiments.fmce_figures --small | --medium [--data mnist …] [--images 6]
    python -m experiments.fmce_figures                        (224 px, for a GPU)

Uses the runs of fmce_table1 and trains them where they are missing; the confusion matrices need the FMCE-Nets
of fmce_table2 and are left out without them. Time: a minute per set once its run is there (one CPU core).
Writes OUT/figures/*.png and records the numbers of Grad-CAM in results/fmce.jsonl. Expected: the paper reads
growing focus from pictures of chosen images; the numbers beside the pictures show whether energy concentrates
(Gini) and whether the focus settles (overlap with the phase before).
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

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
from experiments.tables.fmce import cam_table
from fmce.files import read_json
from fmce.maturity.explain import explain
from fmce.report.figures import save_figure
from fmce.report.loss_figure import loss_phases_figure
from fmce.report.picture_figures import confusion_figure
from fmce.runs.run import Run

EXPERIMENT, WHAT = "fmce_figures", "Grad-CAM over phases"


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the figures of every case, record and print the numbers of Grad-CAM."""
    parser = paper_parser(__doc__, "fmce.jsonl")
    parser.add_argument("--images", type=int, default=100, help="test images averaged over")
    parser.add_argument("--shown", type=int, default=6, help="how many of them are drawn")
    options = parse(parser, argv)
    options.cases = [case for case in options.cases if case.phases]
    run_cases(
        options,
        lambda case: draw_case(case, options),
        lambda: print_rows(options, EXPERIMENT, WHAT, cam_table),
    )


def draw_case(case: Case, options: argparse.Namespace) -> None:
    """Draw a case's figures and record Grad-CAM's numbers."""
    run = with_phases(trained(case, 0, options))
    folder = options.out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    save_figure(loss_phases_figure(run.losses, run.phases), folder / f"{case.name}-phases.png")
    draw_confusions(run, folder, case.name)
    result = explain(run, num_images=options.images, runtime=options.runtime)
    numbers = {"images": options.images} | {n: result[n] for n in ("epochs", "per_phase")}
    record_case(options, EXPERIMENT, WHAT, case, run, numbers)
    # Last, so that the picture left in the run's folder shows few enough images to look at.
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


if __name__ == "__main__":
    run_script(main)
