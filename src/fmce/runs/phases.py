"""The phases of a run folder's curve, written to its `phases.json`. Never imports torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fmce.config.io import from_dict
from fmce.config.run import run_config
from fmce.convergence.phases import PhaseConfig, Phases, find_phases
from fmce.digests import write_record
from fmce.runs.log import known_rates, read_metrics, task_loss


def run_phases(run: Path, changes: Mapping[str, Any] | None = None) -> tuple[list[float], Phases]:
    """Find the phases of a run folder's training loss and write them to its `phases.json`.

    Args:
        run: The run folder.
        changes: Fields of `PhaseConfig` that differ from the `phases` section of the run's config.

    Returns:
        The task's loss of each epoch, and the phases.

    Raises:
        ValueError: If the curve has no phases; the message gives the reason.
        FileNotFoundError: If the folder is no run folder.
    """
    config = from_dict(PhaseConfig, changes or {}, base=run_config(run).phases)
    rows = read_metrics(run)
    if not rows:
        raise ValueError(f"{run} has no metrics yet; train it first: fmce train --out {run}")
    losses = [task_loss(row) for row in rows]
    found = find_phases(losses, config, learning_rates=known_rates(rows))
    write_record(run / "phases.json", json.loads(found.to_json()), indent=None)
    return losses, found
