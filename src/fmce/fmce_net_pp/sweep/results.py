"""A sweep's rows, one a training, as a table that pandas reads; and what they say of the arms."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fmce.console.tables import number, percent, print_table
from fmce.files import replacing, write_json
from fmce.fmce_net_pp.arms import BASELINE, TREATMENT
from fmce.fmce_net_pp.statistics import (
    arm_cells,
    compare_pairs,
    comparisons,
    difference_cells,
    epoch_seconds,
    summaries,
)
from fmce.fmce_net_pp.sweep.grid import ORACLE, Group, SweepRun
from fmce.fmce_net_pp.sweep.jobs import read_state
from fmce.fmce_net_pp.sweep.selection import candidate_label, candidate_rows, left_out, read_pick
from fmce.runs.log import read_done, read_metrics

Table = Literal["csv", "parquet"]

COLUMNS = (
    *("group", "model", "data", "settings", "arm", "raf", "variant", "seed", "epochs"),
    *("validation_accuracy", "validation_loss", "test_accuracy", "test_loss", "seconds"),
    *("oracle_markers", "status", "error", "folder"),
)


def sweep_result(groups: Sequence[Group], out: Path) -> dict[str, Any]:
    """Gather what the folders of a sweep say.

    Returns:
        `rows` (one a training, see `COLUMNS`), `groups` (statistics) and `failed` (name → error).
    """
    rows = [row for group in groups for row in group_rows(group, out)]
    return {
        "rows": rows,
        "groups": [_group_result(group, rows) for group in groups],
        "failed": {name: error for group in groups for name, error in _failures(group).items()},
    }


def group_rows(group: Group, out: Path) -> list[dict[str, Any]]:
    """Return a row for each training of a group, done or not."""
    picked = read_pick(group)
    oracle = read_done(group.oracle_folder) or {}
    about = {
        "group": group.name,
        "model": group.model,
        "data": group.data,
        "settings": " ".join(group.settings),
        "oracle_markers": " ".join(map(str, oracle.get("markers", ()))),
    }
    return [about | _row(group, run, picked, out) for run in group.runs]


def _row(
    group: Group, run: SweepRun, picked: Mapping[str, Any] | None, out: Path
) -> dict[str, Any]:
    folder, status = group.folder_of(run), run_status(group, run)
    lines, done = read_metrics(folder), read_done(folder)
    last = lines[-1] if done is not None and lines else {}
    raf, variant = _raf_and_variant(run, picked)
    return {
        "arm": run.arm,
        "raf": raf,
        "variant": variant,
        "seed": run.seed,
        "epochs": None if done is None else done["epochs"],
        "validation_accuracy": last.get("validation_accuracy"),
        "validation_loss": last.get("validation_loss"),
        "test_accuracy": (done or {}).get("test_accuracy"),
        "test_loss": (done or {}).get("test_loss"),
        "seconds": sum(line["time_seconds"] for line in lines) if lines else None,
        "status": status,
        "error": read_state(folder)["error"] if status == "failed" else "",
        "folder": _relative(folder, out),
    }


def _raf_and_variant(run: SweepRun, picked: Mapping[str, Any] | None) -> tuple[float | None, str]:
    """Return the RAF and variant a training has: its own, for a control the picked ones."""
    if run.arm == ORACLE:
        return None, ""
    if run.arm == BASELINE:
        return 1.0, ""
    if run.arm == TREATMENT:
        return run.raf, " ".join(run.variant)
    return (None, "") if picked is None else (picked["raf"], " ".join(picked["variant"]))


def run_status(group: Group, run: SweepRun) -> str:
    """Return done, trained (test images unread), failed, running (or stopped meanwhile) or waiting.

    What is finished counts as that, whatever was noted before: a kill may fall between the two.
    """
    folder = group.folder_of(run)
    done = read_done(folder)
    if run.arm == ORACLE and group.given_oracle is not None:
        return "done"
    if done is not None and (run.arm != ORACLE or oracle_is_ready(group)):
        return "done" if "test_accuracy" in done else "trained"
    state = read_state(folder).get("state")
    return str(state) if state in ("failed", "running") else "waiting"


def oracle_is_ready(group: Group) -> bool:
    """Return whether the group's oracle has every FMCE-Net that its arms need."""
    return all(read_done(folder) is not None for folder in group.net_folders)


def unread_folders(group: Group) -> list[Path]:
    """Return the folders of a group's finished trainings whose test accuracy was not read yet."""
    runs = [run for run in group.runs if run.arm != ORACLE or group.given_oracle is None]
    finished = {folder: read_done(folder) for folder in map(group.folder_of, runs)}
    return [f for f, done in finished.items() if done is not None and "test_accuracy" not in done]


def _relative(folder: Path, out: Path) -> str:
    inside = folder.is_relative_to(out.absolute())
    return str(folder.relative_to(out.absolute())) if inside else str(folder)


def _failures(group: Group) -> dict[str, str]:
    """Return the error of each task that is left failed, that of reading test images included."""
    failed = {
        f"{group.name}/{run.name}": read_state(group.folder_of(run))["error"]
        for run in group.runs
        if run_status(group, run) == "failed"
    }
    state = read_state(group.folder)
    if state.get("state") == "failed" and unread_folders(group):
        failed[f"{group.name}/test images"] = state["error"]
    return failed


