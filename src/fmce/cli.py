"""The `fmce` command: each subcommand is one call into `fmce.commands`.

A user's mistake ends with one line and exit code 2, a training that cannot go on with 1, Ctrl-C with
130. Set FMCE_TRACEBACK=1 to see where an error arose.
"""

import contextlib
import functools
import io
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, ParamSpec

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg

from fmce import __version__
from fmce.configs import Keep, Split

if TYPE_CHECKING:
    from fmce.engine.runtime import Runtime

Device = Annotated[str, arg(help="auto, cpu, cuda or cuda:N", metavar="DEV")]
Precision = Annotated[Literal["float32", "bfloat16"], arg(help="of forward passes")]
RunFolder = Annotated[Positional[Path], arg(help="run folder of fmce train", metavar="RUN")]
Settings = Annotated[
    UseAppendAction[tuple[str, ...]],
    arg(name="set", help="any config value, repeatable", metavar="SECTION.FIELD=VALUE"),
]
Net = Annotated[Split, arg(help="what FMCE-Net's training held out")]
Json = Annotated[FlagCreatePairsOff[bool], arg(name="json", help="print JSON only")]

_FULL = "OutOfMemoryError"  # torch's, which a command without torch must not import

# Commands whose work the processes that torchrun starts share.
_TOGETHER = ("train", "train-net", "extract", "distill")

app = tyro.extras.SubcommandApp()
P = ParamSpec("P")


