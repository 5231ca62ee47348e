"""The modules of a training as cells of a table, as Markdown, and as a figure with a lane for each."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fmce.console.tables import number, percent
from fmce.recorder.clocks import ModuleClock, ModuleRow, ModuleTable
from fmce.recorder.history import score_line
from fmce.report.figures import ACCENT, INK, LEVEL, QUIET, styled

HEADER = (
    *("module", "parameters", "moved", "dead", "rank", "late drift", "90 % at", "at rest since"),
    *("own phases", "alarms"),
)


def module_cells(table: ModuleTable) -> list[tuple[str, ...]]:
    """Return the rows of a module table as text, one per module and output, under `HEADER`."""
    return [cells for row in table.rows for cells in _cells(row)]


def _cells(row: ModuleRow) -> list[tuple[str, ...]]:
    facts = row.facts
    alarms = "; ".join(f"{a.kind.replace('_', ' ')} since {a.since}" for a in row.alarms) or "–"
    size, moved = f"{facts.get('parameters', 0):,}", percent(facts.get("moved"), 1)
    dead = percent(facts.get("dead"), 0)
    nothing = ("–",) * 5
    if not row.clocks:
        return [(row.name, size, moved, dead, *nothing, alarms)]
    lines: list[tuple[str, ...]] = []
    for index, clock in enumerate(row.clocks):
        rank = facts.get("outputs", {}).get(clock.name, {}).get("rank")
        own = (clock.name, size, moved, dead) if index == 0 else (clock.name, "", "", "")
        done = "–" if clock.done_epoch is None else str(clock.done_epoch)
        late = percent(clock.late_drift, 0)
        last = alarms if index == 0 else ""
        lines.append((*own, number(rank, 3), late, done, _rest(clock), _phases(clock), last))
    return lines


def _rest(clock: ModuleClock) -> str:
    verdict = clock.verdict
    if verdict is None or verdict.epoch is None or verdict.state not in ("converged", "at_rest"):
        return "–"
    high = "?" if verdict.high is None else verdict.high
    return (
        str(verdict.epoch)
        if verdict.low == verdict.high
        else f"{verdict.epoch} ({verdict.low} to {high})"
    )


def _phases(clock: ModuleClock) -> str:
    return "–" if clock.phases is None else ", ".join(map(str, clock.phases.markers))


def module_remarks(table: ModuleTable) -> list[str]:
    """Return what a reader must know beside the table, one line each."""
    lines = []
    if table.provisional:
        lines.append(
            f"provisional: the training is not finished; drift is measured to epoch {table.epochs}"
        )
    if table.depth_correlation is not None:
        lines.append(
            f"depth alone orders the epochs of “90 % at” with Spearman's ρ {table.depth_correlation:.2f}"
        )
    lines.append(f"a module that drifted evenly would be at 90 % in epoch {table.even_epoch}")
    lines += map(score_line, table.scores)
    alarms = [*table.alarms, *(alarm for row in table.rows for alarm in row.alarms)]
    return [*lines, *(f"alarm: {alarm}" for alarm in alarms)]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, numbers to the right.

    >>> print(markdown_table(("module", "rank"), [("neck", "3.1")]))
    | module | rank |
    | :-- | --: |
    | neck | 3.1 |
    """
    rule = [":--", *["--:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


@styled
def modules_figure(table: ModuleTable) -> Figure:
    """Draw a lane for each output of a module: the drift left at each epoch, where 90 % was done, where it rests.

    Args:
        table: A table with clocks.

    Returns:
        A figure 8 inches wide, for `save_figure`.

    Raises:
        ValueError: If there are no clocks.
    """
    lanes = [clock for row in table.rows for clock in row.clocks]
    if not lanes:
        raise ValueError(f"{table.run} has no clocks to draw: it was recorded without a probe")
    figure = Figure(figsize=(8, 1.0 + 0.62 * len(lanes)))
    grid = figure.subplots(len(lanes), 1, sharex=True, squeeze=False)[:, 0]
    for axes, clock in zip(grid, lanes, strict=True):
        _draw_lane(axes, clock)
    for alarmed, axes in _alarms_by_lane(table, grid):
        axes.axvspan(alarmed - 0.5, table.epochs, color=ACCENT, alpha=0.15, lw=0)
    ends = "so far" if table.provisional else "in all"
    grid[0].set_title(f"Drift left of each module, {table.epochs} epochs {ends}", loc="left")
    grid[-1].set_xlabel(
        "epoch (orange line: 90 % of the drift done; dashed: at rest; orange area: an alarm)"
    )
    grid[-1].set_xlim(0, max(table.epochs, 1))
    return figure


def _draw_lane(axes: Any, clock: ModuleClock) -> None:
    drifts = np.array(clock.drifts)
    known = drifts[np.isfinite(drifts)]
    total = float(known[0]) if known.size and known[0] > 0 else math.nan
    axes.fill_between(clock.epochs, drifts / total, color=LEVEL, lw=0)
    axes.plot(clock.epochs, drifts / total, color=INK, lw=1.2)
    if clock.done_epoch is not None:
        axes.axvline(clock.done_epoch, color=ACCENT, lw=1.4)
    if clock.verdict is not None and clock.verdict.epoch is not None:
        axes.axvline(clock.verdict.epoch, color=QUIET, lw=1.2, ls="--")
    axes.set(ylim=(0, 1.1), yticks=[])
    axes.set_ylabel(clock.name, rotation=0, ha="right", va="center")


def _alarms_by_lane(table: ModuleTable, grid: Any) -> list[tuple[int, Any]]:
    """Return the first epoch of the oldest alarm of each alarmed module, with its lane."""
    found, lane = [], 0
    for row in table.rows:
        if row.alarms and row.clocks:
            found.append((min(alarm.since for alarm in row.alarms), grid[lane]))
        lane += len(row.clocks)
    return found
