"""Commands of method 1, FMCE."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional

from fmce.cli.options import (
    ConfigFile,
    Device,
    Flag,
    Json,
    OutputFolder,
    OwnDataName,
    OwnLayer,
    OwnModelName,
    Precision,
    RunFolder,
    Settings,
    Split,
    Texts,
    Trust,
    option,
    print_json,
    runtime_of,
)
from fmce.config import choices

if TYPE_CHECKING:
    from fmce.config.run import RunConfig


def train(
    out: OutputFolder,
    data: Annotated[
        str | None, option("digits, mnist, cifar10, … image-folder:DIR or module:function", "NAME")
    ] = None,
    data_root: Annotated[Path | None, option("data sets, instead of $FMCE_DATA", "DIR")] = None,
    download: Annotated[Flag, option("download the data set if it is missing")] = False,
    preset: Annotated[str | None, option("digits, small or paper", "NAME")] = None,
    config: ConfigFile = None,
    model: Annotated[
        str | None, option("tiny, torchvision:…, timm:…, module:function", "NAME")
    ] = None,
    layer: Annotated[str | None, option("submodule of the feature map", "NAME")] = None,
    epochs: Annotated[
        int | None, option("default: the preset's; with --oracle, its convergence epoch", "M")
    ] = None,
    seed: Annotated[int | None, option("seed of weights and data order", "N")] = None,
    oracle: Annotated[Path | None, option("run whose FMCE-Net supervises too", "RUN")] = None,
    raf: Annotated[float | None, option("weight of the task's loss", "0..1")] = None,
    settings: Settings = (),
    keep: Annotated[choices.Keep, option("checkpoints kept once the phases are known")] = "all",
    device: Device = "auto",
    precision: Annotated[
        choices.Precision | None,
        option("default: the config's", "NAME"),
    ] = None,
) -> None:
    """Train a classifier, plain or as FMCE-Net++.

    Example: fmce train --out runs/pp --oracle runs/digits --raf 0.9 --seed 1
    """
    from fmce.config.io import with_options
    from fmce.config.presets import preset_config
    from fmce.maturity.train_classifier import train_classifier

    options = {
        "data.name": data,
        "data.root": data_root and str(data_root.absolute()),
        "model.name": model,
        "model.layer": layer,
        "train.epochs": epochs,
        "train.seed": seed,
        "auxiliary.oracle": oracle and str(oracle.resolve()),
        "auxiliary.raf": raf,
        "runtime.precision": precision,
    }
    base = preset_config(preset, data, file=config, settings=settings)
    if oracle is not None:
        base = _supervised_by(oracle, base, config, raf)
    chosen = with_options(base, options, settings)
    runtime = runtime_of(device, distributed=True)
    train_classifier(chosen, out, runtime=runtime, keep=keep, download=download)


def _supervised_by(
    oracle: Path, base: "RunConfig", file: Path | None, raf: float | None
) -> "RunConfig":
    """Return the config with what an oracle implies: RAL, and its E_K epochs unless the file gives others."""
    from fmce.config.io import from_dict, read_yaml
    from fmce.runs.run import open_run

    if raf is None and base.auxiliary.oracle is None:
        raise ValueError("--oracle needs --raf, the weight of the task's loss, such as --raf 0.9")
    kind = "ral" if base.auxiliary.kind == "none" else base.auxiliary.kind
    implied: dict[str, Any] = {"auxiliary": {"kind": kind, "oracle": str(oracle.resolve())}}
    if file is None or "epochs" not in (read_yaml(file).get("train") or {}):
        # Nothing of it runs here; the training checks what it names.
        implied["train"] = {"epochs": open_run(oracle, trust=True).phases.convergence_epoch}
    return from_dict(type(base), implied, base=base)


def phases(
    sources: Annotated[
        Positional[tuple[Path, ...]],
        option("run folders, training logs of any program, TensorBoard folders", "SOURCE …"),
    ],
    threshold: Annotated[
        float | None,
        option("CQI threshold µ per epoch; default of files: 0.001 of the range", "MU"),
    ] = None,
    num_phases: Annotated[int | None, option("number of phases", "K")] = None,
    column: Annotated[str | None, option("loss column; A+B sums columns", "NAME")] = None,
    key: Annotated[str | None, option("loss key (JSON)", "NAME")] = None,
    tag: Annotated[str | None, option("loss scalar (TensorBoard)", "NAME")] = None,
    epoch_column: Annotated[str | None, option("column of the epoch", "NAME")] = None,
    lr_column: Annotated[str | None, option("learning-rate column", "NAME")] = None,
    validation_column: Annotated[
        str | None, option("validation loss, which decides overfitting", "NAME")
    ] = None,
    where: Annotated[Texts, option("only rows with this value; repeatable", "COLUMN=VALUE")] = (),
    steps_per_epoch: Annotated[
        int | None, option("averages the steps of an epoch in a log without epochs", "N")
    ] = None,
    format: Annotated[  # noqa: A002 (the name of the option)
        str | None, option("program that wrote the file, or csv, tsv, json, jsonl", "NAME")
    ] = None,
    figure: Annotated[Path | None, option("PNG or SVG to draw", "FILE")] = None,
    settings: Annotated[
        Texts, option("any phase setting; repeatable", "FIELD=VALUE", name="set")
    ] = (),
    json: Json = False,
) -> None:
    """Judge loss curves and find their convergence phases.

    Example: fmce phases losses.csv --column train_loss --threshold 1e-3 --figure phases.svg
    """
    from fmce.cli.show_maturity import show_curves, show_phases
    from fmce.config.io import merge_options
    from fmce.convergence.files.curves import CurveOptions
    from fmce.convergence.phases import PhaseConfig
    from fmce.maturity.phases import phases as find
    from fmce.maturity.phases import phases_of_each

    if not sources:
        raise ValueError("name a run folder, a file of losses or a folder of event files")
    if figure is not None and len(sources) > 1:
        raise ValueError(f"--figure draws one curve; got {len(sources)} sources")
    named = [name for name in (column, key, tag) if name is not None]
    if len(named) > 1:
        raise ValueError(f"--column, --key and --tag all name the loss; got {' and '.join(named)}")
    changes = merge_options(
        PhaseConfig, {"threshold": threshold, "num_phases": num_phases}, settings
    )
    options = CurveOptions(
        column=next(iter(named), None),
        epoch_column=epoch_column,
        lr_column=lr_column,
        validation_column=validation_column,
        format=format,
        where=tuple(where),
        steps_per_epoch=steps_per_epoch,
    )
    if len(sources) == 1:
        found = find(sources[0], changes, options=options, figure=figure)
        print_json(found.to_dict()) if json else show_phases(found)
        if found.refusal is not None:
            raise ValueError(found.refusal)
        return
    curves, unread = phases_of_each(sources, changes, options=options)
    if json:
        refused = [{"source": str(source), "error": why} for source, why in unread.items()]
        print_json([*(one.to_dict() for one in curves), *refused])
    else:
        show_curves(curves, unread)
    if unread:
        raise ValueError(
            f"{len(unread)} of {len(sources)} sources could not be read; see their rows"
        )


def extract(
    run: RunFolder,
    workers: Annotated[int, option("processes; torchrun works too", "N")] = 1,
    dry_run: Annotated[Flag, option("only estimate the size on disk")] = False,
    json: Json = False,
    model: OwnModelName = None,
    data: OwnDataName = None,
    layer: OwnLayer = None,
    trust: Trust = False,
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
        open_run(run, trust=trust, model=model, data=data, layer=layer),
        workers=workers,
        runtime=runtime_of(device, precision),
        dry_run=dry_run,
    )
    if json:
        print_json(result)
    else:
        show_store(run, result)


def train_net(
    run: RunFolder,
    split: Annotated[choices.Split, option("what is held out for testing")] = "map",
    others: Annotated[tuple[Path, ...], option("further runs whose maps join", "RUN …")] = (),
    settings: Annotated[
        Texts, option("any value of the config's fmce_net; repeatable", "FIELD=VALUE", name="set")
    ] = (),
    model: OwnModelName = None,
    data: OwnDataName = None,
    layer: OwnLayer = None,
    trust: Trust = False,
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

    runtime = runtime_of(device, precision, distributed=True)
    opened = open_run(run, trust=trust, model=model, data=data, layer=layer)
    result = train_fmce_net(
        opened,
        split,
        others=[
            open_run(path.resolve(), trust=trust, model=model, data=data, layer=layer)
            for path in others
        ],
        config=with_settings(opened.config.fmce_net, settings),
        runtime=runtime,
    )
    if runtime.ranks.is_main:
        rows = [("held out", result["held_out"]), ("test images", result["test_images"])]
        show_fmce_net(f"FMCE-Net of {run}, split {split}", rows)


def evaluate(
    run: RunFolder,
    split: Split = "map",
    others: Annotated[tuple[Path, ...], option("other runs to test it on", "RUN …")] = (),
    settings: Annotated[
        Texts,
        option("width=… of the FMCE-Net, storage=… of the others' maps", "FIELD=VALUE", name="set"),
    ] = (),
    json: Json = False,
    model: OwnModelName = None,
    data: OwnDataName = None,
    layer: OwnLayer = None,
    trust: Trust = False,
    device: Device = "auto",
) -> None:
    """Evaluate a run's classifier at each marker, and its FMCE-Net.

    Example: fmce evaluate runs/digits --split image --others runs/digits-seed1
    """
    from fmce.cli.show_maturity import show_evaluation
    from fmce.maturity.evaluate import evaluate as run_evaluate
    from fmce.maturity.evaluate import runs_trained_on
    from fmce.runs.run import open_run

    opened = open_run(run, trust=trust, model=model, data=data, layer=layer)
    result = run_evaluate(
        opened,
        split,
        others=[
            open_run(path, trust=trust, model=model, data=data, layer=layer) for path in others
        ],
        settings=settings,
        runtime=runtime_of(device),
    )
    if json:
        print_json(result)
    else:
        show_evaluation(run, result, runs_trained_on(opened, split, result["width"]))


def fmcs(
    run: RunFolder,
    epoch: Annotated[int | None, option("epoch of this run", "N")] = None,
    checkpoint: Annotated[Path | None, option("checkpoint instead of an epoch", "PATH")] = None,
    split: Split = "map",
    json: Json = False,
    model: OwnModelName = None,
    data: OwnDataName = None,
    layer: OwnLayer = None,
    trust: Trust = False,
    device: Device = "auto",
) -> None:
    """Give the feature maps of one checkpoint the phases of the published FMCE-Net.

    Example: fmce fmcs runs/digits --epoch 12
    """
    from fmce.cli.show_maturity import show_fmcs
    from fmce.maturity.fmcs import fmcs as run_fmcs
    from fmce.runs.run import open_run

    result = run_fmcs(
        open_run(run, trust=trust, model=model, data=data, layer=layer),
        epoch=epoch,
        checkpoint=checkpoint,
        split=split,
        runtime=runtime_of(device),
    )
    if json:
        print_json(result)
    else:
        show_fmcs(result)


def score(
    run: RunFolder,
    epoch: Annotated[int | None, option("one epoch, a row per module", "N")] = None,
    modules: Annotated[
        tuple[str, ...], option("default: those recorded, or the children", "NAME …")
    ] = (),
    scorer: Annotated[Path | None, option("of your own; default: fmce's", "FILE")] = None,
    images: Annotated[int, option("training images to measure", "N")] = 768,
    json: Json = False,
    model: OwnModelName = None,
    data: OwnDataName = None,
    trust: Trust = False,
    device: Device = "auto",
) -> None:
    """Score the maturity of each module of a run, with intervals.

    Example: fmce score runs/digits --epoch 12
    """
    from fmce.cli.show_scores import show_scores
    from fmce.maturity.module_scores import score_run
    from fmce.runs.run import open_run
    from fmce.scoring.scorer import MaturityScorer

    result = score_run(
        open_run(run, trust=trust, model=model, data=data),
        modules=modules or None,
        epochs=() if epoch is None else (epoch,),
        images=images,
        scorer=None if scorer is None else MaturityScorer.load(scorer),
        runtime=runtime_of(device),
    )
    if json:
        print_json(result.to_dict())
    else:
        show_scores(result, epoch)


def explain(
    run: RunFolder,
    images: Annotated[int, option("test images, classes in turn", "N")] = 6,
    signed: Annotated[Flag, option("show evidence against the class too")] = False,
    model: OwnModelName = None,
    data: OwnDataName = None,
    layer: OwnLayer = None,
    trust: Trust = False,
    device: Device = "auto",
) -> None:
    """Draw Grad-CAM of test images over a run's phases.

    Example: fmce explain runs/digits --images 8
    """
    from fmce.cli.show_maturity import show_explanation
    from fmce.maturity.explain import explain as run_explain
    from fmce.runs.run import open_run

    opened = open_run(run, trust=trust, model=model, data=data, layer=layer)
    result = run_explain(opened, num_images=images, signed=signed, runtime=runtime_of(device))
    show_explanation(run, result)
