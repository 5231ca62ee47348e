"""What a worker of a sweep does, on whichever machine: train an oracle or an arm, read test images.

Each task notes in its folder that it runs; results lie in run folders, so a task that was killed goes on
from the last whole epoch when it is given again.
"""

import datetime
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fmce.config.choices import Split
from fmce.config.run import RunConfig
from fmce.engine.runtime import make_runtime
from fmce.files import read_json_or_none, write_json
from fmce.fmce_net_pp.arms import train_arm
from fmce.maturity.prepare import merge_runtime
from fmce.maturity.train_classifier import train_classifier
from fmce.maturity.train_fmce_net import train_fmce_net
from fmce.runs.log import mark_done, read_done
from fmce.runs.run import Run, open_run
from fmce.tasks.classification import evaluate_classifier

# Hidden, so that it may lie in a folder that is to become a run folder.
STATE_FILE = ".state.json"


@dataclass(frozen=True)
class Task:
    """A job of a sweep and the folder that it is known by."""

    name: str
    folder: Path
    function: Callable[..., None]
    args: tuple[Any, ...]


def run_task(task: Task, attempt: int) -> None:
    """Do a task after noting that, since when and where it runs."""
    note_state(
        task.folder,
        state="running",
        attempt=attempt,
        since=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        host=platform.node(),
        pid=os.getpid(),
    )
    task.function(*task.args)


def note_state(folder: Path, **state: Any) -> None:
    """Note how a task's folder stands."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / STATE_FILE, state)


def read_state(folder: Path) -> dict[str, Any]:
    """Return what was noted last; nothing where no task has begun."""
    return read_json_or_none(folder / STATE_FILE) or {}


def train_oracle(
    config: RunConfig,
    folder: Path,
    split: Split,
    widths: Sequence[float],
    device: str,
    precision: str,
) -> None:
    """Train the original task, find its phases, and train its FMCE-Net, once in each width that arms need.

    Raises:
        ValueError: the loss curve has no phases, so there is nothing to train an FMCE-Net on.
    """
    runtime = make_runtime(device, precision)
    run = train_classifier(config, folder, runtime=runtime, keep="markers", read_test=False)
    if not run.has_phases:
        reason = (run.done or {}).get("no_phases_because")
        raise ValueError(f"the oracle's run has no phases: {reason}")
    for width in widths:
        section = replace(run.config.fmce_net, width=width)
        train_fmce_net(run, split, config=section, runtime=runtime)


def train_sweep_arm(config: RunConfig, folder: Path, device: str, precision: str) -> None:
    """Train an arm without a look at the test images; its last checkpoint stays."""
    train_arm(config, folder, device, precision, read_test=False, keep="last")


def read_test(folders: Sequence[Path], device: str) -> None:
    """Evaluate finished runs on the test images and add that to their DONE.json, once each.

    Args:
        folders: run folders whose last checkpoint is there.
        device: where; precision is the run's own.
    """
    for folder in folders:
        done = read_done(folder)
        if done is not None and "test_accuracy" not in done:
            scores = _test_scores(open_run(folder), device)
            mark_done(folder, done | scores)


def _test_scores(run: Run, device: str) -> dict[str, float]:
    # As the run itself computes its passes, so that the number is the one `fmce train` would note.
    _, runtime = merge_runtime(run.config, make_runtime(device))
    model = runtime.to_device(run.model(run.config.train.epochs))
    scores = evaluate_classifier(model, run.setup.batches(run.setup.data.test, runtime), runtime)
    return {"test_accuracy": scores.accuracy, "test_loss": scores.loss}
