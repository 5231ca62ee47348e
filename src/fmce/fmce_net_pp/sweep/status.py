"""How far a sweep is, read from its folder alone: it may be running, on this machine or another, or not."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fmce.config.io import from_yaml, read_yaml
from fmce.config.sweep import SweepConfig
from fmce.console.tables import percent, print_table
from fmce.fmce_net_pp.sweep.grid import ORACLE, Group, SweepRun, begun_groups
from fmce.fmce_net_pp.sweep.jobs import read_state
from fmce.fmce_net_pp.sweep.results import run_status, unread_folders
from fmce.fmce_net_pp.sweep.selection import candidate_rows, left_out, read_pick
from fmce.runs.lock import is_locked
from fmce.runs.log import read_done, read_metrics
from fmce.runs.run import open_run


def sweep_status(out: Path) -> dict[str, Any]:
    """Return what each training of a sweep is at.

    Args:
        out: folder of the sweep.

    Returns:
        `active`, whether a process works on it; `counts` by status; `runs`, one dict a training with its name,
        status (done, trained, running, stopped, failed, waiting), progress and note.

    Raises:
        FileNotFoundError: there is no sweep.
    """
    config = out / "config.yaml"
    # Folders of other commands have a config too, but none of theirs names several models.
    if not config.exists() or "models" not in read_yaml(config):
        raise FileNotFoundError(
            f"{out} holds no sweep; begin one with: fmce sweep --out FOLDER, and name that folder"
        )
    grid = from_yaml(SweepConfig, config)
    groups = begun_groups(grid, out)
    active = is_locked(out / ".lock")
    runs = [_entry(group, run, active) for group in groups for run in group.runs]
    counts: dict[str, int] = {}
    for entry in runs:
        counts[entry["status"]] = counts.get(entry["status"], 0) + 1
    return {"active": active, "counts": counts, "runs": runs, "notes": _gone(grid) + _notes(groups)}


def _gone(config: SweepConfig) -> list[str]:
    """Say which of the oracles that the sweep was given are not there any more."""
    return [
        f"the oracle {path} is not there any more; its groups cannot go on without it"
        for path in config.oracles
        if not (Path(path) / "config.yaml").exists()
    ]


def _entry(group: Group, run: SweepRun, active: bool) -> dict[str, Any]:
    folder = group.folder_of(run)
    status = run_status(group, run)
    if status == "running" and not active:
        status = "stopped"
    return {
        "name": f"{group.name}/{run.name}",
        "status": status,
        "progress": _progress(group, run),
        "note": _note(folder, status),
    }


def _progress(group: Group, run: SweepRun) -> str:
    """Return the epochs done of how many, and validation accuracy so far."""
    folder = group.folder_of(run)
    lines = read_metrics(folder)
    if not (folder / "config.yaml").exists() or not lines:
        return ""
    text = f"epoch {len(lines)}/{open_run(folder).config.train.epochs}"
    if run.arm == ORACLE and read_done(folder) is not None:
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


def _notes(groups: Sequence[Group]) -> list[str]:
    """Say what was picked in each group, what was left out of that, and which test images could not be read."""
    notes = []
    for group in groups:
        picked = read_pick(group)
        if picked is not None:
            variant = " ".join(picked["variant"])
            notes.append(f"{group.name}: RAF {picked['raf']} picked {variant}".rstrip())
            notes += [
                f"{group.name}: {candidate} was left out of the pick"
                for candidate in left_out(picked["candidates"])
            ]
        elif any(run_status(group, run) == "failed" for run in group.candidates):
            wanting = "; ".join(left_out(candidate_rows(group)))
            notes.append(
                f"{group.name}: no RAF is picked, for want of {wanting}; the same command tries again, and "
                "--leave-out-failed picks among the others"
            )
        state = read_state(group.folder)
        if state.get("state") == "failed" and unread_folders(group):
            notes.append(f"{group.name}: reading test images failed: {state['error']}")
    return notes


def print_status(status: dict[str, Any], out: Path) -> None:
    """Print a table of the trainings and the counts."""
    rows = [(r["name"], r["status"], r["progress"], r["note"]) for r in status["runs"]]
    print_table(f"Sweep {out}", ("training", "status", "progress", "note"), rows)
    for note in status["notes"]:
        print(note)
    counts = ", ".join(f"{n} {name}" for name, n in status["counts"].items())
    print(f"{counts}; {'a process works on it' if status['active'] else 'no process works on it'}")