def _group_result(group: Group, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Compare a group's arms over the trainings whose test accuracy was read."""
    mine = [row for row in rows if row["group"] == group.name]
    read = [
        {
            "arm": run.label,
            "seed": run.seed,
            "test_accuracy": row["test_accuracy"],
            "epoch_seconds": epoch_seconds(group.folder_of(run)),
        }
        for run, row in zip(group.runs, mine, strict=True)
        if run.arm != ORACLE and row["test_accuracy"] is not None
    ]
    chosen = read_pick(group)
    label = None if chosen is None else candidate_label(chosen)
    controls = {} if label is None else {str(c): (str(c), label) for c in group.config.controls}
    return {
        "group": group.name,
        "model": group.model,
        "data": group.data,
        "settings": list(group.settings),
        "oracle": str(group.oracle_folder),
        "oracle_markers": (read_done(group.oracle_folder) or {}).get("markers"),
        "epochs": next((row["epochs"] for row in mine if row["arm"] == BASELINE), None),
        "seeds": list(group.config.seeds),
        "pick": chosen,
        "picked": label,
        "left_out": left_out(candidate_rows(group) if chosen is None else chosen["candidates"]),
        "rows": read,
        "arms": summaries(read),
        "comparisons": comparisons(read),
        "over_controls": compare_pairs(read, controls),
    }


def write_rows(rows: Sequence[Mapping[str, Any]], out: Path, table: Table) -> Path:
    """Write the rows as `sweep.csv` or `sweep.parquet`, columns in the order of `COLUMNS`.

    Raises:
        ModuleNotFoundError: parquet needs pyarrow, the extra `tables`.
    """
    path = out / f"sweep.{table}"
    if table == "parquet":
        _write_parquet(rows, path)
        return path
    with replacing(path) as beside, open(beside, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def _write_parquet(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
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


def write_comparisons(result: Mapping[str, Any], out: Path) -> list[Path]:
    """Write `compare.json` for each group that has its pick, as `fmce compare` would: `fmce report` reads it."""
    written = []
    for group in result["groups"]:
        if group["picked"] is None or not any(
            c["arm"] == group["picked"] for c in group["comparisons"]
        ):
            continue
        path = out / group["group"] / "compare.json"
        write_json(path, _as_comparison(group))
        written.append(path)
    return written


def _as_comparison(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return baseline, picked candidate and controls; p stays adjusted over all candidates of the sweep."""
    names = {BASELINE: BASELINE, group["picked"]: TREATMENT}
    names |= {c["arm"]: c["arm"] for c in group["over_controls"]}

    def chosen(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [{**row, "arm": names[row["arm"]]} for row in rows if row["arm"] in names]

    return {
        "oracle": group["oracle"],
        "raf": group["pick"]["raf"],
        "selection": [c for c in group["pick"]["candidates"] if "validation_accuracy" in c],
        "epochs": group["epochs"],
        "seeds": group["seeds"],
        **{name: chosen(group[name]) for name in ("rows", "arms", "comparisons")},
    }


def print_sweep(result: Mapping[str, Any]) -> None:
    """Print the arms of each group, the verdict on the picked RAF, and what failed."""
    for group in result["groups"]:
        _print_group(group)
    done = sum(row["status"] == "done" for row in result["rows"])
    print(f"\n{done} of {len(result['rows'])} trainings done")
    for name, error in result["failed"].items():
        print(f"failed: {name}: {error}")


def _print_group(group: Mapping[str, Any]) -> None:
    against = {c["arm"]: c for c in group["comparisons"]}
    title = (
        f"{group['group']}: test accuracy after {group['epochs']} epochs, seeds {group['seeds']}"
    )
    header = ("arm", "mean ± sd", "− baseline", "95 % interval", "p (Holm)", "epoch time")
    seeds = len(group["seeds"])
    rows = [arm_cells(arm, against.get(arm["arm"]), seeds) for arm in group["arms"]]
    if rows:
        print_table(title, header, rows)
    if group["picked"] is None:
        print(
            f"no RAF was picked, for want of {'; '.join(group['left_out'])}; the same command tries again, and "
            "--leave-out-failed picks, for good, among the candidates that are whole"
        )
        return
    print_table(
        "Candidates on validation images, mean over seeds",
        ("candidate", "accuracy", "loss"),
        [_candidate_cells(row, group["picked"]) for row in group["pick"]["candidates"]],
    )
    if group["over_controls"]:
        print_table(
            f"{group['picked']} minus each control",
            ("control", "difference", "95 % interval", "p (Holm)"),
            [(c["arm"], *difference_cells(c)) for c in group["over_controls"]],
        )
    if group["picked"] in against:
        print(f"{group['picked']} against the baseline: {against[group['picked']]['verdict']}")


def _candidate_cells(row: Mapping[str, Any], picked: str) -> tuple[str, str, str]:
    name = candidate_label(row)
    mark = f"{name} (picked)" if name == picked else name
    if "left_out" in row:
        return mark, "left out", str(row["left_out"])
    return mark, percent(row["validation_accuracy"]), number(row["validation_loss"])
