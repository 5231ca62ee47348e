"""What a training says about itself at an epoch's end."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fmce.console.log import logger
from fmce.convergence.cqi import cqi
from fmce.convergence.phases import NoPhasesError, PhaseConfig, Phases, find_phases
from fmce.convergence.smoothing import smooth_losses
from fmce.convergence.verdict import Verdict
from fmce.recorder.alarms import Alarm, find_alarms
from fmce.runs.log import judge_metrics, known_rates, task_loss


@dataclass(frozen=True)
class Status:
    """The state of a training after an epoch; everything in it is provisional until the training ends.

    Args:
        epoch: The epoch that ended, from 1.
        loss: Its mean training loss; None where no step had a finite one.
        cqi: Change of the smoothed loss per epoch; None in the first epoch.
        threshold: µ, at or below which the training counts as converged; None before there is a curve.
        verdict: The verdict on the curve; None before there is one.
        phases: The phases; None before CQI has fallen to µ.
        alarms: What is wrong with a module, the longest-standing kinds first.
    """

    epoch: int
    loss: float | None
    cqi: float | None = None
    threshold: float | None = None
    verdict: Verdict | None = None
    phases: Phases | None = field(default=None, repr=False)
    alarms: tuple[Alarm, ...] = ()

    @property
    def converged(self) -> bool:
        """Whether the curve rests, and a lower learning rate would not help (or rates are unknown)."""
        return self.verdict is not None and self.verdict.state == "converged"

    @property
    def at_rest(self) -> bool:
        """Whether the curve rests at this learning rate; a lower one may still help."""
        return self.verdict is not None and self.verdict.state in ("converged", "at_rest")

    def __str__(self) -> str:
        parts = [f"loss {self.loss:.4g}" if self.loss is not None else "no loss"]
        if self.cqi is not None and self.threshold is not None:
            sign = "≤" if self.cqi <= self.threshold else ">"
            parts[0] += f", CQI {self.cqi:.2g} {sign} µ {self.threshold:.2g}"
        if self.phases is not None:
            parts.append(
                f"phase {self.phases.phase_at(min(self.epoch, self.phases.num_epochs))} of "
                f"{len(self.phases.markers)}"
            )
        if self.verdict is not None:
            parts.append(self.verdict.lines[0].removeprefix("verdict: "))
        return "; ".join([f"epoch {self.epoch}: {', '.join(parts)}", *map(str, self.alarms)])

    def to_dict(self) -> dict[str, Any]:
        """Return the status as JSON values."""
        return {
            "epoch": self.epoch,
            "loss": self.loss,
            "cqi": self.cqi,
            "threshold": self.threshold,
            "verdict": None if self.verdict is None else self.verdict.to_dict(),
            "markers": None if self.phases is None else list(self.phases.markers),
            "alarms": [alarm.to_dict() for alarm in self.alarms],
        }


def status_of(rows: Sequence[Mapping[str, Any]], config: PhaseConfig) -> Status:
    """Return the status after the last of a training's metrics lines.

    Args:
        rows: Metrics lines, one per epoch, at least one.
        config: The run's `phases` section.
    """
    row, losses = rows[-1], [task_loss(row) for row in rows]
    known = [loss for loss in losses if math.isfinite(loss)]
    verdict = phases = threshold = None
    if known:
        verdict = judge_metrics(rows, config)
        smoothed = smooth_losses(known, config.decay, config.smoothing)
        threshold = (
            config.threshold
            if config.relative_threshold is None
            else config.relative_threshold * float(smoothed.max() - smoothed.min())
        )
    if len(known) == len(losses):
        try:
            phases = find_phases(losses, config, learning_rates=known_rates(rows))
        except NoPhasesError:
            pass  # not yet
        except ValueError as reason:
            logger.debug("no phases: %s", reason)  # a negative loss has none
    return Status(
        int(row["epoch"]),
        row["loss"],
        row.get("cqi"),
        threshold,
        verdict,
        phases,
        tuple(find_alarms(rows)),
    )


def current_cqi(losses: Sequence[float], config: PhaseConfig) -> float | None:
    """Return the CQI of the newest epoch; None where it is undefined: in the first, and without a loss.

    >>> current_cqi([2.0, 1.5, 1.4], PhaseConfig(smoothing="none", window=2))
    0.30000000000000004
    """
    known = [loss for loss in losses if math.isfinite(loss)]
    if len(known) < 2 or not math.isfinite(losses[-1]):
        return None
    smoothed = smooth_losses(known, config.decay, config.smoothing)
    return float(cqi(smoothed, config.window)[-1])
