"""Commands of method 2, FMCE-Net++."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional

from fmce.cli.options import (
    Device,
    Flag,
    Jobs,
    OutputFolder,
    Precision,
    Settings,
    Split,
    Texts,
    Trust,
    option,
    required,
)
from fmce.config import choices


def compare(
    oracle: Annotated[Positional[Path], required("run whose FMCE-Net is the oracle", "ORACLE")],
    out: OutputFolder,
    raf: Annotated[tuple[float, ...], option("candidates; one is selected", "RAF …")] = (0.9, 0.75),
    seeds: Annotated[tuple[int, ...], option("seeds of the paired arms", "N …")] = (1, 2, 3),
    selection_seed: Annotated[int, option("seed of the runs that select RAF", "N")] = 100,
    controls: Annotated[bool, option("train the controls too")] = True,
    same_seed: Annotated[Flag, option("add the oracle's own seed, reported apart")] = False,
    length: Annotated[
        choices.Length, option("E_K epochs, or all of the oracle's run")
    ] = "convergence",
    oracle_split: Split = "map",
    settings: Annotated[
        Texts,
        option("any value of the auxiliary loss; repeatable", "auxiliary.FIELD=VALUE", name="set"),
    ] = (),
    jobs: Jobs = None,
    trust: Trust = False,
    device: Device = "auto",
    precision: Precision = "float32",
) -> None:
    """Compare FMCE-Net++ with its baseline and controls over paired seeds.

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
    show_comparison(
        run_compare(config, out, workers=workers, device=device, precision=precision, trust=trust)
    )


@dataclass(frozen=True)
class GridOptions:
    """What is trained: every combination of models, data sets and varied values."""

    models: Annotated[tuple[str, ...], option("networks", "NAME …", name="model")] = ()
    data: Annotated[tuple[str, ...], option("data sets", "NAME …")] = ()
    rafs: Annotated[tuple[float, ...], option("RAFs to choose from", "RAF …", name="raf")] = ()
    seeds: Annotated[tuple[int, ...], option("seeds of the paired arms", "N …")] = ()
    controls: Annotated[tuple[str, ...], option("some controls, or none", "NAME …")] = ()
    vary: Annotated[Texts, option("values to try; repeatable", "SECTION.FIELD=A,B")] = ()
    settings: Settings = ()
    preset: Annotated[str | None, option("values to start from, as in fmce train", "NAME")] = None
    oracles: Annotated[tuple[Path, ...], option("runs to use as oracles", "RUN …")] = ()
    length: Annotated[choices.Length | None, option("convergence (E_K) or full", "NAME")] = None

    def given(self) -> dict[str, Any]:
        """Return the fields of `SweepConfig` that were given; `vary` holds texts to read first."""
        values = {name: value for name, value in vars(self).items() if value and name != "vary"}
        if self.controls == ("none",):
            values["controls"] = ()
        if self.oracles:
            values["oracles"] = [str(path.absolute()) for path in self.oracles]
        return values


@dataclass(frozen=True)
class WorkerOptions:
    """Where trainings run: on this machine or on a Ray cluster."""

    engine: Annotated[Literal["local", "ray"], option("local, or ray for a cluster", "NAME")] = (
        "local"
    )
    jobs: Jobs = None
    address: Annotated[str | None, option("address of the Ray cluster", "HOST:PORT")] = None
    cpus: Annotated[float, option("processors per training, on Ray", "N")] = 1
    gpus: Annotated[float | None, option("GPUs per training, on Ray", "N")] = None


def sweep(
    grid: GridOptions,
    workers: WorkerOptions,
    out: Annotated[Path | None, option("folder to write; resumed if unfinished", "FOLDER")] = None,
    status: Annotated[Path | None, option("only show the progress of a sweep", "DIR")] = None,
    dry_run: Annotated[Flag, option("only list the trainings")] = False,
    config: Annotated[Path | None, option("YAML file of a grid", "FILE")] = None,
    retries: Annotated[int, option("further attempts at a failed training", "N")] = 1,
    leave_out_failed: Annotated[Flag, option("select among the complete RAFs")] = False,
    table: Annotated[
        Literal["csv", "parquet"],
        option("csv or parquet, of the table of rows", "NAME", name="format"),
    ] = "csv",
    device: Device = "auto",
    precision: Precision = "float32",
) -> None:
    """Train FMCE-Net++ over models, data sets, RAFs and seeds.

    Example: fmce sweep --out runs/sweep --data mnist cifar10 --raf 0.9 --seeds 1 2
    """
    from fmce.cli.show_fmce_net_pp import show_estimate, show_status, show_sweep
    from fmce.config.sweep import make_sweep_config
    from fmce.fmce_net_pp.sweep.run import make_workers
    from fmce.fmce_net_pp.sweep.run import sweep as run_sweep
    from fmce.fmce_net_pp.sweep.status import sweep_estimate, sweep_status

    if status is not None:
        show_status(sweep_status(status), status)
        return
    if out is None:
        raise ValueError("fmce sweep needs --out FOLDER, or --status FOLDER of one that was begun")
    chosen = make_sweep_config(config, grid.given(), grid.vary)
    if dry_run:
        show_estimate(sweep_estimate(chosen, out))
        return
    result = run_sweep(
        chosen,
        out,
        workers=make_workers(out=out, device=device, **vars(workers)),
        retries=retries,
        leave_out_failed=leave_out_failed,
        device=device,
        precision=precision,
        table=table,
    )
    show_sweep(result)
    print(f"rows: {out / f'sweep.{table}'}")
    if result.failed:
        sys.exit(1)
