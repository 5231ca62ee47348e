"""Selection of a group's RAF and variant: the best on validation images, once, before test images are read."""

from typing import Any

from fmce.files import read_json_or_none, write_json
from fmce.fmce_net_pp.sweep.grid import Group, SweepRun
from fmce.runs.log import read_done, read_metrics

SELECTION_FILE = "selection.json"


def select(group: Group, *, leave_out_failed: bool = False) -> SweepRun | None:
    """Return the RAF and variant of highest validation accuracy, mean over the candidates' seeds.

    The lower validation loss decides between equals. The choice is final: test images are read after it,
    and must not be read twice to choose again. So it waits until every candidate has all its trainings,
    unless the caller leaves out the failed ones.

    Args:
        group: Group whose candidates ended, each done or failed.
        leave_out_failed: Choose among the complete candidates; `selection.json` names the others.

    Returns:
        The selected option, or None where none can be selected yet.
    """
    if read_selection(group) is None:
        rows = candidate_rows(group)
        complete = [row for row in rows if "left_out" not in row]
        if rows and (not complete or (len(complete) < len(rows) and not leave_out_failed)):
            return None
        # Without candidates there is one option, which needs no training to be selected.
        only = {"raf": group.options[0].raf, "variant": list(group.options[0].variant)}
        best = max(
            complete,
            key=lambda row: (row["validation_accuracy"], -row["validation_loss"]),
            default=only,
        )
        choice = {"raf": best["raf"], "variant": best["variant"], "candidates": rows}
        write_json(group.folder / SELECTION_FILE, choice)
    selected = read_selection(group) or {}
    return next(
        option
        for option in group.options
        if (option.raf, list(option.variant)) == (selected["raf"], selected["variant"])
    )


def read_selection(group: Group) -> dict[str, Any] | None:
    """Return the contents of `selection.json`: raf, variant, candidates; None before the selection."""
    selection: dict[str, Any] | None = read_json_or_none(group.folder / SELECTION_FILE)
    return selection


def candidate_rows(group: Group) -> list[dict[str, Any]]:
    """Return each candidate's mean validation accuracy and loss over its seeds, or the seeds it lacks."""
    arms = dict.fromkeys(run.arm for run in group.candidates)
    return [_row(group, [r for r in group.candidates if r.arm == arm]) for arm in arms]


def _row(group: Group, runs: list[SweepRun]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "arm": runs[0].arm,
        "raf": runs[0].raf,
        "variant": list(runs[0].variant),
        "seeds": [run.seed for run in runs],
    }
    lacking = [run.seed for run in runs if read_done(group.folder_of(run)) is None]
    if lacking:
        return row | {"left_out": f"not trained at seeds {lacking}"}
    last = [read_metrics(group.folder_of(run))[-1] for run in runs]
    for name in ("validation_accuracy", "validation_loss"):
        row[name] = sum(line[name] for line in last) / len(last)
    return row


def left_out(group: Group) -> list[str]:
    """Return each candidate that is, or would be, left out of the selection, with the reason."""
    selection = read_selection(group)
    rows = candidate_rows(group) if selection is None else selection["candidates"]
    return [f"{row['arm']} ({row['left_out']})" for row in rows if "left_out" in row]
