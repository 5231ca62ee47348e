"""Commands of method 3, function matching."""

from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from fmce.cli.options import (
    Device,
    Precision,
    Settings,
    _assignments,
    _check_options_hold,
    _runtime,
    command,
)
from fmce.cli.show_distillation import show_export, show_frames, show_predictions, show_result


@command("distill")
def distill(
    out: Annotated[Path, arg(help="folder to write; an unfinished one goes on")],
    preset: Annotated[
        str | None,
        arg(
            help="scenes, scenes-detect, camvid, kitti, bdd100k, bdd100k-detect, digits, cifar10",
            metavar="NAME",
        ),
    ] = None,
    task: Annotated[
        Literal["segment", "classify", "detect"] | None, arg(help="which; the preset's if left out")
    ] = None,
    config: Annotated[Path | None, arg(help="YAML on top of the preset", metavar="FILE")] = None,
    root: Annotated[Path | None, arg(help="where the data set lies", metavar="FOLDER")] = None,
    folders: Annotated[
        tuple[str, ...], arg(help="unlabelled images, nested or not", metavar="FOLDER …")
    ] = (),
    exclude: Annotated[
        Path | None, arg(help="stems of images to leave out of all sets", metavar="FILE")
    ] = None,
    teacher: Annotated[str | None, arg(help="network, such as pspnet:resnet101")] = None,
    student: Annotated[str | None, arg(help="network, such as pspnet:resnet18")] = None,
    teacher_checkpoint: Annotated[
        Path | None, arg(help="load it instead of training one", metavar="PATH")
    ] = None,
    teacher_floor: Annotated[
        float | None, arg(help="least validation score of the teacher", metavar="0..1")
    ] = None,
    settings: Settings = (),
    jobs: Annotated[int | None, arg(help="trainings at a time", metavar="N")] = None,
    device: Device = "auto",
    precision: Precision = "float32",
) -> None:
    """Make a compact student imitate its teacher, beside two other arms.

    Example: fmce distill --out runs/camvid --preset camvid --root data/camvid
    """
    from fmce.config.distillation import (
        DISTILLATION_DEFAULTS,
        DistillationConfig,
        distillation_preset,
    )
    from fmce.config.io import from_yaml, with_settings
    from fmce.distillation.distill import distill as run_distill
    from fmce.report.write import distillation_report

    chosen = distillation_preset(preset or DISTILLATION_DEFAULTS[task or "segment"])
    if task not in (None, chosen.task):
        raise ValueError(
            f"preset {preset} has task {chosen.task}, not {task}; leave one of them out"
        )
    if config is not None:
        chosen = from_yaml(DistillationConfig, config, base=chosen)
    # A preset's options are those of its own networks.
    networks: dict[str, Any] = {
        "teacher.options": {} if teacher not in (None, chosen.teacher.name) else None,
        "student.options": {} if student not in (None, chosen.student.name) else None,
    }
    given: dict[str, Any] = {
        "data.root": root and str(root),
        "data.folders": list(folders) or None,
        "data.exclude": exclude and str(exclude),
        "teacher.name": teacher,
        "student.name": student,
        "teacher_checkpoint": teacher_checkpoint and str(teacher_checkpoint),
        "teacher_floor": teacher_floor,
    }
    options = _assignments(given)
    chosen = with_settings(chosen, [*_assignments(networks), *options, *settings])
    _check_options_hold(chosen, options)
    runtime = _runtime(device, precision, together=True)
    result = run_distill(chosen, out, jobs=jobs, runtime=runtime)
    if runtime.ranks.is_main:
        show_result(result)
        print(f"report: {distillation_report(out)}")


@command("predict")
def predict(
    experiment: Annotated[
        Positional[Path], arg(help="folder of fmce distill", metavar="EXPERIMENT")
    ],
    images: Annotated[Path, arg(help="images, nested or not", metavar="FOLDER")],
    out: Annotated[Path, arg(help="masks named by stem, or JSON of boxes", metavar="FOLDER")],
    network: Annotated[
        Literal["teacher", "supervised", "distilled", "function_matching"], arg(help="which")
    ] = "function_matching",
    seed: Annotated[int | None, arg(help="which; the first if left out", metavar="N")] = None,
    masks: Annotated[
        Path | None, arg(help="true masks; scores the predictions", metavar="FOLDER")
    ] = None,
    labels: Annotated[
        Path | None, arg(help="true boxes, Scalabel JSON; likewise", metavar="FILE")
    ] = None,
    device: Device = "auto",
    precision: Precision = "float32",
) -> None:
    """Write a student's or the teacher's class maps as PNGs of train ids, or its boxes as JSON.

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
        runtime=_runtime(device, precision),
    )
    show_predictions(out, result)


@command("frames")
def frames(
    videos: Annotated[
        Positional[tuple[Path, ...]], arg(help="files, or folders of them", metavar="VIDEO …")
    ],
    out: Annotated[Path, arg(help="folder of shards; an unfinished one goes on", metavar="SHARDS")],
    every: Annotated[int, arg(help="keep every N-th frame", metavar="N")] = 5,
    height: Annotated[
        int | None, arg(help="shrink higher frames to it, pixels", metavar="N")
    ] = None,
    quality: Annotated[int, arg(help="of the JPEG files", metavar="1..100")] = 90,
    shard_frames: Annotated[int, arg(help="most frames of a shard", metavar="N")] = 1000,
    exclude: Annotated[
        Path | None, arg(help="stems of videos to leave out", metavar="FILE")
    ] = None,
    max_damaged: Annotated[
        float, arg(help="share of videos that may be damaged", metavar="0..1")
    ] = 0.05,
    workers: Annotated[
        int | None, arg(help="processes; as many as cores if left out", metavar="N")
    ] = None,
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


@command("export")
def export(
    experiment: Annotated[
        Positional[Path], arg(help="folder of fmce distill", metavar="EXPERIMENT")
    ],
    out: Annotated[Path | None, arg(help="folder to write; EXPERIMENT/student if left out")] = None,
    arm: Annotated[
        Literal["supervised", "distilled", "function_matching"], arg(help="which")
    ] = "function_matching",
    seed: Annotated[int | None, arg(help="which; the first if left out", metavar="N")] = None,
    onnx: Annotated[bool, arg(help="write ONNX too")] = True,
) -> None:
    """Export a trained student: state dict, torch.export, ONNX, each checked.

    Example: fmce export runs/camvid --arm function_matching
    """
    from fmce.distillation.export import export as run_export

    folder = out or experiment / "student"
    show_export(folder, run_export(experiment, folder, arm=arm, seed=seed, onnx=onnx))
