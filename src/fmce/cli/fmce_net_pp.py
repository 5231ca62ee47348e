"""Commands of method 2, FMCE-Net++."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg

from fmce.cli.options import Device, Net, Precision, Settings, command


@command("compare")
def compare(
    oracle: Annotated[
        Positional[Path], arg(help="run whose FMCE-Net is the oracle", metavar="ORACLE")
    ],
    out: Annotated[Path, arg(help="folder to write; resumed if unfinished")],
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
    from fmce.cli.show_fmce_net_pp import show_comparison
    from fmce.config.sweep import CONTROLS, CompareConfig
    from fmce.fmce_net_pp.compare import compare as run_compare
    from fmce.fmce_net_pp.sweep.run import make_workers

    config = CompareConfig(
        oracle=str(oracle.resolve()),
        rafs=raf,
        seeds=seeds,
        selection_seed=selection_seed,
        controls=CONTROLS if controls else (),
        same_seed=same_seed,
        length=length,
        oracle_split=oracle_split,
        settings=settings,
    )
    workers = make_workers("local", out, jobs, device)
    show_comparison(run_compare(config, out, workers=workers, device=device, precision=precision))


@command("sweep")
def sweep(
    out: Annotated[
        Path | None, arg(help="folder to write; resumed if unfinished", metavar="FOLDER")
    ] = None,
    status: Annotated[Path | None, arg(help="only show how far a sweep is", metavar="OUT")] = None,
    dry_run: Annotated[FlagCreatePairsOff[bool], arg(help="only list runs and times")] = False,
    config: Annotated[Path | None, arg(help="YAML of a grid; options win", metavar="FILE")] = None,
    model: Annotated[tuple[str, ...], arg(help="networks", metavar="NAME …")] = (),
    data: Annotated[tuple[str, ...], arg(help="data sets", metavar="NAME …")] = (),
    raf: Annotated[
        tuple[float, ...], arg(help="one is selected on validation", metavar="RAF …")
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
        FlagCreatePairsOff[bool], arg(help="select among the complete RAFs")
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
    from fmce.cli.show_fmce_net_pp import show_estimate, show_status, show_sweep
    from fmce.config.sweep import make_sweep_config
    from fmce.fmce_net_pp.sweep.estimate import sweep_estimate
    from fmce.fmce_net_pp.sweep.run import make_workers
    from fmce.fmce_net_pp.sweep.run import sweep as run_sweep
    from fmce.fmce_net_pp.sweep.status import sweep_status

    if status is not None:
        show_status(sweep_status(status), status)
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
        show_estimate(sweep_estimate(grid, out))
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
    show_sweep(result)
    print(f"rows: {out / f'sweep.{format}'}")
    if result.failed:
        sys.exit(1)
