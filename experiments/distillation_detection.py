"""Function matching for detection: teacher and three arms of equal steps, beside the slides' table.

    python -m experiments.distillation_detection --small    built-in scenes
    python -m experiments.distillation_detection --real     KITTI's 101 frames and the folders of FMCE_DATA
    python -m experiments.distillation_detection --full     BDD100K with the slides' networks, for a GPU

Three seeds; each command records one row in results/distillation.jsonl. If interrupted, rerun it to resume.
`--small`: road scenes at 48×96, small encoders, the demo's settings; 13 core-minutes. Expected: a teacher of
about 7 % AP, the matched student about a point above the supervised one.
`--real`: 76 labelled frames of KITTI (every fourth of the 101 is for validation) at 64×208; the pool is
CamVid's training frames, driveai120, BDD100K's samples and the clips, all without labels. Expected: an AP of a
few percent, since there are 25 validation frames and few steps; it shows that real files work.
`--full`: FCOS with ResNet-101 + FPN teaches ResNet-18 + FPN on bdd100k below FMCE_DATA, at 360×640; --folders
names unlabelled frames. Needs a GPU and days; nobody has run it yet.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments.distillation_runs import (
    FOLDERS,
    data_folder,
    run_experiment,
    unlabelled_folders,
)
from experiments.script import options_parser, run_script
from fmce.config.distillation import DistillationConfig, distillation_preset


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiment, print ours beside the slides' and record the row."""
    parser = options_parser(__doc__, "distillation.jsonl")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--small", action="store_true", help="built-in road scenes")
    which.add_argument("--real", action="store_true", help="KITTI below FMCE_DATA")
    which.add_argument("--full", action="store_true", help="BDD100K with ResNets, for a GPU")
    parser.add_argument("--folders", nargs="*", default=(), help="with --full: unlabelled frames")
    parser.add_argument("--imagenet", action="store_true", help="with --full: start from ImageNet")
    options = parser.parse_args(argv)
    if (options.imagenet or options.folders) and not options.full:
        parser.error("--imagenet and --folders are for --full")
    name = "scenes-detect" if options.small else "kitti" if options.real else "bdd100k-detect"
    out = options.out or Path(f"runs/function_matching-{name}")
    if options.small:
        config, place = distillation_preset("scenes-detect"), "built-in scenes"
    elif options.real:
        config, place = real_config(data_folder(parser), out), "KITTI"
    else:
        config = full_config(data_folder(parser), options.folders, options.imagenet)
        place = "BDD100K"
    what = f"detection by function matching on {place}"
    run_experiment(options.results, "distillation_detection", what, config, out)


def real_config(data: Path, out: Path) -> DistillationConfig:
    """Return KITTI's frames with a pool of other data sets' images; frames of clips are written beside `out`."""
    folders = unlabelled_folders(data, ("camvid/train", *FOLDERS), out.parent / "clip-frames")
    config = distillation_preset("kitti")
    pool = replace(config.data, root=str(data / "kitti101"), folders=folders, held_out=60)
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


if __name__ == "__main__":
    run_script(main)
