"""Histories of modules whose statistics a recorder measured at each epoch's end, read from the run folder alone."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fmce.digests import read_record_or_none, write_record
from fmce.recorder.statistics import Statistics, plain_statistics
from fmce.runs.log import read_done, read_metrics, task_loss
from fmce.scoring.history import ModuleHistory
from fmce.scoring.scorer import Labels, MaturityScores, shipped_scorer


def twins_file(run: Path) -> Path:
    """Return the file of the re-initialised twins' statistics, whether it exists or not."""
    return run / "grams" / "twins.json"


def save_twins(run: Path, twins: Statistics) -> None:
    """Write the statistics of the re-initialised twins."""
    twins_file(run).parent.mkdir(parents=True, exist_ok=True)
    write_record(twins_file(run), {name: plain_statistics(one) for name, one in twins.items()})


def recorded_histories(run: Path) -> list[ModuleHistory]:
    """Return the history of each output that a recorder with labelled samples measured; empty where none did.

    Args:
        run: The run folder; its training may still be running.

    Raises:
        ValueError: If a file is damaged.
    """
    twins = read_record_or_none(twins_file(run)) or {}
    rows = read_metrics(run)
    return histories_of(str(run), rows, twins) if twins else []


def live_scores(run: Path) -> list[MaturityScores]:
    """Return the scores within the run of each output of a running training, its end extrapolated.

    Args:
        run: The run folder.

    Returns:
        Empty where the training is over, or no recorder with a `ScoredProbe` measured it.

    Raises:
        ValueError: If a file is damaged.
    """
    if read_done(run) is not None:
        return []
    scorer, found = shipped_scorer(), []
    for history in recorded_histories(run):
        labels: Labels = "class" if "probe_mse" in history.values else "free"
        found.append(scorer.score(history, labels=labels, finished=False))
    return found


def score_line(scores: MaturityScores) -> str:
    """Return the newest score in words."""
    value, low, high = (float(one[-1]) for one in (scores.values, scores.low, scores.high))
    if not math.isfinite(value):
        return f"{scores.module}: no score yet"
    ends = " its end extrapolated" if scores.extrapolated else " its end unknown"
    return f"{scores.module}: score {value:.1f} of 10 ({low:.1f} to {high:.1f}),{ends}"


def histories_of(
    run: str, rows: Sequence[Mapping[str, Any]], twins: Mapping[str, Any]
) -> list[ModuleHistory]:
    """Return the history of each output from metrics lines and the twins' statistics.

    Args:
        run: What the run is called.
        rows: Metrics lines.
        twins: Output → statistic → value, as `save_twins` writes them.
    """
    found: dict[str, dict[int, Mapping[str, float | None]]] = {}
    for row in rows:
        for module in (row.get("modules") or {}).values():
            for name, output in module.get("outputs", {}).items():
                if output.get("statistics"):
                    norm = math.log(module["norm"]) if module.get("norm") else None
                    values = {**output["statistics"], "weight_norm": norm}
                    found.setdefault(name, {})[int(row["epoch"])] = values
    losses = np.array([task_loss(row) for row in rows])
    known = losses if np.isfinite(losses).all() else np.zeros(0)
    return [
        ModuleHistory(
            *(run, name, np.array(sorted(by_epoch))),
            {
                statistic: np.array([_number(by_epoch[e].get(statistic)) for e in sorted(by_epoch)])
                for statistic in (*twins[name], "weight_norm")
            },
            {statistic: _number(value) for statistic, value in twins[name].items()},
            losses=known,
        )
        for name, by_epoch in found.items()
        if name in twins
    ]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
