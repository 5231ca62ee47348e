"""Commands of method 1, FMCE."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg

from fmce.cli.options import (
    Device,
    Json,
    Net,
    Precision,
    RunFolder,
    Settings,
    _assignments,
    _check_options_hold,
    _print_json,
    _runtime,
    command,
)
from fmce.config.choices import Keep

if TYPE_CHECKING:
    pass


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
    layer: Annotated[
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
    from fmce.maturity.train_classifier import train_classifier

    given = {
        "data.root": data_root and str(data_root.absolute()),
        "model.name": model,
        "model.layer": layer,
        "train.epochs": epochs,
        "train.seed": seed,
        "runtime.precision": precision,
    }
    chosen = _config(preset, data, config, given, oracle, raf, settings)
    runtime = _runtime(device, together=True)
    train_classifier(chosen, out, runtime=runtime, keep=keep, download=download)


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
    from fmce.cli.show_maturity import show_phases
    from fmce.maturity.phases import phases as find

    given = {"threshold": threshold, "num_phases": num_phases}
    chosen = [*_assignments(given), *settings]
    found = find(
        source,
        chosen,
        column=column,
        key=key,
        epoch_column=epoch_column,
        lr_column=lr_column,
        tag=tag,
        figure=figure,
    )
    if json:
        print(found.phases.to_json(), end="")
    else:
        show_phases(found)


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
    from fmce.cli.show_maturity import show_store
    from fmce.feature_maps.extract import extract as run_extract
    from fmce.runs.run import open_run

    result = run_extract(
        open_run(run),
        workers=workers,
        runtime=_runtime(device, precision),
        dry_run=dry_run,
    )
    if not json:
        show_store(run, result)
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
    from fmce.cli.show_maturity import show_fmce_net
    from fmce.config.io import with_settings
    from fmce.maturity.train_fmce_net import train_fmce_net
    from fmce.runs.run import open_run

    runtime = _runtime(device, precision, together=True)
    opened = open_run(run)
    result = train_fmce_net(
        opened,
        split,
        others=[open_run(path.resolve()) for path in others],
        config=with_settings(opened.config.fmce_net, settings),
        runtime=runtime,
    )
    if not runtime.ranks.is_main:
        return
    rows = [("held out", result["held_out"]), ("test images", result["test_images"])]
    show_fmce_net(f"FMCE-Net of {run}, split {split}", rows)


@command("evaluate")
def evaluate(
    run: RunFolder,
    split: Net = "map",
    others: Annotated[
        tuple[Path, ...], arg(help="runs it was not trained on, to try it on", metavar="RUNS")
    ] = (),
    settings: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(name="set", help="which FMCE-Net: width=…; others' storage", metavar="FIELD=VALUE"),
    ] = (),
    json: Json = False,
    device: Device = "auto",
) -> None:
    """Evaluate a run's classifier at each marker, and its FMCE-Net.

    Example: fmce evaluate runs/digits --split image --others runs/digits-seed1
    """
    from fmce.cli.show_maturity import show_evaluation
    from fmce.maturity.evaluate import evaluate as run_evaluate
    from fmce.maturity.evaluate import runs_trained_on
    from fmce.runs.run import open_run

    opened = open_run(run)
    result = run_evaluate(
        opened,
        split,
        others=[open_run(path) for path in others],
        settings=settings,
        runtime=_runtime(device),
    )
    if json:
        _print_json(json, result)
    else:
        show_evaluation(run, result, runs_trained_on(opened, split, result["width"]))


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
    from fmce.cli.show_maturity import show_score
    from fmce.maturity.score import score as run_score
    from fmce.runs.run import open_run

    result = run_score(
        open_run(run), epoch=epoch, checkpoint=checkpoint, split=split, runtime=_runtime(device)
    )
    if not json:
        show_score(result)
    _print_json(json, result)


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
    from fmce.cli.show_maturity import show_explanation
    from fmce.maturity.explain import explain as run_explain
    from fmce.runs.run import open_run

    opened = open_run(run)
    result = run_explain(opened, num_images=images, signed=signed, runtime=_runtime(device))
    show_explanation(run, result)


def _config(
    preset: str | None,
    data: str | None,
    file: Path | None,
    given: dict[str, Any],
    oracle: Path | None,
    raf: float | None,
    settings: Sequence[str],
) -> Any:
    from fmce.config.io import with_settings
    from fmce.config.presets import base_config

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


def _oracle_length(oracle: Path, file: Path | None, settings: Sequence[str]) -> int | None:
    """Return the oracle's convergence epoch, FMCE-Net++'s schedule length unless another is given."""
    from fmce.config.io import read_yaml
    from fmce.runs.run import open_run

    in_file = file is not None and "epochs" in (read_yaml(file).get("train") or {})
    if in_file or any(s.startswith("train.epochs") for s in settings):
        return None
    return open_run(oracle).phases.convergence_epoch
