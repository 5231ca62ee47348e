"""Selection of a group's RAF and variant: the best on validation images, once, before test images are read."""

from dataclasses import replace
from typing import Any

from fmce.digests import read_record_or_none, write_record
from fmce.fmce_net_pp.sweep.grid import Group, SweepRun
from fmce.runs.log import read_done, read_metrics

SELECTION_FILE = "selection.json"


def select(group: Group, *, leave_out_failed: bool = False) -> SweepRun | None:
    """Return the RAF and variant of highest validation accuracy, mean over the candidates' seeds.

    The lower validation loss decides between equals. The choice is final: test images are read after it,
    and must not be read twice to choose again. So it waits until every candidate has all its trainings,
    unless the caller leaves out the failed ones, which `selection.json` then names.
    """
    selection = read_selection(group)
    if selection is None:
        rows = candidate_rows(group)
        complete = [row for row in rows if "left_out" not in row]
        if rows and (not complete or (len(complete) < len(rows) and not leave_out_failed)):
            return None
        # Without candidates there is one option, which needs no training to be selected.
        best = max(
            complete,
            key=lambda row: (row["validation_accuracy"], -row["validation_loss"]),
            default=_about(group.options[0]),
        )
        selection = {name: best[name] for name in ("arm", "raf", "variant")} | {"candidates": rows}
        write_record(group.folder / SELECTION_FILE, selection)
    return next(option for option in group.options if option.arm == selection["arm"])


def read_selection(group: Group) -> dict[str, Any] | None:
    """Return the contents of `selection.json`: arm, raf, variant, candidates; None before the selection."""
    remedy = "delete it, and the same is selected again"
    return read_record_or_none(group.folder / SELECTION_FILE, remedy)


def candidate_rows(group: Group) -> list[dict[str, Any]]:
    """Return each candidate's mean validation accuracy and loss over its seeds, or the seeds it lacks."""
    options, seeds = group.options if group.selection_seeds else [], group.selection_seeds
    return [_row(group, [replace(option, seed=seed) for seed in seeds]) for option in options]


def _row(group: Group, runs: list[SweepRun]) -> dict[str, Any]:
    row = _about(runs[0]) | {"seeds": [run.seed for run in runs]}
    lacking = [run.seed for run in runs if read_done(group.folder_of(run)) is None]
    if lacking:
        return row | {"left_out": f"not trained at seeds {lacking}"}
    last = [read_metrics(group.folder_of(run))[-1] for run in runs]
    for name in ("validation_accuracy", "validation_loss"):
        row[name] = sum(line[name] for line in last) / len(last)
    return row


def _about(run: SweepRun) -> dict[str, Any]:
    return {"arm": run.arm, "raf": run.raf, "variant": list(run.variant)}


def left_out(group: Group) -> list[str]:
    """Return each candidate that is, or would be, left out of the selection, with the reason."""
    selection = read_selection(group)
    rows = candidate_rows(group) if selection is None else selection["candidates"]
    return [f"{row['arm']} ({row['left_out']})" for row in rows if "left_out" in row]
