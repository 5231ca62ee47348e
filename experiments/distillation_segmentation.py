"""Function matching for segmentation: teacher and three arms of equal steps, beside the slides' table.

    python -m experiments.distillation_segmentation --small           built-in scenes
    python -m experiments.distillation_segmentation --real            CamVid and the folders of FMCE_DATA
    python -m experiments.distillation_segmentation --real --own-frames   after it: a pool of one domain
    python -m experiments.distillation_segmentation --real --full     the same at full size, for a GPU

Each puts one row into results/distillation.jsonl; a killed run goes on where it was. Three seeds.
`--small`: road scenes at 48×96, small encoders, about 10 minutes on 2 idle CPU cores. Expected:
teacher near 33 % mIoU, the matched student above the supervised one by more than a point.
`--real`: a quarter of CamVid's labels for the teacher and every arm; the rest of its training frames
and the unlabelled folders of FMCE_DATA are the pool; 72×96 here, about 40 core-minutes.
`--full`: PSPNet with ResNet-101 teaches ResNet-18 at 360×480; it wants a GPU and hours.
Unless told `--no-lengths`, they then train at a quarter and half of the steps, for agreement against
training length.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.run_script import run_script
from experiments.sections.distillation import gap, slides
from fmce.config.distillation import (
    AugmentationConfig,
    DistillationConfig,
    DistillationDataConfig,
    NetConfig,
    StepsConfig,
    distillation_preset,
)
from fmce.config.io import to_dict
from fmce.distillation.distill import distill
from fmce.report.write import distillation_report
from fmce.runs.log import record_result

RESULTS = Path(__file__).resolve().parent.parent / "results" / "distillation.jsonl"
# Unlabelled driving images, as far as FMCE_DATA has them.
FOLDERS = (
    "driveai120",
    "bdd10k-seg-sample/images",
    "bdd100k-det-sample10/images",
    "kitti101/image_2",
)
EVERY = 5  # of a clip's frames, as the slides' 16 M frames are about every fifth


def main() -> None:
    """Run the experiment, print ours beside the slides' and record the row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--small", action="store_true", help="built-in road scenes")
    which.add_argument("--real", action="store_true", help="CamVid; FMCE_DATA says where")
    parser.add_argument("--full", action="store_true", help="with --real: full size, for a GPU")
    parser.add_argument(
        "--own-frames",
        action="store_true",
        help="with --real, after it: function matching with CamVid's own frames alone as the pool",
    )
    parser.add_argument("--imagenet", action="store_true", help="--full: start from ImageNet")
    parser.add_argument(
        "--no-lengths", action="store_true", help="leave out the schedules of other lengths"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=(1, 2, 3), help="of the students")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.imagenet and not options.full:
        parser.error("--imagenet is for --full; the small encoders have no ImageNet weights")
    if options.small:
        scenes = replace(distillation_preset("scenes"), seeds=tuple(options.seeds))
        out = options.out or Path("runs/function_matching-scenes")
        run(scenes, out, "built-in scenes", lengths=not options.no_lengths)
        return
    out = options.out or Path(
        "runs/function_matching-camvid-full" if options.full else "runs/function_matching-camvid"
    )
    config = real_config(real_data(parser), out)
    config = replace(config, seeds=tuple(options.seeds))
    if options.full:
        config = full_size(config, "imagenet" if options.imagenet else None)
    name = "CamVid, full size" if options.full else "CamVid"
    if options.own_frames:
        own_frames(config, out, name)
    else:
        run(config, out, name, lengths=not options.no_lengths)


def real_data(parser: argparse.ArgumentParser) -> Path:
    """Return the folder that FMCE_DATA names; without one, end the program and say so."""
    named = os.environ.get("FMCE_DATA")
    if not named or not Path(named).is_dir():
        parser.error(f"expected a folder of data sets in FMCE_DATA, got {named!r}; set it")
    return Path(named)


def run(config: DistillationConfig, out: Path, data: str, *, lengths: bool = True) -> None:
    """Train everything, print the table beside the slides' and record the row."""
    result = distill(config, out)
    distillation_report(out)
    print_beside_slides(result)
    record(config, result, data)  # already here: what follows takes nearly as long again
    if not lengths:
        return
    result["lengths"] = [*shorter(config, out), summary(result)]
    record(config, result, data)


