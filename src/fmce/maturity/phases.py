"""`fmce phases`: convergence phases of a run or of any loss curve alone. Never imports torch."""

from collections.abc import Sequence
from pathlib import Path

from fmce.config.io import with_settings
from fmce.config.run import run_config
from fmce.console.tables import epochs, number, print_table
from fmce.convergence.files.curves import LossCurve, read_curve
from fmce.convergence.files.tensorboard import holds_events, read_event_curve
from fmce.convergence.phases import PhaseConfig, Phases, find_phases, window_sensitivity
from fmce.files import write_text
from fmce.runs.log import read_metrics


def run_phases(run: Path, settings: Sequence[str] = ()) -> tuple[list[float], Phases]:
    """Find the phases of a run folder's training loss and write them to its `phases.json`.

    Args:
        run: the run folder.
        settings: `field=value` changes to the `phases` section of the run's config.

    Returns:
        The task's loss of each epoch, and the phases.

    Raises:
        ValueError: the curve has no phases, for a reason the message gives.
        FileNotFoundError: the folder is no run folder.
    """
    section = run_config(run).phases
    rows = read_metrics(run)
    if not rows:
        raise ValueError(f"{run} has no metrics yet; train it first: fmce train --out {run}")
    config = with_settings(section, settings)
    losses = [float(row.get("task_loss", row["loss"])) for row in rows]
    found = find_phases(losses, config, learning_rates=[row["learning_rate"] for row in rows])
    write_text(run / "phases.json", found.to_json())
    return losses, found


def phases(
    source: Path,
    settings: Sequence[str] = (),
    *,
    column: str | None = None,
    key: str | None = None,
    epoch_column: str | None = None,
    lr_column: str | None = None,
    tag: str | None = None,
    figure: Path | None = None,
    as_json: bool = False,
) -> Phases:
    """Find phases, print them and draw the figure of the FMCE paper.

    Args:
        source: run folder; CSV, TSV, JSON or JSON-lines file of losses; or TensorBoard's event files.
        settings: `field=value` changes to the phase config (the run's own; a file's defaults).
        column: loss column of a CSV or TSV file.
        key: loss key of a JSON file.
        epoch_column: averages a per-step log by epoch; of event files, a tag.
        lr_column: learning rates in the file; of event files, a tag.
        tag: scalar of event files that holds the loss.
        figure: PNG or SVG to draw; by default `figures/phases.png` in a run, none for a file.
        as_json: print the result as JSON and nothing else.

    Raises:
        ValueError: the curve cannot be read or has no phases.
        FileNotFoundError: nothing is there.
    """
    if not source.exists():
        raise FileNotFoundError(
            f"nothing is at {source}; expected a run folder, a file of losses or TensorBoard's event files"
        )
    if source.is_dir() and not _of_tensorboard(source):
        if not (source / "config.yaml").exists():
            raise FileNotFoundError(
                f"{source} is not a run folder: it has no config.yaml; nor does it hold event files"
            )
        if any((column, key, epoch_column, lr_column, tag)):
            raise ValueError(f"{source} is a run folder, whose columns are known; leave them out")
        curve, (losses, found) = None, run_phases(source, settings)
        figure = figure or source / "figures" / "phases.png"
    else:
        config = with_settings(PhaseConfig(), settings)
        curve = _curve(source, column, key, epoch_column, lr_column, tag)
        losses = list(curve.losses)
        found = find_phases(losses, config, learning_rates=curve.learning_rates)
    if figure is not None:
        _draw(losses, found, figure)
    if as_json:
        print(found.to_json(), end="")
    else:
        _print(str(source) if curve is None else f"{source}, {curve.column}", losses, found)
        for line in [] if curve is None else _describe_data(curve, found):
            print(line)
        if figure is not None:
            print(f"figure: {figure}")
    return found


def _of_tensorboard(source: Path) -> bool:
    """Return whether event files are meant; a run folder stays one whatever else lies in it."""
    return not (source / "metrics.jsonl").exists() and holds_events(source)


def _curve(
    source: Path,
    column: str | None,
    key: str | None,
    epoch_column: str | None,
    lr_column: str | None,
    tag: str | None,
) -> LossCurve:
    if not holds_events(source):
        if tag is not None:
            raise ValueError(f"{source}: tag (--tag) is for TensorBoard's event files; got {tag!r}")
        return read_curve(
            source, column=column, key=key, epoch_column=epoch_column, lr_column=lr_column
        )
    if column or key:
        raise ValueError(
            f"{source}: in event files the loss is named by tag (--tag); got {column or key!r}"
        )
    return read_event_curve(source, tag=tag, epoch_tag=epoch_column, lr_tag=lr_column)


def _draw(losses: Sequence[float], found: Phases, path: Path) -> None:
    from fmce.report.figures import loss_phases_figure, save_figure

    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(loss_phases_figure(losses, found), path)


def _describe_data(curve: LossCurve, found: Phases) -> list[str]:
    """Say how the file's own epochs, which name its checkpoints, differ from those printed; what was left out."""
    lines = []
    counted = tuple(range(1, len(curve.losses) + 1))
    if curve.epochs is not None and curve.epochs != counted:
        own = ", ".join(f"{curve.epochs[epoch - 1]:g}" for epoch in found.markers)
        lines.append(f"the same markers as the file numbers epochs: [{own}]")
    if curve.skipped_rows:
        lines.append(f"rows without a loss, left out: {curve.skipped_rows}")
    return lines


def _print(source: str, losses: Sequence[float], found: Phases) -> None:
    rows = [
        (
            k,
            epoch,
            number(losses[epoch - 1]),
            number(found.smoothed[epoch - 1]),
            number(found.cqi[epoch - 1]),
        )
        for k, epoch in enumerate(found.markers, start=1)
    ]
    print_table(
        f"Convergence phases of {source}", ("phase", "epoch", "loss", "smoothed", "CQI"), rows
    )
    print(
        f"start epoch {found.start_epoch}, convergence epoch {found.convergence_epoch} of {found.num_epochs}"
    )
    for line in remarks(found):
        print(line)
    for window, markers in window_sensitivity(losses, found.config).items():
        print(f"CQI over {window:2d} epochs:         {epochs(markers)}")


def remarks(found: Phases) -> list[str]:
    """Say how far smoothing and learning-rate schedule made the markers, one line each."""
    lines = []
    if not found.converged:
        lines.append("not converged: CQI stayed above the threshold, and the last epoch was taken")
    lines.append(f"step curve, same smoothing: {epochs(found.step_curve_markers)}")
    lines.append(f"without smoothing:          {epochs(found.unsmoothed_markers)}")
    lines.append(f"debiased average:           {epochs(found.debiased_markers)}")
    if found.smoothing_driven:
        lines.append(
            f"the smoother makes these markers: they are {found.smoothing_distance:.1f} epochs from a step "
            "curve's on average"
        )
    elif found.smoothing_distance is not None:
        lines.append(
            f"mean distance to the step curve's markers: {found.smoothing_distance:.1f} epochs"
        )
    if found.lr_fraction is not None:
        verdict = "; CQI partly measures the schedule" if found.schedule_driven else ""
        lines.append(
            f"learning rate at the convergence epoch: {found.lr_fraction:.3f} of its peak{verdict}"
        )
    return lines
