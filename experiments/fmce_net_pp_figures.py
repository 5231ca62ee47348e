"""FMCE-Net++'s figures: validation accuracy over epochs, test accuracy by RAF, Grad-CAM over RAF.

    python -m experiments.fmce_net_pp_figures --small | --medium [--out runs/papers]
    python -m experiments.fmce_net_pp_figures                 (224 px, after fmce_net_pp_table1)

Draws from the finished trainings of fmce_net_pp_table1 and trains nothing. Time: under a minute per network and
data set on one CPU core. Writes OUT/figures/GROUP-{epochs,rafs,grad-cam}.png and records the numbers of
Grad-CAM in results/fmce_net_pp.jsonl. Expected: curves and bars that overlap within the spread over seeds.
Grad-CAM only sees test images after RAF was selected on validation images.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.fmce_net_pp_table1 import sweep_folder, swept_cases
from experiments.paper_runs import is_asked, paper_parser, parse, print_rows
from experiments.result_rows import Row
from experiments.script import record, run_script
from experiments.tables.fmce_net_pp import arm_name, cam_table
from fmce.files import read_json
from fmce.maturity.explain import one_of_each_class
from fmce.models.grad_cam import cam_numbers, grad_cam
from fmce.report.figures import ACCENT, INK, QUIET, draw_spread, panel, save_figure, styled
from fmce.report.picture_figures import grad_cam_figure
from fmce.runs.log import read_done, read_metrics
from fmce.runs.run import open_run

EXPERIMENT, WHAT = "fmce_net_pp_figures", "Grad-CAM over RAF"
NAMES = ("gini", "area_above_half_max")


def main(argv: Sequence[str] | None = None) -> None:
    """Draw each group's three figures, record and print the numbers of Grad-CAM."""
    parser = paper_parser(__doc__, "fmce_net_pp.jsonl")
    parser.add_argument("--images", type=int, default=100, help="test images averaged over")
    parser.add_argument("--shown", type=int, default=6, help="how many of them are drawn")
    options = parse(parser, argv)
    if not options.rows:
        folders = [sweep_folder(options, case) for case in swept_cases(options)]
        swept = [folder for folder in folders if (folder / "sweep.json").exists()]
        if not swept:
            parser.error(
                f"no sweep in {' or '.join(map(str, folders))}; run fmce_net_pp_table1 first"
            )
        for folder in swept:
            for group in read_json(folder / "sweep.json")["groups"]:
                if is_asked(options, group):
                    draw_group(group, folder, options)
    print_rows(options, EXPERIMENT, WHAT, cam_table)


def draw_group(group: Row, sweep: Path, options: argparse.Namespace) -> None:
    """Draw and record the figures of one network on one data set, a group of a sweep's results."""
    rows = [{**row, "folder": sweep / row["folder"]} for row in group["rows"]]
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
    config = {"epochs": group["epochs"], "settings": group["settings"]}
    seed = group["seeds"][0]
    record(options.results, EXPERIMENT, WHAT, config, result, **about, seed=seed)
    print(f"figures: {folder}/{group['group']}-*.png", flush=True)


def plain_and_treated(rows: Sequence[Row]) -> list[Row]:
    """Return the finished trainings without controls: plain first, then RAF falling."""
    chosen = [r for r in rows if r["role"] in ("baseline", "ral") and r["epochs"] is not None]
    return sorted(chosen, key=lambda r: (-float(r["raf"]), r["seed"]))


def label_of(row: Row) -> str:
    """Return a training's arm in words."""
    return "plain training" if row["arm"] == "baseline" else f"RAF {row['raf']:g}"


def curves_of(rows: Sequence[Row]) -> dict[str, np.ndarray[Any, Any]]:
    """Return each arm's validation accuracy, seeds by epochs."""
    curves: dict[str, list[list[float]]] = {}
    for row in plain_and_treated(rows):
        lines = read_metrics(row["folder"])
        curves.setdefault(label_of(row), []).append([one["validation_accuracy"] for one in lines])
    return {arm: np.array(values) for arm, values in curves.items()}


@styled
def accuracy_curves_figure(
    curves: Mapping[str, NDArray[np.floating]], *, title: str = "", label: str = "accuracy (%)"
) -> Figure:
    """Draw an accuracy over the epochs, one line per arm (seeds, epochs), the first in black."""
    if not curves:
        raise ValueError("expected at least one arm's curves to draw, got none")
    figure, axes = panel(6.4, 3.8)
    for number, (arm, values) in enumerate(curves.items()):
        if values.ndim != 2 or not values.size:
            raise ValueError(f"expected seeds by epochs for {arm!r}, got shape {values.shape}")
        epochs = np.arange(1, values.shape[1] + 1)
        draw_spread(axes, epochs, 100 * values, f"C{number - 1}" if number else INK, arm)
    axes.set(xlabel="epoch", ylabel=label, title=title)
    figure.legend(loc="outside right center")
    return figure


@styled
def raf_bars_figure(arms: Sequence[Mapping[str, float | str | None]], *, title: str = "") -> Figure:
    """Draw mean and sd by arm as bars, the first as a line across all; the axis does not start at zero."""
    if not arms:
        raise ValueError("expected at least one arm to draw, got none")
    means = np.array([100 * float(arm["mean"] or 0) for arm in arms])
    spreads = np.array([100 * float(arm["sd"] or 0) for arm in arms])
    figure, axes = panel(max(4.5, 0.95 * len(arms)), 3.8)
    colours = [ACCENT, *[QUIET] * (len(arms) - 1)]
    places = range(len(arms))
    axes.bar(places, means, yerr=spreads, color=colours, ecolor=INK, capsize=3, width=0.65)
    axes.axhline(means[0], color=ACCENT, lw=1, ls=(0, (4, 3)))
    low, high = float((means - spreads).min()), float((means + spreads).max())
    margin = max(0.25 * (high - low), 0.05)
    axes.set_ylim(max(0.0, low - 2 * margin), min(100.0, high + margin))
    axes.set_xticks(places, [str(arm["arm"]) for arm in arms], rotation=20, ha="right")
    axes.set(ylabel="test accuracy (%)", title=title)
    return figure


def draw_cams(
    group: Row,
    rows: Sequence[Row],
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


if __name__ == "__main__":
    run_script(main)
