"""How far a comparison or sweep is, read from its folder alone, and what it would still train."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from fmce.config.io import from_yaml, read_yaml
from fmce.config.run import run_config
from fmce.config.sweep import BASELINE, ORACLE, CompareConfig, SweepConfig
from fmce.console.tables import percent
from fmce.fmce_net_pp.arms import plain_config
from fmce.fmce_net_pp.sweep.grid import Group, SweepRun, lay_out, make_groups
from fmce.fmce_net_pp.sweep.jobs import read_state
from fmce.fmce_net_pp.sweep.results import run_status, unread_error
from fmce.fmce_net_pp.sweep.selection import left_out, read_selection
from fmce.runs.lock import is_locked
from fmce.runs.log import read_done, read_metrics
from fmce.runs.run import Run


def sweep_status(out: Path) -> dict[str, Any]:
    """Return the state of each training of a comparison or sweep.

    Returns:
        `active`, whether a process works on it; `counts` by status; `runs`, one dict per training with
        name, status (done, trained, running, stopped, failed, waiting), progress and note; `notes` on the
        groups.
    """
    config = _config_of(out)
    # Unchecked: what the experiment was begun with may be gone, or refused by now.
    gone = [path for path in config.oracles if not (Path(path) / "config.yaml").exists()]
    there = [Path(path) for path in config.oracles if path not in gone]
    groups = lay_out(config, out, [Run(path, run_config(path)) for path in there])
    active = is_locked(out / ".lock")
    runs = [_entry(group, run, active) for group in groups for run in group.runs]
    notes = [f"the oracle {path} is gone; its groups cannot continue without it" for path in gone]
    return {
        "active": active,
        "counts": dict(Counter(entry["status"] for entry in runs)),
        "runs": runs,
        "notes": notes + [note for group in groups for note in _notes(group)],
    }


def _config_of(out: Path) -> CompareConfig | SweepConfig:
    file = out / "config.yaml"
    # Other commands' folders have a config too, but only a sweep's names several models.
    values = read_yaml(file) if file.exists() else {}
    if "models" in values:
        return from_yaml(SweepConfig, file)
    if "oracle" in values:
        return from_yaml(CompareConfig, file)
    raise FileNotFoundError(
        f"{out} holds no sweep; begin one with: fmce sweep --out FOLDER, and name that folder"
    )


def _entry(group: Group, run: SweepRun, active: bool) -> dict[str, Any]:
    status = run_status(group, run)
    if status == "running" and not active:
        status = "stopped"
    return {
        "name": f"{group.name}/{run.name}",
        "status": status,
        "progress": _progress(group, run),
        "note": _note(group.folder_of(run), status),
    }


def _progress(group: Group, run: SweepRun) -> str:
    """Return the epochs done of how many, and validation accuracy so far."""
    folder = group.folder_of(run)
    lines = read_metrics(folder)
    if not (folder / "config.yaml").exists() or not lines:
        return ""
    text = f"epoch {len(lines)}/{run_config(folder).train.epochs}"
    if run.role == ORACLE and read_done(folder) is not None:
        left = [net for net in group.net_folders if read_done(net) is None]
        text += f", FMCE-Net epoch {len(read_metrics(left[0]))}" if left else ""
    return f"{text}, validation {percent(lines[-1]['validation_accuracy'])}"


def _note(folder: Path, status: str) -> str:
    state = read_state(folder)
    if status == "failed":
        return f"{state['error']} (attempt {state['attempt']})"
    if status in ("running", "stopped"):
        return f"on {state['host']} since {state['since']}, attempt {state['attempt']}"
    return ""


def _notes(group: Group) -> list[str]:
    """Describe a group's selection, what it left out, and test images that could not be read."""
    selection, missing, notes = read_selection(group), left_out(group), []
    if selection is not None:
        variant = " ".join(selection["variant"])
        notes.append(f"{group.name}: RAF {selection['raf']} selected {variant}".rstrip())
        notes += [f"{group.name}: {arm} was left out of the selection" for arm in missing]
    elif any(run_status(group, run) == "failed" for run in group.candidates):
        notes.append(f"{group.name}: {nothing_selected(missing)}")
    if why := unread_error(group):
        notes.append(f"{group.name}: reading test images failed: {why}")
    return notes


def nothing_selected(missing: list[str]) -> str:
    """Explain why a group has no selected RAF yet, and what to do."""
    return (
        f"no RAF is selected, because of {'; '.join(missing)}; rerun the command to try again, or add "
        "--leave-out-failed to select, for good, among the complete candidates"
    )


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
    """Return what decides the time of an epoch: plain, a control's own loss, or a variant of FMCE-Net++."""
    if run.role in (ORACLE, BASELINE, "scaled_rate", "label_smoothing", "weight_average"):
        return BASELINE
    if run.role in ("feature_matching", "ridge_probe"):
        return run.role
    if run.raf is not None:
        return " ".join(run.variant)
    # Before the selection a later arm counts as the variant that stands first in the grid.
    return " ".join((read_selection(group) or vars(group.options[0]))["variant"])
