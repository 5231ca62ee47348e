"""Which RAF and variant a sweep's group picks: the best on validation images, once, before test images are read."""

from collections.abc import Mapping, Sequence
from typing import Any

from fmce.files import read_json_or_none, write_json
from fmce.fmce_net_pp.arms import TREATMENT, best_on_validation
from fmce.fmce_net_pp.sweep.grid import Group, SweepRun
from fmce.runs.log import read_done, read_metrics


def pick(group: Group, *, leave_out_failed: bool = False) -> SweepRun | None:
    """Return the RAF and variant of highest mean validation accuracy over the seeds; the choice is final.

    It stays picked once it was: test images are read after it, and must not be read twice to choose again.
    So it is made when every candidate has all its trainings, or when the caller says not to wait for more.

    Args:
        group: its baselines and candidates ended, each done or failed.
        leave_out_failed: choose among the candidates that are whole; `pick.json` names the others.

    Returns:
        The candidate (with the first seed), or None where none is chosen yet.
    """
    if read_pick(group) is None:
        rows = candidate_rows(group)
        whole = [row for row in rows if "left_out" not in row]
        if not whole or (len(whole) < len(rows) and not leave_out_failed):
            return None
        best = best_on_validation(whole)
        choice = {"raf": best["raf"], "variant": best["variant"], "candidates": rows}
        write_json(group.folder / "pick.json", choice)
    picked = read_pick(group) or {}
    return next(
        c
        for c in group.candidates
        if (c.raf, list(c.variant)) == (picked["raf"], picked["variant"])
    )


def read_pick(group: Group) -> dict[str, Any] | None:
    """Return the contents of `pick.json`; None before the pick."""
    choice: dict[str, Any] | None = read_json_or_none(group.folder / "pick.json")
    return choice


def candidate_rows(group: Group) -> list[dict[str, Any]]:
    """Return each candidate's mean validation accuracy and loss over the seeds, or which seeds it lacks."""
    return [_row(group, c) for c in group.candidates if c.seed == group.config.seeds[0]]


def _row(group: Group, candidate: SweepRun) -> dict[str, Any]:
    row: dict[str, Any] = {"raf": candidate.raf, "variant": list(candidate.variant)}
    runs = [r for r in group.candidates if r.label == candidate.label]
    lacking = [run.seed for run in runs if read_done(group.folder_of(run)) is None]
    if lacking:
        return row | {"left_out": f"not trained at seeds {lacking}"}
    last = [read_metrics(group.folder_of(run))[-1] for run in runs]
    for name in ("validation_accuracy", "validation_loss"):
        row[name] = sum(line[name] for line in last) / len(last)
    return row


def candidate_label(row: Mapping[str, Any]) -> str:
    """Return the arm's name of a row or a pick, such as "raf0.9 oracle_every=4"."""
    return SweepRun(TREATMENT, 0, row["raf"], tuple(row["variant"])).label


def left_out(candidates: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return each candidate that is left out, with the reason."""
    return [f"{candidate_label(c)} ({c['left_out']})" for c in candidates if "left_out" in c]
