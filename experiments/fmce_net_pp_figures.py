"""FMCE-Net++'s figures: validation accuracy over epochs, test accuracy by RAF, Grad-CAM over RAF.

    python -m experiments.fmce_net_pp_figures --small | --medium [--out runs/papers]
    python -m experiments.fmce_net_pp_figures                 (224 px, after fmce_net_pp_table1.py)

Draws from the finished trainings of fmce_net_pp_table1.py and trains nothing; under a minute a group on
one CPU core. Writes OUT/figures/GROUP-{epochs,rafs,grad-cam}.png and puts the numbers of Grad-CAM
into results/fmce_net_pp.jsonl. Expected: curves and bars that overlap within the spread over seeds.
Test images are looked at for Grad-CAM only after RAF was selected on validation images.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.fmce_net_pp_table1 import sweep_folder, swept_cases
from experiments.paper_runs import is_asked, options_parser, parse, rows_of
from experiments.run_script import run_script
from experiments.sections.fmce_plus import arm_name
from fmce.console.tables import number, print_table
from fmce.files import read_json
from fmce.maturity.explain import one_of_each_class
from fmce.models.grad_cam import cam_numbers, grad_cam
from fmce.report.arm_figures import accuracy_curves_figure, raf_bars_figure
from fmce.report.figures import save_figure
from fmce.report.map_figures import grad_cam_figure
from fmce.runs.log import read_done, read_metrics, record_result
from fmce.runs.run import open_run

EXPERIMENT, WHAT = "fmce_net_pp_figures", "Grad-CAM over RAF"
NAMES = ("gini", "area_above_half_max")


def main(argv: Sequence[str] | None = None) -> None:
    """Draw each group's three figures, record and print the numbers of Grad-CAM."""
    parser = options_parser(__doc__, "fmce_net_pp.jsonl")
    parser.add_argument("--images", type=int, default=100, help="test images the numbers are of")
    parser.add_argument("--shown", type=int, default=6, help="how many of them are drawn")
    options = parse(parser, argv)
    if not options.rows:
        folders = [sweep_folder(options, case) for case in swept_cases(options)]
        swept = [folder for folder in folders if (folder / "sweep.json").exists()]
        if not swept:
            parser.error(
                f"no sweep in {' or '.join(map(str, folders))}; run fmce_net_pp_table1.py first"
            )
        for folder in swept:
            draw_sweep(folder, options)
    print_numbers(rows_of(options, EXPERIMENT))


def draw_sweep(folder: Path, options: argparse.Namespace) -> None:
    """Draw the figures of a sweep's groups that are asked for."""
    result = read_json(folder / "sweep.json")
    for group in (one for one in result["groups"] if is_asked(options, one)):
        rows = [{**row, "folder": folder / row["folder"]} for row in group["rows"]]
        draw_group(group, rows, options)


def draw_group(
    group: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], options: argparse.Namespace
) -> None:
    """Draw the figures of one network on one data set."""
    folder = options.out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{group['model']} on {group['data']}, {len(group['seeds'])} seeds"
    label = "validation accuracy (%)"
    curves = accuracy_curves_figure(curves_of(rows), title=title, label=label)
    save_figure(curves, folder / f"{group['group']}-epochs.png")
    arms = [{**arm, "arm": arm_name(arm["arm"])} for arm in group["arms"]]
    save_figure(raf_bars_figure(arms, title=title), folder / f"{group['group']}-rafs.png")
    names, numbers = draw_cams(group, rows, folder, options)
    result = {"images": options.images, "arms": names, "per_arm": numbers}
    about = {"scale": options.scale, "data": group["data"], "model": group["model"]}
    row = {"experiment": EXPERIMENT, "what": WHAT, **about, "seed": group["seeds"][0]}
    config = {"epochs": group["epochs"], "settings": group["settings"]}
    record_result(
        options.results,
        {**row, "result": result, "config": config},
        key=("experiment", "scale", "data", "model"),
    )
    print(f"figures: {folder}/{group['group']}-*.png", flush=True)


def plain_and_treated(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the finished trainings without controls: plain first, then RAF falling."""
    chosen = [r for r in rows if r["role"] in ("baseline", "ral") and r["epochs"] is not None]
    return sorted(chosen, key=lambda r: (-float(r["raf"]), r["seed"]))


def label_of(row: Mapping[str, Any]) -> str:
    """Return a training's arm in words."""
    return "plain training" if row["arm"] == "baseline" else f"RAF {row['raf']:g}"


def curves_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """Return each arm's validation accuracy, seeds by epochs."""
    curves: dict[str, list[list[float]]] = {}
    for row in plain_and_treated(rows):
        lines = read_metrics(row["folder"])
        curves.setdefault(label_of(row), []).append([one["validation_accuracy"] for one in lines])
    return {arm: np.array(values) for arm, values in curves.items()}


def draw_cams(
    group: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    folder: Path,
    options: argparse.Namespace,
) -> tuple[list[str], list[dict[str, float]]]:
    """Draw Grad-CAM of the last checkpoints over RAF, first seed; return arms and mean numbers."""
    chosen = [r for r in plain_and_treated(rows) if r["seed"] == group["seeds"][0]]
    runs = [open_run(row["folder"]) for row in chosen]
    test = runs[0].setup.data.test
    index = one_of_each_class(test.targets, options.images)
    targets = test.targets[index].to(options.runtime.device)
    images = runs[0].setup.images(test, options.runtime)(index)
    cams = []
    for run in runs:
        model = run.model((read_done(run.path) or {})["epochs"], options.runtime.device)
        with options.runtime.matmul_precision():
            cams.append(grad_cam(model, images, targets, run.setup.layer).cpu())
    stack, shown = torch.stack(cams).numpy(), options.shown
    classes = [runs[0].setup.data.class_names[t] for t in targets[:shown].tolist()]
    names = [label_of(row) for row in chosen]
    figure = grad_cam_figure(test.images[index][:shown].numpy(), stack[:, :shown], names, classes)
    save_figure(figure, folder / f"{group['group']}-grad-cam.png")
    numbers = [cam_numbers(cam, None)._asdict() for cam in stack]
    return names, [{n: float(np.nanmean(one[n])) for n in NAMES} for one in numbers]


def print_numbers(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print Grad-CAM's numbers by arm."""
    for row in rows:
        result = row["result"]
        pairs = zip(result["arms"], result["per_arm"], strict=True)
        lines = [(arm, *(number(means[n], 3) for n in NAMES)) for arm, means in pairs]
        title = f"Grad-CAM over RAF: {row['data']}, {row['model']}, {result['images']} images"
        print_table(title, ("arm", *NAMES), lines)


if __name__ == "__main__":
    run_script(main)
