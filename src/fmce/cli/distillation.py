"""Commands of method 3, function matching."""

from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional

from fmce.cli.options import (
    ConfigFile,
    Device,
    Jobs,
    OutputFolder,
    Precision,
    Settings,
    Trust,
    option,
    required,
    runtime_of,
)
from fmce.cli.show_distillation import show_export, show_frames, show_predictions, show_result
from fmce.config import choices

Experiment = Annotated[Positional[Path], required("folder of fmce distill", "EXPERIMENT")]
Seed = Annotated[int | None, option("seed of the student; default: the first", "N")]


def distill(
    out: OutputFolder,
    preset: Annotated[
        str | None,
        option(
            "scenes, scenes-detect, camvid, kitti, bdd100k, bdd100k-detect, digits or cifar10",
            "NAME",
        ),
    ] = None,
    task: Annotated[
        choices.TaskName | None,
        option("segment, classify or detect", "TASK"),
    ] = None,
    config: ConfigFile = None,
    root: Annotated[Path | None, option("folder of the data set", "FOLDER")] = None,
    folders: Annotated[tuple[str, ...], option("unlabelled images, or shards", "FOLDER …")] = (),
    exclude: Annotated[Path | None, option("stems of images to leave out", "FILE")] = None,
    teacher: Annotated[str | None, option("network, such as pspnet:resnet101", "NAME")] = None,
    student: Annotated[str | None, option("network, such as pspnet:resnet18", "NAME")] = None,
    teacher_checkpoint: Annotated[Path | None, option("trained teacher to load", "PATH")] = None,
    teacher_floor: Annotated[float | None, option("least score of the teacher", "0..1")] = None,
    settings: Settings = (),
    jobs: Jobs = None,
    device: Device = "auto",
    precision: Precision = "float32",
) -> None:
    """Distil a large teacher into a compact student, beside two ablations.

    Example: fmce distill --out runs/camvid --preset camvid --root data/camvid
    """
    from fmce.config.distillation import (
        DISTILLATION_DEFAULTS,
        DistillationConfig,
        distillation_preset,
    )
    from fmce.config.io import from_dict, from_yaml, with_options
    from fmce.distillation.distill import distill as run_distill
    from fmce.report.write import report

    base = distillation_preset(preset or DISTILLATION_DEFAULTS[task or "segment"])
    if task not in (None, base.task):
        raise ValueError(
            f"conflicting values for the task: preset {preset} has {base.task}, --task is {task}; remove one"
        )
    if config is not None:
        base = from_yaml(DistillationConfig, config, base=base)
    # The preset's options belong to its own networks.
    for network, name in (("teacher", teacher), ("student", student)):
        if name not in (None, getattr(base, network).name):
            base = from_dict(DistillationConfig, {network: {"options": {}}}, base=base)
    options: dict[str, Any] = {
        "data.root": root and str(root),
        "data.folders": list(folders) or None,
        "data.exclude": exclude and str(exclude),
        "teacher.name": teacher,
        "student.name": student,
        "teacher_checkpoint": teacher_checkpoint and str(teacher_checkpoint),
        "teacher_floor": teacher_floor,
    }
    chosen = with_options(base, options, settings)
    runtime = runtime_of(device, precision, distributed=True)
    result = run_distill(chosen, out, jobs=jobs, runtime=runtime)
    if runtime.ranks.is_main:
        show_result(result)
        print(f"report: {report(out)}")


def predict(
    experiment: Experiment,
    images: Annotated[Path, required("images, nested or not", "FOLDER")],
    out: Annotated[Path, required("folder for masks named by stem, or JSON of boxes", "FOLDER")],
    network: Annotated[
        Literal["teacher"] | choices.Arm,
        option("teacher, supervised, distilled or function_matching", "NETWORK"),
    ] = "function_matching",
    seed: Seed = None,
    masks: Annotated[Path | None, option("true masks to score with", "FOLDER")] = None,
    labels: Annotated[Path | None, option("true boxes to score with", "FILE")] = None,
    trust: Trust = False,
    device: Device = "auto",
    precision: Precision = "float32",
) -> None:
    """Write a network's class maps as PNGs of train ids, or its boxes as JSON.

    Example: fmce predict runs/bdd --images bdd100k/images/10k/val --out masks
    """
    from fmce.distillation.predict import predict as run_predict

    result = run_predict(
        experiment,
        images,
        out,
        network=network,
        seed=seed,
        masks=masks,
        labels=labels,
        runtime=runtime_of(device, precision),
        trust=trust,
    )
    show_predictions(out, result)


def frames(
    videos: Annotated[Positional[tuple[Path, ...]], option("files, or folders of them", "VIDEO …")],
    out: Annotated[Path, required("folder of shards; resumed if unfinished", "SHARDS")],
    every: Annotated[int, option("keep every N-th frame", "N")] = 5,
    height: Annotated[int | None, option("height of larger frames", "PIXELS")] = None,
    quality: Annotated[int, option("quality of the JPEG files", "1..100")] = 90,
    shard_frames: Annotated[int, option("most frames per shard", "N")] = 1000,
    exclude: Annotated[Path | None, option("stems of videos to leave out", "FILE")] = None,
    max_damaged: Annotated[float, option("share of videos that may be damaged", "0..1")] = 0.05,
    workers: Annotated[int | None, option("processes; default: as many as cores", "N")] = None,
) -> None:
    """Pack every n-th frame of videos into shards for fmce distill.

    Example: fmce frames videos --every 5 --out shards
    """
    from fmce.data.frames.video import FrameSettings
    from fmce.distillation.pack_videos import pack_videos

    result = pack_videos(
        videos,
        out,
        FrameSettings(every, height, quality, shard_frames),
        exclude=exclude,
        max_damaged=max_damaged,
        workers=workers,
    )
    show_frames(out, result)


def export(
    experiment: Experiment,
    out: Annotated[Path | None, option("default: EXPERIMENT/student", "FOLDER")] = None,
    arm: Annotated[choices.Arm, option("arm of the student")] = "function_matching",
    seed: Seed = None,
    onnx: Annotated[bool, option("write ONNX too")] = True,
    trust: Trust = False,
) -> None:
    """Export a trained student as state dict, torch.export and ONNX; check each against the network.

    Example: fmce export runs/camvid --arm function_matching
    """
    from fmce.distillation.export import export as run_export

    folder = out or experiment / "student"
    result = run_export(experiment, folder, arm=arm, seed=seed, onnx=onnx, trust=trust)
    show_export(folder, result)
