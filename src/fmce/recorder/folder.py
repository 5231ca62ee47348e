"""The run folder of a recorded training: whose it is, its lines and its checkpoints."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor, nn

from fmce.config.choices import KeepRecorded
from fmce.config.io import defaults_of, to_dict
from fmce.config.run import RecorderConfig, RunConfig
from fmce.convergence.phases import PhaseConfig
from fmce.engine.distributed.ranks import Ranks
from fmce.recorder.probe import ScoredProbe, count_samples
from fmce.recorder.thinning import PER_PHASE, epochs_to_drop, loss_positions
from fmce.recorder.weights import measure_tensors
from fmce.runs.checkpoint import (
    checkpoint_epochs,
    checkpoint_notes,
    delete_checkpoints,
    save_checkpoint,
)
from fmce.runs.log import append_metrics, lock_run, mark_done, read_metrics, rewrite_metrics
from fmce.runs.phases import run_phases

MetricsLine = dict[str, Any]


@dataclass
class RecordedFolder:
    """A run folder while one process records in it.

    Attributes:
        path: The folder.
        keep: Which checkpoints stay.
        phases: What counts as converged.
        incomplete: Whether a line could not be written, so that all are written again.
    """

    path: Path
    keep: KeepRecorded
    phases: PhaseConfig
    incomplete: bool = False

    def claim(self, config: RecorderConfig, ranks: Ranks) -> AbstractContextManager[None]:
        """Return the lock of the folder; see `lock_run` for what it refuses."""
        values = {"recorder": to_dict(config), "phases": to_dict(self.phases)}
        text = yaml.safe_dump(_plain(values), sort_keys=False, allow_unicode=True)
        defaults = {k: v for k, v in defaults_of(RunConfig).items() if k in values}
        return lock_run(self.path, text, defaults=defaults, ranks=ranks)

    def lines(self) -> list[MetricsLine]:
        """Return the metrics lines up to the first gap, with those that only a checkpoint notes."""
        rows = {int(row["epoch"]): row for row in read_metrics(self.path)}
        noted = checkpoint_notes(self.path / "checkpoints")
        rows |= {epoch: note["metrics"] for epoch, note in noted.items() if epoch not in rows}
        known: list[MetricsLine] = []
        while len(known) + 1 in rows:
            known.append(rows[len(known) + 1])
        return known

    def cut(self, rows: Sequence[MetricsLine], epoch: int) -> None:
        """Delete what belongs to later epochs than this one."""
        if epoch < len(rows):
            (self.path / "DONE.json").unlink(missing_ok=True)
        if rows:
            rewrite_metrics(
                self.path, epoch, {row["epoch"]: {"metrics": row} for row in rows[:epoch]}
            )
        kept = checkpoint_epochs(self.path / "checkpoints")
        delete_checkpoints(self.path / "checkpoints", keep=[e for e in kept if e <= epoch])

    def save(self, row: MetricsLine, model: nn.Module, losses: Sequence[float]) -> None:
        """Write the epoch's checkpoint, and thin those before."""
        folder = self.path / "checkpoints"
        if self.keep == "none":
            return
        save_checkpoint(folder, int(row["epoch"]), model.state_dict(), {}, {"metrics": row})
        if self.keep == "thinned":
            places = loss_positions(losses, self.phases)
            kept = {e: float(places[e - 1]) for e in checkpoint_epochs(folder)}
            gone = epochs_to_drop(kept, PER_PHASE * self.phases.num_phases)
            delete_checkpoints(folder, keep=kept.keys() - set(gone))

    def write(self, rows: Sequence[MetricsLine]) -> None:
        """Add the newest line; all of them, if one could not be written before."""
        again, self.incomplete = self.incomplete, True
        (self.path / "DONE.json").unlink(missing_ok=True)  # the lines were those of its end
        if again:
            rewrite_metrics(self.path, len(rows), {row["epoch"]: {"metrics": row} for row in rows})
        else:
            append_metrics(self.path, rows[-1])
        self.incomplete = False

    def finish(self, epochs: int, summary: Mapping[str, Any]) -> None:
        """Find the phases and write `DONE.json`."""
        found: dict[str, Any] = {"epochs": epochs, **summary}
        try:
            found["markers"] = list(run_phases(self.path)[1].markers)
        except ValueError as reason:
            found["no_phases_because"] = str(reason)
        mark_done(self.path, found)


def model_digest(model: nn.Module) -> str:
    """Return the class of a model and a digest of its parameters' names and shapes."""
    parts = [f"{name}{tuple(p.shape)}" for name, p in model.named_parameters()]
    return f"{type(model).__name__} {hashlib.sha256(';'.join(parts).encode()).hexdigest()[:16]}"


def probe_digest(probe: Any) -> str:
    """Return how many samples a probe has, and a fingerprint of its tensors."""
    return f"{count_samples(probe)} samples {measure_tensors(_all_tensors(probe)).fingerprint}"


def _all_tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, ScoredProbe):
        value = [value.inputs, value.labels]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for one in value for tensor in _all_tensors(one)]
    return []


def _plain(value: Any) -> Any:
    """Return lists for tuples, as YAML has them."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple) else value
