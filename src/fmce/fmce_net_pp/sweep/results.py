"""Results of a comparison or sweep: rows, one per training, and each group's statistics."""

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fmce.config.sweep import BASELINE, ORACLE, TREATMENT
from fmce.files import replacing
from fmce.fmce_net_pp.statistics import arm_summaries, compare_pairs, compare_with_baseline
from fmce.fmce_net_pp.sweep.grid import Group, SweepRun
from fmce.fmce_net_pp.sweep.jobs import read_state
from fmce.fmce_net_pp.sweep.selection import left_out, read_selection
from fmce.runs.log import read_done, read_metrics

TableFormat = Literal["csv", "parquet"]

COLUMNS = (
    *("group", "model", "data", "settings", "role", "arm", "raf", "variant", "seed", "epochs"),
    *("validation_accuracy", "validation_loss", "test_accuracy", "test_loss", "auxiliary_loss"),
    *("seconds", "epoch_seconds", "oracle_markers", "status", "error", "folder"),
)


@dataclass(frozen=True)
class Comparison:
    """FMCE-Net++ compared with its baseline and controls in one group; the contents of `compare.json`.

    Attributes:
        group: Name of the group's folder.
        model: Network, as in `model.name`.
        data: Data set, as in `data.name`.
        settings: What sets the group apart from others of its model and data.
        oracle: Run folder of the oracle.
        oracle_markers: Its phase markers; None while it is not finished.
        length: "convergence" or "full".
        epochs: Epochs of every arm; None before the first is finished.
        seeds: Seeds that arms are paired by.
        selection: The selected `arm`, `raf` and `variant`, and the `candidates` with their validation
            accuracy and loss; None before the selection.
        selected: Arm of FMCE-Net++ with the selected RAF that is compared: the selected candidate, or
            "ral" where separate runs selected; None before the selection.
        left_out: Candidates without all their trainings, with the reason.
        rows: One dict per training with the keys `COLUMNS`.
        arms: Mean, sd and epoch time of each arm on test images; see `arm_summaries`.
        comparisons: Each arm minus the baseline, with interval, p and verdict; see `compare_pairs`.
        over_controls: The selected arm minus each control, likewise.
        same_seed: Rows at the oracle's own seed, which the statistics leave out.
    """

    group: str
    model: str
    data: str
    settings: list[str]
    oracle: str
    oracle_markers: list[int] | None
    length: str
    epochs: int | None
    seeds: list[int]
    selection: dict[str, Any] | None
    selected: str | None
    left_out: list[str]
    rows: list[dict[str, Any]]
    arms: list[dict[str, Any]]
    comparisons: list[dict[str, Any]]
    over_controls: list[dict[str, Any]]
    same_seed: list[dict[str, Any]]

    @property
    def against_baseline(self) -> dict[str, Any] | None:
        """The comparison of the selected arm with the baseline; None before both have two common seeds."""
        return next((c for c in self.comparisons if c["arm"] == self.selected), None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class SweepResult:
    """The groups of a sweep; the contents of `sweep.json`.

    Attributes:
        groups: One comparison per group.
        failed: Folder of each training that is left failed → its error.
    """

    groups: list[Comparison]
    failed: dict[str, str]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of all groups."""
        return [row for group in self.groups for row in group.rows]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self)


def sweep_result(groups: Sequence[Group], out: Path) -> SweepResult:
    """Gather the results that the folders of `out` hold."""
    comparisons = [comparison_of(group, out) for group in groups]
    rows = [row for comparison in comparisons for row in comparison.rows]
    failed = {row["folder"]: row["error"] for row in rows if row["status"] == "failed"}
    unread = {f"{group.name}/test images": unread_error(group) for group in groups}
    return SweepResult(comparisons, failed | {name: why for name, why in unread.items() if why})


def comparison_of(group: Group, out: Path) -> Comparison:
    """Compare a group's arms over the trainings whose test images were read."""
    rows = group_rows(group, out)
    seeds, selection = list(group.config.seeds), read_selection(group)
    paired = [r for r in _tested(rows) if r["seed"] in seeds]
    selected = None if selection is None else selection["arm"]
    if selection is not None and group.config.selection_seed is not None:
        selected = TREATMENT
    controls = {c: (c, selected) for c in map(str, group.config.controls) if selected is not None}
    return Comparison(
        group=group.name,
        model=group.oracle.config.model.name,
        data=group.oracle.config.data.name,
        settings=list(group.settings),
        oracle=str(group.oracle.path),
        oracle_markers=(read_done(group.oracle.path) or {}).get("markers"),
        length=group.config.length,
        epochs=next((row["epochs"] for row in rows if row["arm"] == BASELINE), None),
        seeds=seeds,
        selection=selection,
        selected=selected,
        left_out=left_out(group),
        rows=rows,
        arms=arm_summaries(paired),
        comparisons=compare_with_baseline(paired),
        over_controls=compare_pairs(paired, controls),
        same_seed=[r for r in _tested(rows) if r["seed"] not in seeds],
    )


def _tested(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [r for r in rows if r["role"] != ORACLE and r["test_accuracy"] is not None]


def group_rows(group: Group, out: Path) -> list[dict[str, Any]]:
    """Return a row for each training of a group, done or not."""
    selection = read_selection(group)
    markers = (read_done(group.oracle.path) or {}).get("markers", ())
    about = {
        "group": group.name,
        "model": group.oracle.config.model.name,
        "data": group.oracle.config.data.name,
        "settings": " ".join(group.settings),
        "oracle_markers": " ".join(map(str, markers)),
    }
    rows = [about | _row(group, run, selection, out.absolute()) for run in group.runs]
    return [{name: row.get(name) for name in COLUMNS} for row in rows]


def _row(
    group: Group, run: SweepRun, selection: Mapping[str, Any] | None, out: Path
) -> dict[str, Any]:
    """Return the columns that a training has."""
    folder, status = group.folder_of(run), run_status(group, run)
    lines, done = read_metrics(folder), read_done(folder)
    last = lines[-1] if done is not None and lines else {}
    seconds = [line["time_seconds"] for line in lines]
    raf, variant = _raf_and_variant(run, selection)
    measured = ("validation_accuracy", "validation_loss", "auxiliary_loss")
    return {
        **{name: last.get(name) for name in measured},
        **(done or {}),
        "role": run.role,
        "arm": run.arm,
        "raf": raf,
        "variant": variant,
        "seed": run.seed,
        "seconds": sum(seconds) if seconds else None,
        "epoch_seconds": float(np.median(seconds)) if seconds else None,
        "status": status,
        "error": read_state(folder)["error"] if status == "failed" else "",
        "folder": str(folder.relative_to(out) if folder.is_relative_to(out) else folder),
    }


def _raf_and_variant(
    run: SweepRun, selection: Mapping[str, Any] | None
) -> tuple[float | None, str]:
    """Return the RAF and variant a training has: its own, or the selected ones."""
    if run.role in (ORACLE, BASELINE):
        return (1.0 if run.role == BASELINE else None), ""
    if run.raf is not None:
        return run.raf, " ".join(run.variant)
    return (None, "") if selection is None else (selection["raf"], " ".join(selection["variant"]))


def run_status(group: Group, run: SweepRun) -> str:
    """Return done, trained (test images still to be read), failed, running (or stopped meanwhile) or waiting.

    What is finished counts as that, whatever was noted before: a kill may fall between the two.
    """
    folder = group.folder_of(run)
    done = read_done(folder)
    if run.role == ORACLE and group.oracle_given:
        return "done"
    if done is not None and (run.role != ORACLE or oracle_is_ready(group)):
        unread = "test_accuracy" not in done and run.seed != group.config.selection_seed
        return "trained" if unread else "done"
    state = read_state(folder).get("state")
    return str(state) if state in ("failed", "running") else "waiting"


def oracle_is_ready(group: Group) -> bool:
    """Return whether the group's oracle has every FMCE-Net that its arms need."""
    return all(read_done(folder) is not None for folder in group.net_folders)


def unread_folders(group: Group) -> list[Path]:
    """Return the folders of a group's finished trainings whose test images are still to be read.

    Separate trainings that select RAF never read them, nor does a given oracle here.
    """
    runs = [r for r in group.runs if r.seed != group.config.selection_seed]
    folders = [group.folder_of(r) for r in runs if r.role != ORACLE or not group.oracle_given]
    finished = {folder: read_done(folder) for folder in folders}
    return [f for f, done in finished.items() if done is not None and "test_accuracy" not in done]


def unread_error(group: Group) -> str | None:
    """Return why a group's test images could not be read; None where they were, or were not tried."""
    state = read_state(group.folder)
    failed = state.get("state") == "failed" and unread_folders(group)
    return str(state["error"]) if failed else None


def write_rows(rows: Sequence[Mapping[str, Any]], out: Path, table: TableFormat) -> Path:
    """Write the rows as `sweep.csv` or `sweep.parquet`, columns in the order of `COLUMNS`."""
    path = out / f"sweep.{table}"
    if table == "csv":
        with replacing(path) as beside, open(beside, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        return path
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a parquet table needs pyarrow, which is not installed; pip install 'fmce[tables]', or take csv"
        ) from error
    columns = {name: [row[name] for row in rows] for name in COLUMNS}
    with replacing(path) as beside:
        pyarrow.parquet.write_table(pyarrow.table(columns), beside)
    return path
