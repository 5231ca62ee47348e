"""The live view of a training: it reads the run folder only, so it may come, go and look from afar."""

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmce.files import reading

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fmce.convergence.prediction import PredictedEpoch
    from fmce.recorder.status import Status

_BAR = 24
# Epochs over which the pace of a module is averaged.
_RECENT = 5


@dataclass(frozen=True)
class View:
    """What a run folder says now.

    Args:
        run: The folder.
        rows: Its metrics lines; empty before the first.
        status: After the newest epoch.
        predicted: When E_K is expected; None where it cannot be estimated yet.
        calm: Module → 1 less its recent drift per epoch over its fastest; 1 is at rest.
        scores: A line per output whose maturity a `ScoredProbe` measures.
        seconds_left: Until the last epoch, or else E_K; None where neither is known.
        done: Whether the training is over.
    """

    run: Path
    rows: Sequence[Mapping[str, Any]]
    status: "Status | None"
    predicted: "PredictedEpoch | None"
    calm: dict[str, float]
    scores: list[str]
    seconds_left: float | None
    done: bool


def view_of(run: Path) -> View:
    """Read a run folder; one that is missing or has no epoch yet gives an empty view.

    Raises:
        ValueError: If its config belongs to another command.
    """
    from fmce.runs.log import read_metrics

    rows = read_metrics(run)
    if not rows:
        return View(run, rows, None, None, {}, [], None, False)
    with reading(run / "metrics.jsonl", "metrics lines of a training", "put the original back"):
        return _view(run, rows)


def _view(run: Path, rows: Sequence[Mapping[str, Any]]) -> View:
    """Return what metrics lines say, and how the folder describes itself."""
    from fmce.config.run import OtherConfigError, RunConfig, run_config
    from fmce.convergence.prediction import predict_convergence_epoch
    from fmce.recorder.history import live_scores, score_line
    from fmce.recorder.status import status_of
    from fmce.runs.log import read_done, task_loss

    try:
        config = run_config(run)
    except OtherConfigError:
        config = RunConfig()  # a training of fmce distill
    status = status_of(rows, config.phases)
    predicted = None
    if status.phases is None:
        with contextlib.suppress(ValueError):  # a gap in the curve
            predicted = predict_convergence_epoch([task_loss(row) for row in rows], config.phases)
    own = config.recorder.model is not None
    last = (predicted.epoch if predicted else None) if own else config.train.epochs
    times = [float(row.get("time_seconds") or math.nan) for row in rows[-_RECENT:]]
    seconds = [time for time in times if math.isfinite(time)]
    left = None
    if last is not None and seconds and last > len(rows):
        left = (last - len(rows)) * sum(seconds) / len(seconds)
    scores = list(map(score_line, live_scores(run)))
    return View(run, rows, status, predicted, _calm(rows), scores, left, read_done(run) is not None)


def _calm(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    steps: dict[str, list[float]] = {}
    for row in rows:
        for module in (row.get("modules") or {}).values():
            for name, output in module.get("outputs", {}).items():
                if output["drift"] is not None:
                    steps.setdefault(name, []).append(output["drift"])
    calm = {}
    for name, values in steps.items():
        recent, fastest = sum(values[-_RECENT:]) / len(values[-_RECENT:]), max(values)
        calm[name] = 1 - recent / fastest if fastest > 0 else 1.0
    return calm


def lines_of(view: View) -> list[str]:
    """Return a view as lines of text."""
    if view.status is None:
        return [f"{view.run}: no epoch yet"]
    row, status = view.rows[-1], view.status
    rate = row.get("learning_rate")
    lines = [
        f"epoch {status.epoch} of {view.run}" + (", finished" if view.done else ", not finished"),
        f"loss {_shown(status.loss)}, CQI {_shown(status.cqi)}, µ {_shown(status.threshold)}, "
        f"learning rate {_shown(rate)}, {_shown(row.get('time_seconds'))} s per epoch",
    ]
    if status.phases is not None:
        lines.append(f"phases reached: {', '.join(map(str, status.phases.markers))}")
    elif view.predicted is None:
        lines.append("E_K: too early to tell")
    else:
        one = view.predicted
        lines.append(f"E_K: not yet; expected at epoch {one.epoch} ({one.low} to {one.high})")
    if view.seconds_left is not None and not view.done:
        lines.append(f"time left: {_clock(view.seconds_left)}")
    if status.verdict is not None:
        lines += status.verdict.lines
    width = max(map(len, view.calm), default=0)
    for name, share in view.calm.items():
        full = round(_BAR * min(max(share, 0.0), 1.0))
        lines.append(f"{name:{width}s} {'█' * full}{'·' * (_BAR - full)} {share:4.0%} calm")
    lines += view.scores
    return [*lines, *(f"alarm: {alarm}" for alarm in status.alarms)]


def show_once(run: Path) -> None:
    """Print the state of a run folder."""
    if not run.is_dir():
        raise FileNotFoundError(f"no run folder {run}")
    print(*lines_of(view_of(run)), sep="\n")


def watch_run(run: Path, every: float) -> None:
    """Show the state of a run folder until the training is over; it may not have begun yet."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    view = view_of(run)
    with Live(_panel(view), console=console, auto_refresh=False) as live:
        while not view.done:
            time.sleep(every)
            # A line may be half written, or a folder renamed, while it is read.
            with contextlib.suppress(OSError, ValueError):
                view = view_of(run)
            live.update(_panel(view), refresh=True)


def _panel(view: View) -> "RenderableType":
    from rich.panel import Panel
    from rich.text import Text

    text = Text(overflow="fold")
    for line in lines_of(view):
        text.append(line + "\n", style="bold red" if line.startswith("alarm:") else "")
    return Panel(text, title="fmce watch", border_style="dim")


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _clock(seconds: float) -> str:
    minutes, hours = int(seconds // 60) % 60, int(seconds // 3600)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {int(seconds % 60)} s"