def own_frames(config: DistillationConfig, out: Path, data: str) -> None:
    """Train the function_matching arm again with a pool of one domain; teacher and other arms would be the same."""
    alone = replace(
        config,
        data=replace(config.data, folders=()),
        arms=("function_matching",),
        teacher_checkpoint=str(out / "teacher"),
    )
    record(
        alone, distill(alone, out.with_name(f"{out.name}-own-frames")), f"{data}, own frames only"
    )


def record(config: DistillationConfig, result: dict[str, Any], data: str) -> None:
    """Record the row in place of an earlier one."""
    row = {
        "experiment": "distillation_segmentation",
        "what": f"function matching on {data}",
        "seed": list(config.seeds),
        "result": result,
        "config": without_places(to_dict(config)),
    }
    record_result(RESULTS, row, key=("what",))


def without_places(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config whose folders are named as in FMCE_DATA, not by where this machine keeps them."""
    data, base = config["data"], os.environ.get("FMCE_DATA", "")
    folders = [f.removeprefix(f"{base}/") if base in f else Path(f).name for f in data["folders"]]
    root = data["root"] and Path(data["root"]).name
    teacher = "the main experiment's" if config["teacher_checkpoint"] else None
    return config | {
        "data": data | {"root": root, "folders": folders},
        "teacher_checkpoint": teacher,
    }


def shorter(config: DistillationConfig, out: Path) -> list[dict[str, Any]]:
    """Train the same students on schedules of a quarter and half of the steps, with the same teacher."""
    found = []
    for share in (4, 2):
        steps = config.student_steps.steps // share
        short = replace(
            config,
            student_steps=replace(config.student_steps, steps=steps, interval=steps),
            teacher_checkpoint=str(out / "teacher"),
        )
        found.append(summary(distill(short, out / f"steps{steps}")))
    return found


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """Return what a schedule length came to."""
    return {"steps": result["steps"], "arms": result["arms"]}


def real_config(data: Path, out: Path) -> DistillationConfig:
    """Return CamVid with a quarter of its labels, at a size that two CPU cores train in an hour.

    Args:
        data: folder with camvid/, and the unlabelled folders and clips that there are.
        out: of the experiment; frames of the clips are written beside it.
    """
    folders = [str(data / name) for name in FOLDERS if (data / name).is_dir()]
    folders += clip_frames(
        sorted((data / "driving-clips").glob("*.mp4")), out.parent / "clip-frames"
    )
    print(f"unlabelled folders: {', '.join(folders) or 'none'}")
    return DistillationConfig(
        data=DistillationDataConfig(
            name="camvid",
            root=str(data / "camvid"),
            height=72,
            width=96,
            labelled=367 // 4,
            unlabelled=None,
            folders=tuple(folders),
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
    return replace(
        config,
        data=replace(config.data, height=360, width=480),
        teacher=NetConfig("pspnet:resnet101", weights=weights),
        student=NetConfig("pspnet:resnet18", weights=weights),
        teacher_steps=StepsConfig(steps=10_000, batch_size=16, learning_rate=1e-3, interval=500),
        student_steps=StepsConfig(steps=20_000, batch_size=16, learning_rate=1e-3, interval=500),
    )


def clip_frames(clips: Sequence[Path], folder: Path) -> list[str]:
    """Write every fifth frame of each clip as a picture; nothing that is there is written again.

    Returns:
        The folder, or nothing where there are no clips.
    """
    if not clips:
        return []
    import av

    for clip in clips:
        target = folder / clip.stem
        if (target / "done").exists():
            continue
        target.mkdir(parents=True, exist_ok=True)
        with av.open(str(clip)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number % EVERY == 0:
                    frame.to_image().save(target / f"{clip.stem}-{number:07d}.png")  # type: ignore[no-untyped-call]
        (target / "done").touch()
    return [str(folder)]


def print_beside_slides(result: dict[str, Any]) -> None:
    """Print our mIoU beside the slides'."""
    ours = {"teacher": result["teacher"]["miou"]} | {a["arm"]: a["mean"] for a in result["arms"]}
    theirs = slides()
    print(f"{'':12s}{'here':>10s}{'slides':>10s}   mIoU, %")
    for name, published in theirs.items():
        print(f"{name:12s}{100 * ours[name]:10.2f}{published:10.2f}")
    print(f"{'gap closed':12s}{result['gap_closed'] or float('nan'):10.2f}{gap(theirs):10.2f}")


if __name__ == "__main__":
    run_script(main)
