"""A dry run: the trainings that a comparison or sweep would make, and their time from finished epochs."""

from pathlib import Path
from typing import Any

import numpy as np

from fmce.config.sweep import BASELINE, ORACLE, CompareConfig, SweepConfig
from fmce.fmce_net_pp.arms import plain_config
from fmce.fmce_net_pp.sweep.grid import Group, SweepRun, make_groups
from fmce.fmce_net_pp.sweep.results import run_status
from fmce.fmce_net_pp.sweep.selection import read_selection
from fmce.runs.log import read_metrics


def sweep_estimate(config: CompareConfig | SweepConfig, out: Path) -> dict[str, Any]:
    """List the trainings of a comparison or sweep with the time that each still takes; train nothing.

    Returns:
        `runs`, one dict per training with name, status, epochs, `at_most` (E_K is unknown before the
        oracle is trained, so all its epochs are counted) and seconds (None where no epoch of its kind is
        finished; an oracle's FMCE-Net and test images are not counted); `seconds` of those that are known;
        `unknown`, the number of the others.
    """
    runs = [entry for group in make_groups(config, out) for entry in _entries(group)]
    known = [entry["seconds"] for entry in runs if entry["seconds"] is not None]
    return {"runs": runs, "seconds": sum(known), "unknown": len(runs) - len(known)}


def _entries(group: Group) -> list[dict[str, Any]]:
    lines = {run: read_metrics(group.folder_of(run)) for run in group.runs}
    times: dict[str, list[float]] = {}
    for run in group.runs:
        times.setdefault(_kind(group, run), []).extend(line["time_seconds"] for line in lines[run])
    config, finished = group.oracle.config, group.oracle.has_phases
    arms = plain_config(group.oracle, group.config.length) if finished else config
    entries = []
    for run in group.runs:
        status, of_kind = run_status(group, run), times[_kind(group, run)]
        epochs = (config if run.role == ORACLE else arms).train.epochs
        left = 0 if status in ("done", "trained") else max(0, epochs - len(lines[run]))
        seconds = left * float(np.median(of_kind)) if of_kind else None
        entries.append(
            {
                "name": f"{group.name}/{run.name}",
                "status": status,
                "epochs": epochs,
                "at_most": not finished and run.role != ORACLE and group.config.length != "full",
                "seconds": seconds if left else 0.0,
            }
        )
    return entries


def _kind(group: Group, run: SweepRun) -> str:
    """Return what decides the time of an epoch: plain, feature matching, or a variant of FMCE-Net++."""
    if run.role in (ORACLE, BASELINE, "scaled_rate"):
        return BASELINE
    if run.role == "feature_matching":
        return run.role
    if run.raf is not None:
        return " ".join(run.variant)
    # Before the selection a later arm counts as the variant that stands first in the grid.
    return " ".join((read_selection(group) or vars(group.options[0]))["variant"])
