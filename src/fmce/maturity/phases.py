"""`fmce phases`: verdict and convergence phases of a run or of any loss curve alone. Never imports torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fmce.config.io import from_dict
from fmce.config.run import run_config
from fmce.convergence.files.curves import CurveOptions, LossCurve, read_curve
from fmce.convergence.files.tensorboard import holds_events, read_event_curve
from fmce.convergence.phases import NoPhasesError, PhaseConfig, Phases, find_phases
from fmce.convergence.prediction import PredictedEpoch, predict_convergence_epoch
from fmce.convergence.verdict import RELATIVE_THRESHOLD, Verdict, judge_curve
from fmce.files import folder_inside
from fmce.runs.log import judge_metrics, known_rates, read_done, read_metrics, task_loss
from fmce.runs.phases import run_phases


@dataclass(frozen=True)
class FoundPhases:
    """What a curve says: its verdict, its phases, and where they come from.

    Args:
        source: Run folder, log file or folder of event files.
        losses: L_1 … L_M, one per epoch.
        verdict: Whether the curve has converged, without the smoother's lag.
        phases: The phases found on the curve; None where it has none.
        refusal: Why it has none.
        provisional: Whether the training still runs, so that everything may change.
        predicted: Of a running training, when E_K is expected; None where that is unknown yet.
        curve: The curve as its file has it; None for a run folder.
        figure: The picture that was drawn, if any.
    """

    source: Path
    losses: list[float]
    verdict: Verdict
    phases: Phases | None
    refusal: str | None
    provisional: bool
    predicted: PredictedEpoch | None
    curve: LossCurve | None
    figure: Path | None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the file was read as, and what was averaged, dropped or passed over; empty for a run folder."""
        return () if self.curve is None else (f"read as {self.curve.read_as}", *self.curve.notes)

    @property
    def own_epochs(self) -> list[float] | None:
        """The markers as the file numbers its epochs; None where it counts from 1 as we do."""
        epochs = None if self.curve is None else self.curve.epochs
        if self.phases is None or epochs is None or epochs == tuple(range(1, len(epochs) + 1)):
            return None
        return [epochs[marker - 1] for marker in self.phases.markers]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of `Phases` (none without phases) with `verdict`, `provisional` and the rest."""
        plain = {} if self.phases is None else json.loads(self.phases.to_json())
        if self.phases is not None and self.phases.config.relative_threshold is not None:
            del plain["config"]["threshold"]  # it was not used
        read = (
            {} if self.curve is None else {"column": self.curve.column, "notes": list(self.notes)}
        )
        return (
            plain
            | read
            | {
                "source": str(self.source),
                "verdict": self.verdict.to_dict(),
                "no_phases_because": self.refusal,
                "provisional": self.provisional,
                "predicted_convergence_epoch": self.predicted and asdict(self.predicted),
            }
        )


def phases(
    source: Path,
    changes: Mapping[str, Any] | None = None,
    *,
    options: CurveOptions = CurveOptions(),  # noqa: B008 (frozen, so one instance may be shared)
    figure: Path | None = None,
) -> FoundPhases:
    """Judge a loss curve, find its phases and draw the figure of the FMCE paper (Fig. 3).

    Args:
        source: Run folder, training log of any program that `docs/reading-your-files.md` lists, or TensorBoard's
            event files.
        changes: Fields of `PhaseConfig` that differ from the run's own config, or from the defaults.
        options: What a log does not say by itself: its columns, and which rows count.
        figure: PNG or SVG to draw; by default `figures/phases.png` in a run, none for a file. Of a curve without
            phases it shows the losses alone.

    Returns:
        The verdict and the phases. A curve without phases has the reason in `refusal`. A file's curve is
        measured by a thousandth of its range unless `changes` names a threshold.

    Raises:
        ValueError: If the curve cannot be read.
        FileNotFoundError: If nothing is there.
    """
    if not source.exists():
        raise FileNotFoundError(
            f"{source} does not exist; expected a run folder, a file of losses or TensorBoard's event files"
        )
    # A run folder stays one whatever else lies in it.
    events = not (source / "metrics.jsonl").exists() and holds_events(source)
    if source.is_dir() and not events:
        if not (source / "config.yaml").exists():
            raise FileNotFoundError(
                f"{source} is not a run folder: it has no config.yaml; nor does it hold event files"
            )
        if options != CurveOptions():
            raise ValueError(f"{source} is a run folder, whose columns are known; leave them out")
        return _of_run(source, changes or {}, figure)
    config = from_dict(PhaseConfig, changes or {})
    if not {"threshold", "relative_threshold"} & (changes or {}).keys():
        config = replace(config, relative_threshold=RELATIVE_THRESHOLD)
    curve = (read_event_curve if events else read_curve)(source, options)
    losses, rates = list(curve.losses), curve.learning_rates
    threshold = None if config.relative_threshold is not None else config.threshold
    verdict = judge_curve(losses, rates, curve.validation_losses, threshold=threshold)
    found, refusal = _found(losses, config, rates)
    if figure is not None:
        _draw(losses, found, figure)
    return FoundPhases(
        *(source, losses, verdict, found, refusal),
        provisional=False,
        predicted=None,
        curve=curve,
        figure=figure,
    )


def phases_of_each(
    sources: Sequence[Path],
    changes: Mapping[str, Any] | None = None,
    *,
    options: CurveOptions = CurveOptions(),  # noqa: B008 (frozen, so one instance may be shared)
) -> tuple[list[FoundPhases], dict[Path, str]]:
    """Judge several curves; one that cannot be read does not keep the others from it.

    Args:
        sources: As for `phases`.
        changes: As for `phases`.
        options: As for `phases`, for all files.

    Returns:
        What was found, and for each other source the reason why it could not be read.
    """
    found, unread = [], {}
    for source in sources:
        try:
            found.append(phases(source, changes, options=options))
        except (ValueError, OSError) as error:
            unread[source] = " ".join(str(error).split())
    return found, unread


def _of_run(run: Path, changes: Mapping[str, Any], figure: Path | None) -> FoundPhases:
    """Return what a run's curve says; of a running training before µ is reached, up to its newest epoch."""
    config = from_dict(PhaseConfig, changes, base=run_config(run).phases)
    running = read_done(run) is None
    found: Phases | None = None
    refusal = None
    try:
        losses, found = run_phases(run, changes)
    except NoPhasesError as reason:
        refusal = str(reason)
    rows = read_metrics(run)
    losses, rates = [task_loss(row) for row in rows], known_rates(rows)
    predicted = None
    if running and refusal is not None:
        predicted = predict_convergence_epoch(losses, config)
        # Not written to phases.json: these phases end where the training stands.
        so_far = replace(config, if_not_converged="last")
        found, refusal = _found(losses, so_far, rates)
    remedy = "name the figure yourself: --figure FILE"
    figure = figure or folder_inside(run, "figures", remedy) / "phases.png"
    _draw(losses, found, figure)
    return FoundPhases(
        *(run, losses, judge_metrics(rows, config), found, refusal),
        provisional=running,
        predicted=predicted,
        curve=None,
        figure=figure,
    )


def _found(
    losses: Sequence[float], config: PhaseConfig, rates: Sequence[float] | None
) -> tuple[Phases | None, str | None]:
    """Return the phases, or why there are none: the curve has none yet, or no log scale fits its values."""
    try:
        return find_phases(losses, config, learning_rates=rates), None
    except ValueError as reason:
        return None, str(reason)


def _draw(losses: Sequence[float], found: Phases | None, path: Path) -> None:
    from fmce.report.figures import save_figure
    from fmce.report.loss_figure import loss_figure, loss_phases_figure

    path.parent.mkdir(parents=True, exist_ok=True)
    figure = loss_figure(losses) if found is None else loss_phases_figure(losses, found)
    save_figure(figure, path)
