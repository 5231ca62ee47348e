"""Function matching for detection: teacher and three arms of equal steps, beside the slides' table.

    python -m experiments.distillation_detection --small    built-in scenes
    python -m experiments.distillation_detection --real     KITTI's 101 frames and the folders of FMCE_DATA
    python -m experiments.distillation_detection --full     BDD100K with the slides' networks, for a GPU

Each puts one row into results/distillation.jsonl; a killed run goes on where it was. Three seeds.
`--small`: road scenes at 48×96, small encoders, the demo's settings; 13 core-minutes. Expected: teacher
near 5 % AP, the matched student half a point above the supervised one.
`--real`: 76 labelled frames of KITTI (every fourth of the 101 is for validation) at 64×208; the pool
is CamVid's training frames, driveai120, BDD100K's samples and the clips, all without labels. With 25
validation frames and few steps its AP is a few percent: it proves the path on real files.
`--full`: FCOS with ResNet-101 + FPN teaches ResNet-18 + FPN on BDD100K below FMCE_DATA/bdd100k, at
360×640; --folders names unlabelled frames. It wants a GPU and days; nobody has run it yet.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.distillation_segmentation import clip_frames, real_data
from experiments.run_script import run_script
from fmce.config.distillation import DistillationConfig, distillation_preset
from fmce.config.io import to_dict
from fmce.distillation.distill import distill
from fmce.report.write import distillation_report
from fmce.runs.log import record_result

RESULTS = Path(__file__).resolve().parent.parent / "results" / "distillation.jsonl"
# "Effectiveness of Function Matching in Driving Scene Recognition" (2022), BDD100K, AP in percent.
SLIDES = {"teacher": 31.4, "supervised": 29.5, "distilled": 30.4, "function_matching": 31.2}
# Unlabelled driving images of other data sets than KITTI, as far as FMCE_DATA has them.
FOLDERS = ("camvid/train", "driveai120", "bdd10k-seg-sample/images", "bdd100k-det-sample10/images")


def main() -> None:
    """Run the experiment, print ours beside the slides' and record the row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--small", action="store_true", help="built-in road scenes")
    which.add_argument("--real", action="store_true", help="KITTI; FMCE_DATA says where")
    which.add_argument("--full", action="store_true", help="BDD100K with ResNets, for a GPU")
    parser.add_argument("--folders", nargs="*", default=(), help="--full: unlabelled frames")
    parser.add_argument("--imagenet", action="store_true", help="--full: start from ImageNet")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if (options.imagenet or options.folders) and not options.full:
        parser.error("--imagenet and --folders are for --full")
    if options.small:
        out, config = (
            Path("runs/function_matching-scenes-detect"),
            distillation_preset("scenes-detect"),
        )
        data = "built-in scenes"
    elif options.real:
        out, data = Path("runs/function_matching-kitti"), "KITTI"
        config = real_config(real_data(parser), options.out or out)
    else:
        out, data = Path("runs/function_matching-bdd100k-detect"), "BDD100K"
        config = full_config(real_data(parser), options.folders, options.imagenet)
    run(config, options.out or out, data)


def run(config: DistillationConfig, out: Path, data: str) -> None:
    """Train everything, print the table beside the slides' and record the row."""
    result = distill(config, out)
    distillation_report(out)
    print_beside_slides(result)
    row = {
        "experiment": "distillation_detection",
        "what": f"detection by function matching on {data}",
        "seed": list(config.seeds),
        "result": result,
        "config": to_dict(config),
    }
    record_result(RESULTS, row, key=("what",))


def real_config(data: Path, out: Path) -> DistillationConfig:
    """Return KITTI's frames with a pool of other data sets' images.

    Args:
        data: folder with kitti101/, and the unlabelled folders and clips that there are.
        out: of the experiment; frames of the clips are written beside it.
    """
    folders = [str(data / name) for name in FOLDERS if (data / name).is_dir()]
    folders += clip_frames(
        sorted((data / "driving-clips").glob("*.mp4")), out.parent / "clip-frames"
    )
    config = distillation_preset("kitti")
    pool = replace(config.data, root=str(data / "kitti101"), folders=tuple(folders), held_out=60)
    return replace(config, data=pool)


def full_config(data: Path, folders: Sequence[str], imagenet: bool) -> DistillationConfig:
    """Return the slides' experiment on BDD100K below `data`."""
    config = distillation_preset("bdd100k-detect")
    weights = "imagenet" if imagenet else None
    return replace(
        config,
        data=replace(config.data, root=str(data / "bdd100k"), folders=tuple(folders)),
        teacher=replace(config.teacher, weights=weights),
        student=replace(config.student, weights=weights),
    )


def print_beside_slides(result: dict[str, Any]) -> None:
    """Print our AP beside the slides'."""
    ours = {"teacher": result["teacher"]["ap"]} | {a["arm"]: a["mean"] for a in result["arms"]}
    print(f"{'':12s}{'here':>10s}{'slides':>10s}   AP, %")
    for name, published in SLIDES.items():
        print(f"{name:12s}{100 * ours[name]:10.2f}{published:10.2f}")
    gap = (SLIDES["function_matching"] - SLIDES["supervised"]) / (
        SLIDES["teacher"] - SLIDES["supervised"]
    )
    print(f"{'gap closed':12s}{result['gap_closed'] or float('nan'):10.2f}{gap:10.2f}")


if __name__ == "__main__":
    run_script(main)
