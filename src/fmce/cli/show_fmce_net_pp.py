"""What the commands of method 2 print: comparisons, sweeps, their status and their estimated time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fmce.console.tables import number, percent, print_table
from fmce.fmce_net_pp.sweep.results import Comparison, SweepResult
from fmce.fmce_net_pp.sweep.status import nothing_selected


def show_sweep(result: SweepResult) -> None:
    """Print each group's comparison, and what failed."""
    for group in result.groups:
        show_comparison(group)
    done = sum(row["status"] == "done" for row in result.rows)
    print(f"\n{done} of {len(result.rows)} trainings done")
    for name, error in result.failed.items():
        print(f"failed: {name}: {error}")


def show_comparison(group: Comparison) -> None:
    """Print a group's arms, the candidates of its selection, and the verdict on the selected one."""
    against = {c["arm"]: c for c in group.comparisons}
    header = ("arm", "mean ± sd", "− baseline", "95 % interval", "p (Holm)", "epoch time")
    seeds = len(group.seeds)
    arms = [arm_cells(arm, against.get(arm["arm"]), seeds) for arm in group.arms]
    if arms:
        raf = "" if group.selection is None else f", RAF {group.selection['raf']}"
        title = f"{group.group}: test accuracy, {seeds} paired seeds, {group.epochs} epochs{raf}"
        print_table(title, header, arms)
    if group.selection is None:
        if group.left_out:
            print(nothing_selected(group.left_out))
        return
    if group.selection["candidates"]:
        cells = [_candidate_cells(row, group.selection) for row in group.selection["candidates"]]
        title = "RAF, selected on validation images (mean over the candidate's seeds)"
        print_table(title, ("candidate", "accuracy", "loss"), cells)
    if group.over_controls:
        columns = ("control", "difference", "95 % interval", "p (Holm)")
        controls = [(c["arm"], *difference_cells(c)) for c in group.over_controls]
        print_table(f"{group.selected} minus each control", columns, controls)
    for row in group.same_seed:
        print(f"at the oracle's own seed: {row['arm']} {percent(row['test_accuracy'])}")
    if group.against_baseline is not None:
        print(f"{group.selected} against the baseline: {group.against_baseline['verdict']}")


def _candidate_cells(row: Mapping[str, Any], selection: Mapping[str, Any]) -> tuple[str, str, str]:
    name = f"{row['arm']} (selected)" if row["arm"] == selection["arm"] else row["arm"]
    if "left_out" in row:
        return name, "left out", str(row["left_out"])
    return name, percent(row["validation_accuracy"]), number(row["validation_loss"])


def arm_cells(
    summary: Mapping[str, Any], against: Mapping[str, Any] | None, seeds: int
) -> tuple[str, ...]:
    """Return an arm's cells: arm, mean ± sd (marked if it lacks seeds), difference, interval, p, epoch time."""
    spread = "" if summary["sd"] is None else f" ± {100 * summary['sd']:.2f}"
    few = f" ({summary['n']} of {seeds} seeds)" if summary["n"] < seeds else ""
    time = summary["time_over_baseline"]
    return (
        summary["arm"],
        f"{100 * summary['mean']:.2f}{spread} %{few}",
        *difference_cells(against),
        "–" if time is None else f"{time:.2f} ×",
    )


def difference_cells(against: Mapping[str, Any] | None) -> tuple[str, str, str]:
    """Return a comparison's cells: mean difference, 95 % interval, adjusted p."""
    if against is None:
        return "–", "–", "–"
    difference = f"{100 * against['mean_difference']:+.2f} pp"
    if against["interval_low"] is None:
        return difference, "all equal", "–"
    low, high = (100 * against[f"interval_{end}"] for end in ("low", "high"))
    return difference, f"{low:+.2f} … {high:+.2f}", number(against["p_holm"], 2)


def show_status(status: Mapping[str, Any], out: Path) -> None:
    """Print a table of the trainings, notes and counts."""
    rows = [(r["name"], r["status"], r["progress"], r["note"]) for r in status["runs"]]
    print_table(f"Sweep {out}", ("training", "status", "progress", "note"), rows)
    for note in status["notes"]:
        print(note)
    counts = ", ".join(f"{n} {name}" for name, n in status["counts"].items())
    print(f"{counts}; {'a process works on it' if status['active'] else 'no process works on it'}")


def show_estimate(estimate: Mapping[str, Any]) -> None:
    """Print the trainings with their times, and the sum."""
    rows = []
    for entry in estimate["runs"]:
        most = "≤ " if entry["at_most"] else ""
        seconds = entry["seconds"]
        time = "unknown" if seconds is None else f"{most}{in_words(seconds)}"
        rows.append((entry["name"], entry["status"], f"{most}{entry['epochs']}", time))
    print_table("Dry run: nothing is trained", ("training", "status", "epochs", "time"), rows)
    most = "at most " if any(entry["at_most"] for entry in estimate["runs"]) else ""
    unknown, known = estimate["unknown"], len(rows) - estimate["unknown"]
    if known:
        print(
            f"{known} trainings, {most}{in_words(estimate['seconds'])} one after the other by the epochs finished "
            "so far; FMCE-Nets, test images and starting processes come on top"
        )
    if unknown:
        print(f"{unknown} trainings: time unknown until the first epoch of their kind is finished")


def in_words(seconds: float) -> str:
    """Return a duration in words.

    >>> in_words(42.3), in_words(600), in_words(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