def command(name: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Register a subcommand whose call is put off, so that parsing is over before anything runs."""

    def register(function: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(function)
        def put_off(*args: P.args, **kwargs: P.kwargs) -> Callable[[], None]:
            return functools.partial(function, *args, **kwargs)

        app.command(name=name)(put_off)
        return function

    return register


@command("demo")
def demo(
    task: Annotated[
        Literal["digits", "segment", "detect"],
        arg(help="FMCE on digits, or function matching on scenes"),
    ] = "digits",
    out: Annotated[Path | None, arg(help="folder to write; runs/demo… if left out")] = None,
    device: Device = "auto",
) -> None:
    """Run a whole method on built-in data and write a report.

    Example: fmce demo --task segment
    """
    from fmce.commands.demo import demo as run_demo
    from fmce.commands.demo import matching_demo

    if task != "digits":
        matching_demo(task, out or Path(f"runs/demo-{task}"), runtime=_runtime(device))
    else:
        run_demo(out or Path("runs/demo"), runtime=_runtime(device))


@command("train")
def train(
    out: Annotated[Path, arg(help="run folder; an unfinished one goes on")],
    data: Annotated[
        str | None,
        arg(help="digits, mnist, cifar10, … image-folder:DIR or module:function", metavar="NAME"),
    ] = None,
    data_root: Annotated[
        Path | None, arg(help="where data sets lie, not $FMCE_DATA", metavar="DIR")
    ] = None,
    download: Annotated[
        FlagCreatePairsOff[bool], arg(help="fetch the data set if it is missing")
    ] = False,
    preset: Annotated[
        str | None, arg(help="digits, small or paper: where settings start", metavar="NAME")
    ] = None,
    config: Annotated[Path | None, arg(help="YAML on top of the preset", metavar="FILE")] = None,
    model: Annotated[
        str | None, arg(help="tiny, torchvision:…, timm:… or module:function", metavar="NAME")
    ] = None,
    tap: Annotated[
        str | None, arg(help="submodule that gives the feature map", metavar="NAME")
    ] = None,
    epochs: Annotated[
        int | None, arg(help="the preset's, or E_K of the oracle's run", metavar="M")
    ] = None,
    seed: Annotated[int | None, arg(metavar="N")] = None,
    oracle: Annotated[
        Path | None, arg(help="run whose FMCE-Net supervises too", metavar="RUN")
    ] = None,
    raf: Annotated[
        float | None, arg(help="weight of the task's loss beside it", metavar="0..1")
    ] = None,
    settings: Settings = (),
    keep: Annotated[Keep, arg(help="checkpoints left once phases are known")] = "all",
    device: Device = "auto",
    precision: Annotated[
        Literal["float32", "bfloat16"] | None,
        arg(help="of forward passes; the config's if left out", metavar="NAME"),
    ] = None,
) -> None:
    """Train the original task, plain or as FMCE-Net++.

    Example: fmce train --out runs/pp --oracle runs/digits --raf 0.9 --seed 1
    """
    from fmce.commands.train import train as run_train

    given = {
        "data.root": data_root and str(data_root.absolute()),
        "model.name": model,
        "model.tap": tap,
        "train.epochs": epochs,
        "train.seed": seed,
        "runtime.precision": precision,
    }
    chosen = _config(preset, data, config, given, oracle, raf, settings)
    runtime = _runtime(device, together=True)
    run_train(chosen, out, runtime=runtime, keep=keep, download=download)


@command("phases")
def phases(
    source: Annotated[
        Positional[Path],
        arg(help="run folder, CSV/TSV/JSON file, TensorBoard folder", metavar="SOURCE"),
    ],
    threshold: Annotated[float | None, arg(help="CQI threshold µ, nats", metavar="MU")] = None,
    num_phases: Annotated[int | None, arg(metavar="K")] = None,
    column: Annotated[str | None, arg(help="loss column (CSV)", metavar="NAME")] = None,
    key: Annotated[str | None, arg(help="loss key (JSON)", metavar="NAME")] = None,
    epoch_column: Annotated[
        str | None, arg(help="average rows by this epoch", metavar="NAME")
    ] = None,
    lr_column: Annotated[str | None, arg(help="learning rate", metavar="NAME")] = None,
    tag: Annotated[str | None, arg(help="loss scalar (TensorBoard)", metavar="NAME")] = None,
    figure: Annotated[Path | None, arg(help="PNG or SVG to draw", metavar="FILE")] = None,
    settings: Settings = (),
    json: Json = False,
) -> None:
    """Find the convergence phases of a loss curve.

    Example: fmce phases losses.csv --column train_loss --threshold 1e-3 --figure phases.svg
    """
    from fmce.commands.phases import phases as run_phases

    given = {"threshold": threshold, "num_phases": num_phases}
    chosen = [*_assignments(given), *settings]
    run_phases(
        source,
        chosen,
        column=column,
        key=key,
        epoch_column=epoch_column,
        lr_column=lr_column,
        tag=tag,
        figure=figure,
        as_json=json,
    )


@command("extract")
def extract(
    run: RunFolder,
    workers: Annotated[int, arg(help="processes; torchrun works too", metavar="N")] = 1,
    dry_run: Annotated[
        FlagCreatePairsOff[bool], arg(help="only say what it would take on disk")
    ] = False,
    json: Json = False,
    device: Device = "auto",
    precision: Precision = "float32",
) -> None:
    """Store the feature maps of a run's marker checkpoints.

    Example: fmce extract runs/cifar10 --workers 2
    """
    from fmce.commands.extract import extract as run_extract
    from fmce.commands.extract import print_store
    from fmce.run_folder import open_run

    result = run_extract(
        open_run(run),
        workers=workers,
        runtime=_runtime(device, precision),
        dry_run=dry_run,
        quiet=json,
    )
    if not json:
        print_store(run, result)
    _print_json(json, result)


@command("train-net")
def train_net(
    run: RunFolder,
    split: Net = "map",
    others: Annotated[
        tuple[Path, ...], arg(help="further runs whose maps join", metavar="RUNS")
    ] = (),
    settings: Settings = (),
    device: Device = "auto",
    precision: Precision = "float32",
) -> None:
    """Train FMCE-Net on the feature maps of a run's marker checkpoints.

    Example: fmce train-net runs/digits --split image
    """
    from fmce.commands.evaluate import print_metrics
    from fmce.commands.train_net import train_net as run_train_net
    from fmce.configs import with_settings
    from fmce.run_folder import open_run

    runtime = _runtime(device, precision, together=True)
    opened = open_run(run)
    result = run_train_net(
        opened,
        split,
        others=[open_run(path.resolve()) for path in others],
        config=with_settings(opened.config.scorer, settings),
        runtime=runtime,
    )
    if not runtime.ranks.first:
        return
    rows = [("held out", result["held_out"]), ("test images", result["test_images"])]
    print_metrics(f"FMCE-Net of {run}, split {split}", rows)


@command("evaluate")
def evaluate(
    run: RunFolder,
    split: Net = "map",
    others: Annotated[
        tuple[Path, ...], arg(help="runs it was not trained on, to try it on", metavar="RUNS")
    ] = (),
    settings: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(name="set", help="which FMCE-Net: width=…; others' maps=stored", metavar="FIELD=VALUE"),
    ] = (),
    json: Json = False,
    device: Device = "auto",
) -> None:
    """Evaluate a run's classifier at each marker, and its FMCE-Net.

    Example: fmce evaluate runs/digits --split image --others runs/digits-seed1
    """
    from fmce.commands.evaluate import evaluate as run_evaluate
    from fmce.run_folder import open_run

    opened = [open_run(path) for path in others]
    result = run_evaluate(
        open_run(run),
        split,
        others=opened,
        settings=settings,
        runtime=_runtime(device),
        quiet=json,
    )
    _print_json(json, result)


@command("score")
def score(
    run: RunFolder,
    epoch: Annotated[int | None, arg(help="epoch of this run", metavar="N")] = None,
    checkpoint: Annotated[
        Path | None, arg(help="checkpoint folder or file instead", metavar="PATH")
    ] = None,
    split: Net = "map",
    json: Json = False,
    device: Device = "auto",
) -> None:
    """Let FMCE-Net score the maps of one checkpoint.

    Example: fmce score runs/digits --epoch 12
    """
    from fmce.commands.score import print_score
    from fmce.commands.score import score as run_score
    from fmce.run_folder import open_run

    result = run_score(
        open_run(run), epoch=epoch, checkpoint=checkpoint, split=split, runtime=_runtime(device)
    )
    if not json:
        print_score(result)
    _print_json(json, result)


@command("compare")
def compare(
    oracle: Annotated[
        Positional[Path], arg(help="run whose FMCE-Net is the oracle", metavar="ORACLE")
    ],
    out: Annotated[Path, arg(help="folder to write; unfinished ones go on")],
    raf: Annotated[
        tuple[float, ...], arg(help="candidates, chosen on validation", metavar="RAF …")
    ] = (0.9, 0.75),
    seeds: Annotated[tuple[int, ...], arg(help="of the paired arms", metavar="N …")] = (1, 2, 3),
    selection_seed: Annotated[int, arg(help="of the runs that choose RAF", metavar="N")] = 100,
    controls: Annotated[bool, arg(help="run the four controls too")] = True,
    same_seed: Annotated[
        FlagCreatePairsOff[bool], arg(help="add the oracle's own seed, apart")
    ] = False,
    length: Annotated[
        Literal["convergence", "full"], arg(help="epochs: the oracle's E_K, or all")
    ] = "convergence",
    oracle_split: Net = "map",
    settings: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(name="set", help="of the auxiliary loss, repeatable", metavar="auxiliary.FIELD=VALUE"),
    ] = (),
    jobs: Annotated[int | None, arg(help="trainings at a time", metavar="N")] = None,
    device: Device = "auto",
    precision: Precision = "float32",
) -> None:
    """Compare FMCE-Net++ with its baseline and controls.

    Example: fmce compare runs/digits --out runs/compare --seeds 1 2 3 4 5
    """
    from fmce.commands.compare import Comparison
    from fmce.commands.compare import compare as run_compare

    plan = Comparison(
        str(oracle.resolve()),
        rafs=raf,
        seeds=seeds,
        selection_seed=selection_seed,
        controls=controls,
        same_seed=same_seed,
        length=length,
        oracle_split=oracle_split,
        settings=settings,
    )
    run_compare(plan, out, jobs=jobs, runtime=_runtime(device, precision))


@command("sweep")
def sweep(
    out: Annotated[
        Path | None, arg(help="folder to write; an unfinished one goes on", metavar="FOLDER")
    ] = None,
    status: Annotated[Path | None, arg(help="only show how far a sweep is", metavar="OUT")] = None,
    dry_run: Annotated[FlagCreatePairsOff[bool], arg(help="only list runs and times")] = False,
    config: Annotated[Path | None, arg(help="YAML of a grid; options win", metavar="FILE")] = None,
    model: Annotated[tuple[str, ...], arg(help="networks", metavar="NAME …")] = (),
    data: Annotated[tuple[str, ...], arg(help="data sets", metavar="NAME …")] = (),
    raf: Annotated[
        tuple[float, ...], arg(help="one is picked on validation", metavar="RAF …")
    ] = (),
    seeds: Annotated[tuple[int, ...], arg(help="of the paired arms", metavar="N …")] = (),
    controls: Annotated[
        tuple[str, ...] | None, arg(help="which of the four; none leaves them out", metavar="…")
    ] = None,
    vary: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(help="any config values, repeatable", metavar="SECTION.FIELD=A,B"),
    ] = (),
    settings: Settings = (),
    preset: Annotated[str | None, arg(help="as in train", metavar="NAME")] = None,
    oracles: Annotated[tuple[Path, ...], arg(help="run folders with FMCE-Net", metavar="R …")] = (),
    length: Annotated[
        Literal["convergence", "full"] | None, arg(help="epochs: E_K, or all", metavar="…")
    ] = None,
    jobs: Annotated[int | None, arg(help="trainings at a time here", metavar="N")] = None,
    retries: Annotated[int, arg(help="of a training that failed", metavar="N")] = 1,
    leave_out_failed: Annotated[
        FlagCreatePairsOff[bool], arg(help="pick among the RAFs that are whole")
    ] = False,
    engine: Annotated[Literal["local", "ray"], arg(help="this machine, or a cluster")] = "local",
    address: Annotated[str | None, arg(help="HOST:PORT of the Ray cluster", metavar="H:P")] = None,
    cpus: Annotated[float, arg(help="of a training, on Ray")] = 1,
    gpus: Annotated[float | None, arg(help="of a training, on Ray", metavar="FLOAT")] = None,
    format: Annotated[  # noqa: A002
        Literal["csv", "parquet"], arg(help="of the rows: csv, parquet", metavar="F")
    ] = "csv",
    device: Device = "auto",
    precision: Precision = "float32",
) -> None:
    """Train FMCE-Net++ over models, data, RAFs and seeds.

    Example: fmce sweep --out runs/sweep --data mnist cifar10 --raf 0.9 --seeds 1 2
    """
    from fmce.commands.sweep import make_workers
    from fmce.commands.sweep import sweep as run_sweep
    from fmce.commands.sweep_estimate import print_estimate, sweep_estimate
    from fmce.commands.sweep_status import print_status, sweep_status
    from fmce.sweep_config import make_sweep_config

    if status is not None:
        print_status(sweep_status(status), status)
        return
    if out is None:
        raise ValueError(
            "fmce sweep needs --out FOLDER, or --status FOLDER of a sweep that was begun"
        )
    given = {
        "models": model,
        "data": data,
        "rafs": raf,
        "seeds": seeds,
        "controls": None if controls is None else [c for c in controls if c != "none"],
        "settings": settings,
        "preset": preset,
        "oracles": [str(path.absolute()) for path in oracles],
        "length": length,
    }
    grid = make_sweep_config(config, given, vary)
    if dry_run:
        print_estimate(sweep_estimate(grid, out, device=device, precision=precision))
        return
    workers = make_workers(engine, out, jobs, device, address=address, cpus=cpus, gpus=gpus)
    result = run_sweep(
        grid,
        out,
        workers=workers,
        retries=retries,
        leave_out_failed=leave_out_failed,
        device=device,
        precision=precision,
        table=format,
    )
    if result["failed"]:
        sys.exit(1)


@command("explain")
def explain(
    run: RunFolder,
    images: Annotated[int, arg(help="test images, classes in turn", metavar="N")] = 6,
    signed: Annotated[
        FlagCreatePairsOff[bool], arg(help="show evidence against the class too")
    ] = False,
    device: Device = "auto",
) -> None:
    """Draw Grad-CAM of test images over a run's phases.

    Example: fmce explain runs/digits --images 8
    """
    from fmce.commands.explain import explain as run_explain
    from fmce.run_folder import open_run

    run_explain(open_run(run), num_images=images, signed=signed, runtime=_runtime(device))


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
    from fmce.commands.distill import distill as run_distill
    from fmce.commands.report import matching_report
    from fmce.configs import from_yaml, with_settings
    from fmce.matching_config import MATCHING_DEFAULTS, MatchingConfig, matching_preset

    chosen = matching_preset(preset or MATCHING_DEFAULTS[task or "segment"])
    if task not in (None, chosen.task):
        raise ValueError(
            f"preset {preset} has task {chosen.task}, not {task}; leave one of them out"
        )
    if config is not None:
        chosen = from_yaml(MatchingConfig, config, base=chosen)
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
    run_distill(chosen, out, jobs=jobs, runtime=runtime)
    if runtime.ranks.first:
        print(f"report: {matching_report(out)}")


@command("predict")
def predict(
    experiment: Annotated[
        Positional[Path], arg(help="folder of fmce distill", metavar="EXPERIMENT")
    ],
    images: Annotated[Path, arg(help="images, nested or not", metavar="FOLDER")],
    out: Annotated[Path, arg(help="masks named by stem, or JSON of boxes", metavar="FOLDER")],
    network: Annotated[
        Literal["teacher", "supervised", "labelled", "funmatch"], arg(help="which")
    ] = "funmatch",
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
    from fmce.commands.predict import predict as run_predict

    run_predict(
        experiment,
        images,
        out,
        network=network,
        seed=seed,
        masks=masks,
        labels=labels,
        runtime=_runtime(device, precision),
    )


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
    from fmce.commands.frames import frames as run_frames
    from fmce.data.video import FrameSettings

    run_frames(
        videos,
        out,
        FrameSettings(every, height, quality, shard_frames),
        exclude=exclude,
        max_damaged=max_damaged,
        workers=workers,
    )


@command("export")
def export(
    experiment: Annotated[
        Positional[Path], arg(help="folder of fmce distill", metavar="EXPERIMENT")
    ],
    out: Annotated[Path | None, arg(help="folder to write; EXPERIMENT/student if left out")] = None,
    arm: Annotated[Literal["supervised", "labelled", "funmatch"], arg(help="which")] = "funmatch",
    seed: Annotated[int | None, arg(help="which; the first if left out", metavar="N")] = None,
    onnx: Annotated[bool, arg(help="write ONNX too")] = True,
) -> None:
    """Export a trained student: state dict, torch.export, ONNX, each checked.

    Example: fmce export runs/camvid --arm funmatch
    """
    from fmce.commands.export import export as run_export

    run_export(experiment, out or experiment / "student", arm=arm, seed=seed, onnx=onnx)


@command("report")
def report(
    run: RunFolder,
    comparison: Annotated[Path | None, arg(help="folder of fmce compare", metavar="FOLDER")] = None,
    out: Annotated[Path | None, arg(help="page; RUN/report.html if left out")] = None,
) -> None:
    """Write the report of a run, or of a distill folder, as one HTML file.

    Example: fmce report runs/digits --comparison runs/compare
    """
    from fmce.commands.report import matching_report
    from fmce.commands.report import report as run_report

    if (run / "distill.json").exists():
        print(f"report: {matching_report(run, out=out)}")
        return
    print(f"report: {run_report(run, comparison=comparison, out=out)}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments == ["--version"]:
        print(f"fmce {__version__}")
        return
    rank = _rank()
    try:
        _check_processes(arguments)
        _parse(arguments or ["--help"])()
    except KeyboardInterrupt:
        if rank == 0:
            print(
                "interrupted; the same command goes on from the last whole epoch", file=sys.stderr
            )
        sys.exit(130)
    except BrokenPipeError:
        # The reader went away (`| head`); a second failure at exit would print a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        code = _exit_code(error)
        if rank > 0:
            _let_the_first_speak()
        if code is None or os.environ.get("FMCE_TRACEBACK"):
            raise
        where = f" (rank {rank})" if rank > 0 else ""
        print(f"fmce{where}: {_line_of(error)}", file=sys.stderr)
        sys.exit(code)


def _rank() -> int:
    """Return this process's number among those that torchrun started; 0 without torchrun."""
    return int(os.environ.get("RANK", "0")) if "WORLD_SIZE" in os.environ else 0


def _check_processes(arguments: Sequence[str]) -> None:
    """Refuse several processes for what one process does: each would write the same files."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return
    if arguments and not arguments[0].startswith("-") and arguments[0] not in _TOGETHER:
        raise ValueError(
            f"fmce {arguments[0]} runs in one process, but torchrun started "
            f"{os.environ['WORLD_SIZE']}; call it without torchrun. Several processes share: "
            f"{', '.join(_TOGETHER)}"
        )


def _let_the_first_speak() -> None:
    """Wait a little: most errors meet all ranks alike, and torchrun stops this one when the first has ended."""
    from fmce.engine.lost_rank import note_failure

    note_failure()
    time.sleep(1)


def _parse(arguments: Sequence[str]) -> Callable[[], None]:
    """Return what the arguments ask for; a mistake in them ends the program with one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            action: Callable[[], None] = app.cli(
                prog="fmce",
                description="Maturity of a network's modules, from feature maps. See also --version.",
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as end:
        if end.code == 2:
            print(f"fmce: {_first_part(said.getvalue())}; see --help", file=sys.stderr)
        raise
    return action


def _first_part(box: str) -> str:
    """Return the text of a drawn box up to its first rule, on one line."""
    rows = [row.strip("│ \n") for row in box.splitlines()]
    inside = [row for row in rows if row and row[0] not in "╭╰"]
    if len(inside) > 1 and set(inside[1]) == {"-"}:
        inside = inside[2:]  # where output is no UTF-8, the title stands inside the box
    rule = next((i for i, row in enumerate(inside) if set(row) <= {"─", "-"}), len(inside))
    return " ".join(" ".join(inside[:rule]).split())


def _exit_code(error: Exception) -> int | None:
    """Return 2 for what the user can mend, 1 for what stopped and can go on, None for a defect of ours."""
    if isinstance(error, (ValueError, OSError, ModuleNotFoundError)):
        return 2
    stopped = ("TrainingStoppedError", "RankLostError", "UnreachableError", _FULL)
    return 1 if type(error).__name__ in stopped else None


def _line_of(error: Exception) -> str:
    """Return an error on one line, with the remedy where PyTorch names none of ours."""
    line = " ".join(str(error).split())
    if type(error).__name__ != _FULL:
        return line
    return (
        f"{line} What takes less: a smaller train.batch_size, scorer.buffer or data.image_size, or "
        "--precision bfloat16; each makes another run, in a folder of its own"
    )


def _runtime(device: str, precision: str = "float32", *, together: bool = False) -> "Runtime":
    from fmce.engine.runtime import make_runtime

    return make_runtime(device, precision, together=together)


def _config(
    preset: str | None,
    data: str | None,
    file: Path | None,
    given: dict[str, Any],
    oracle: Path | None,
    raf: float | None,
    settings: Sequence[str],
) -> Any:
    from fmce.commands.settings import base_config
    from fmce.configs import with_settings

    base = base_config(preset, data, file=file, settings=settings)
    auxiliary: dict[str, Any] = {"auxiliary.raf": raf}
    options = _assignments({"data.name": data, **given, **auxiliary})
    if oracle is not None:
        kind = base.auxiliary.kind if base.auxiliary.kind != "none" else "ral"
        auxiliary |= {"auxiliary.kind": kind, "auxiliary.oracle": str(oracle.resolve())}
        if raf is None and base.auxiliary.oracle is None:
            raise ValueError(
                "--oracle needs --raf, the weight of the task's loss, such as --raf 0.9"
            )
        given = {"train.epochs": _oracle_length(oracle, file, settings)} | {
            k: v for k, v in given.items() if v is not None
        }
    chosen = with_settings(base, [*_assignments(given | auxiliary), *settings])
    _check_options_hold(chosen, options)
    return chosen


def _check_options_hold(chosen: Any, options: Sequence[str]) -> None:
    """Refuse an option that a setting overrides: which of the two was meant only the user knows."""
    from fmce.configs import with_settings

    for option in options:
        if with_settings(chosen, [option]) != chosen:
            raise ValueError(
                f"an option says {option}, but --set says something else; leave one of them out"
            )


def _oracle_length(oracle: Path, file: Path | None, settings: Sequence[str]) -> int | None:
    """Return the oracle's convergence epoch, FMCE-Net++'s schedule length unless another is given."""
    from fmce.configs import read_yaml
    from fmce.run_folder import open_run

    in_file = file is not None and "epochs" in (read_yaml(file).get("train") or {})
    if in_file or any(s.startswith("train.epochs") for s in settings):
        return None
    return open_run(oracle).phases.convergence_epoch


def _assignments(values: dict[str, Any]) -> list[str]:
    import json

    return [f"{name}={json.dumps(v)}" for name, v in values.items() if v is not None]


def _print_json(wanted: bool, result: Any) -> None:
    if wanted:
        import json

        print(json.dumps(result, indent=1, allow_nan=False))


if __name__ == "__main__":
    main()
