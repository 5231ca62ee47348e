"""Function matching for segmentation: teacher and three arms of equal steps, beside the slides' table.

    python -m experiments.distillation_segmentation --small           built-in scenes
    python -m experiments.distillation_segmentation --real            CamVid and the folders of FMCE_DATA
    python -m experiments.distillation_segmentation --real --own-frames   after it: a pool of one domain
    python -m experiments.distillation_segmentation --real --full     the same at full size, for a GPU

Three seeds; each command records one row in results/distillation.jsonl. If interrupted, rerun it to resume.
`--small`: road scenes at 48×96, small encoders, about 10 minutes on 2 idle CPU cores. Expected: a teacher
of about 33 % mIoU, the matched student above the supervised one by more than a point.
`--real`: a quarter of CamVid's labels for the teacher and every arm; the rest of its training frames and the
unlabelled folders of FMCE_DATA are the pool; 72×96, about 40 core-minutes. Expected: the matched student is not
above the supervised one; with --own-frames it gains some points.
`--full`: PSPNet with ResNet-101 teaches ResNet-18 at 360×480; needs a GPU and hours.
Without `--no-lengths` the
students are then trained for a quarter and for half of the steps too, to see agreement against training length.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.distillation_runs import (
    FOLDERS,
    data_folder,
    record_experiment,
    run_experiment,
    unlabelled_folders,
)
from experiments.script import options_parser, run_script
from fmce.config.distillation import (
    AugmentationConfig,
    DistillationConfig,
    DistillationDataConfig,
    NetConfig,
    StepsConfig,
    distillation_preset,
)
from fmce.distillation.distill import distill


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiment, print ours beside the slides' and record the row."""
    parser = options_parser(__doc__, "distillation.jsonl")
    add, which = parser.add_argument, parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--small", action="store_true", help="built-in road scenes")
    which.add_argument("--real", action="store_true", help="CamVid below FMCE_DATA")
    add("--full", action="store_true", help="with --real: full size, for a GPU")
    text = "with --real, after it: function matching with CamVid's own frames alone as the pool"
    add("--own-frames", action="store_true", help=text)
    add("--imagenet", action="store_true", help="with --full: start from ImageNet")
    add("--no-lengths", action="store_true", help="leave out the schedules of other lengths")
    add("--seeds", type=int, nargs="+", default=(1, 2, 3), help="of the students")
    options = parser.parse_args(argv)
    if options.imagenet and not options.full:
        parser.error("--imagenet is for --full; the small encoders have no ImageNet weights")
    if options.small and (options.full or options.own_frames):
        parser.error("--full and --own-frames are for --real")
    name = "scenes" if options.small else "camvid-full" if options.full else "camvid"
    out = options.out or Path(f"runs/function_matching-{name}")
    if options.small:
        config, place = distillation_preset("scenes"), "built-in scenes"
    else:
        config, place = real_config(data_folder(parser), out), "CamVid"
    if options.full:
        config = full_size(config, "imagenet" if options.imagenet else None)
        place = "CamVid, full size"
    config = replace(config, seeds=tuple(options.seeds))
    experiment, what = "distillation_segmentation", f"function matching on {place}"
    if options.own_frames:
        alone = own_frames(config, out)
        result = distill(alone, out.with_name(f"{out.name}-own-frames"))
        what += ", own frames only"
        record_experiment(options.results, experiment, what, alone, result)
        return
    result = run_experiment(options.results, experiment, what, config, out)
    if not options.no_lengths:
        lengths = (*shorter(config, out), result)
        result["lengths"] = [{"steps": one["steps"], "arms": one["arms"]} for one in lengths]
        record_experiment(options.results, experiment, what, config, result)


def own_frames(config: DistillationConfig, out: Path) -> DistillationConfig:
    """Return the function_matching arm with a pool of one domain; teacher and other arms would be the same."""
    return replace(
        config,
        data=replace(config.data, folders=()),
        arms=("function_matching",),
        teacher_checkpoint=str(out / "teacher"),
    )


def shorter(config: DistillationConfig, out: Path) -> list[dict[str, Any]]:
    """Train the same students for a quarter and for half of the steps, with the same teacher."""
    found = []
    for share in (4, 2):
        steps = config.student_steps.steps // share
        short = replace(
            config,
            student_steps=replace(config.student_steps, steps=steps, interval=steps),
            teacher_checkpoint=str(out / "teacher"),
        )
        found.append(distill(short, out / f"steps{steps}"))
    return found


def real_config(data: Path, out: Path) -> DistillationConfig:
    """Return CamVid with a quarter of its labels, at a size that two CPU cores train in an hour."""
    return DistillationConfig(
        data=DistillationDataConfig(
            name="camvid",
            root=str(data / "camvid"),
            height=72,
            width=96,
            labelled=367 // 4,
            unlabelled=None,
            folders=unlabelled_folders(
                data, (*FOLDERS, "kitti101/image_2"), out.parent / "clip-frames"
            ),
            held_out=60,
        ),
        augmentation=AugmentationConfig(zoom=1.5),
        student=NetConfig(
            options={"encoder_options": {"channels": [6, 8, 12, 16], "stem_width": 6}}
        ),
        teacher_steps=StepsConfig(steps=1000, learning_rate=4e-3),
        student_steps=StepsConfig(steps=800, learning_rate=4e-3),
    )


def full_size(config: DistillationConfig, weights: str | None) -> DistillationConfig:
    """Return the experiment at CamVid's own size with the slides' networks."""
    steps = StepsConfig(steps=10_000, batch_size=16, learning_rate=1e-3, interval=500)
    return replace(
        config,
        data=replace(config.data, height=360, width=480),
        teacher=NetConfig("pspnet:resnet101", weights=weights),
        student=NetConfig("pspnet:resnet18", weights=weights),
        teacher_steps=steps,
        student_steps=replace(steps, steps=20_000),
    )


if __name__ == "__main__":
    run_script(main)
