"""Commands on recorded trainings: the modules, a check of a checkpoint, the live view."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from fmce.cli.options import Flag, Json, option, print_json, required

AnyRun = Annotated[
    Positional[Path],
    required("folder of a recorder, of fmce train, or of one training of distill", "RUN"),
]


def modules(
    run: AnyRun,
    figure: Annotated[
        Path | None, option("PNG or SVG; default: RUN/figures/modules.png", "FILE")
    ] = None,
    markdown: Annotated[Flag, option("print a Markdown table, to be pasted")] = False,
    prices: Annotated[Flag, option("print what freezing up to each module would save")] = False,
    model: Annotated[
        str | None, option("with --prices: the network of a loop of your own", "NAME")
    ] = None,
    probe: Annotated[
        str | None, option("with --prices: module:function that returns its inputs", "NAME")
    ] = None,
    num_classes: Annotated[int, option("classes of torchvision's or timm's model", "N")] = 1000,
    json: Json = False,
) -> None:
    """Show each module of a training: what moved, what is wrong, when it came to rest.

    Example: fmce modules runs/mine --markdown
    """
    from fmce.cli.show_modules import show_modules, show_prices
    from fmce.files import folder_inside
    from fmce.models.build import call_named, own_or_named_model
    from fmce.recorder.clocks import module_table
    from fmce.recorder.prices import module_prices, price_inputs
    from fmce.report.figures import save_figure
    from fmce.report.module_figures import modules_figure

    if not prices and (model, probe) != (None, None):
        raise ValueError("--model and --probe belong to --prices; add it, or leave them out")
    if (model is None) != (probe is None):
        raise ValueError(
            "--prices needs both --model and --probe, or neither for a run of fmce train"
        )
    table = module_table(run)
    found = None
    if prices:
        if model is None or probe is None:
            network, inputs = price_inputs(run)
        else:
            network, inputs = own_or_named_model(model, num_classes), call_named(probe)
        found = module_prices(network, [row.name for row in table.rows], inputs)
    drawn = None
    if any(row.clocks for row in table.rows):
        remedy = "name the figure yourself: --figure FILE"
        drawn = figure or folder_inside(run, "figures", remedy) / "modules.png"
        drawn.parent.mkdir(parents=True, exist_ok=True)
        save_figure(modules_figure(table), drawn)
    elif figure is not None:
        modules_figure(table)  # says why there is nothing to draw
    if json:
        values = table.to_dict()
        if found is not None:
            values["prices"] = [price.to_dict() for price in found]
        print_json(values)
    else:
        show_modules(table, markdown=markdown, figure=drawn)
        if found is not None:
            show_prices(found, markdown=markdown)


def check(
    checkpoint: Annotated[
        Positional[Path], required("weights file or checkpoint folder", "CHECKPOINT")
    ],
    model: Annotated[
        str, option("module:function that returns the network, torchvision:… or timm:…", "NAME")
    ],
    run: Annotated[
        Path | None, option("folder that recorded the training it belongs to", "RUN")
    ] = None,
    modules: Annotated[tuple[str, ...], option("submodules to check", "NAME …")] = (),
    probe: Annotated[
        str | None, option("module:function that returns inputs for the network", "NAME")
    ] = None,
    peers: Annotated[
        tuple[Path, ...],
        option("checkpoints of four or more other trainings of the network", "FILE …"),
    ] = (),
    num_classes: Annotated[int, option("classes of torchvision's or timm's model", "N")] = 1000,
    markdown: Annotated[Flag, option("print a Markdown table, to be pasted")] = False,
    json: Json = False,
) -> None:
    """Check a checkpoint: what would be loaded, which weights are odd, which epoch they are of.

    Example: fmce check weights.pt --model mynet:build --run runs/mine
    """
    from fmce.cli.show_modules import show_check
    from fmce.models.build import call_named, own_or_named_model
    from fmce.recorder.check_checkpoint import check_checkpoint

    found = check_checkpoint(
        own_or_named_model(model, num_classes),
        checkpoint,
        run=run,
        modules=modules or None,
        probe=None if probe is None else call_named(probe),
        peers=peers,
    )
    if json:
        print_json(found.to_dict())
    else:
        show_check(checkpoint, found, markdown=markdown)


def watch(
    run: AnyRun,
    every: Annotated[float, option("seconds between looks at the folder", "S")] = 2.0,
    once: Annotated[Flag, option("print the state once")] = False,
) -> None:
    """Watch a training: curve, convergence, modules and alarms; reads the folder only.

    Example: fmce watch runs/mine --once
    """
    from fmce.cli.watch import show_once, watch_run

    if every <= 0:
        raise ValueError(f"--every must be above 0 seconds, got {every}")
    if once:
        show_once(run)
    else:
        watch_run(run, every)
