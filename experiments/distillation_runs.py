"""What the three experiments of function matching share: data of FMCE_DATA, pools of other folders, rows."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.result_rows import select
from experiments.script import record
from experiments.tables.distillation import Task, score_table
from fmce.config.distillation import DistillationConfig
from fmce.config.io import to_dict
from fmce.console.tables import print_table
from fmce.distillation.distill import distill
from fmce.files import read_json_lines
from fmce.report.write import report

FOLDERS = ("driveai120", "bdd10k-seg-sample/images", "bdd100k-det-sample10/images")
"""Unlabelled driving images, as far as FMCE_DATA has them."""
EVERY = 5
"""Which frames of a clip are taken: the slides' 16 million frames are about every fifth."""


def data_folder(parser: argparse.ArgumentParser) -> Path:
    """Return the folder that FMCE_DATA names; if there is none, end the program with an error."""
    named = os.environ.get("FMCE_DATA")
    if not named or not Path(named).is_dir():
        parser.error(f"expected a folder of data sets in FMCE_DATA, got {named!r}; set it")
    return Path(named)


def unlabelled_folders(data: Path, names: Sequence[str], clips: Path) -> tuple[str, ...]:
    """Return the folders of unlabelled images that there are; frames of `driving-clips` are written to `clips`."""
    found = [str(data / name) for name in names if (data / name).is_dir()]
    videos = sorted((data / "driving-clips").glob("*.mp4"))
    for video in videos:
        write_frames(video, clips / video.stem)
    folders = (*found, str(clips)) if videos else tuple(found)
    print(f"unlabelled folders: {', '.join(folders) or 'none'}", flush=True)
    return folders


def write_frames(video: Path, folder: Path) -> None:
    """Write every fifth frame of a clip as a picture, once."""
    if (folder / "done").exists():
        return
    import av

    folder.mkdir(parents=True, exist_ok=True)
    with av.open(str(video)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number % EVERY == 0:
                frame.to_image().save(folder / f"{video.stem}-{number:07d}.png")  # type: ignore[no-untyped-call]
    (folder / "done").touch()


def run_experiment(
    results: Path, experiment: str, what: str, config: DistillationConfig, out: Path
) -> dict[str, Any]:
    """Train what is missing, write the report, record the row and print it beside the slides' scores."""
    result = distill(config, out)
    report(out)
    record_experiment(results, experiment, what, config, result)
    task: Task = "detection" if experiment == "distillation_detection" else "matching"
    rows = select(read_json_lines(results), what=what)
    print_table(f"{what}: scores in percent", *score_table(rows, task))
    return result


def record_experiment(
    results: Path, experiment: str, what: str, config: DistillationConfig, result: dict[str, Any]
) -> None:
    """Record the row of an experiment."""
    seeds = list(config.seeds)
    record(results, experiment, what, without_places(to_dict(config)), result, seed=seeds)


def without_places(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config whose folders are named as in FMCE_DATA, not by where this machine keeps them."""
    base = f"{os.environ.get('FMCE_DATA', '')}/"
    data = dict(config["data"])
    data["root"] = data["root"] and Path(data["root"]).name
    data["folders"] = [
        folder.removeprefix(base) if folder.startswith(base) else Path(folder).name
        for folder in data["folders"]
    ]
    teacher = "the main experiment's" if config["teacher_checkpoint"] else None
    return config | {"data": data, "teacher_checkpoint": teacher}
