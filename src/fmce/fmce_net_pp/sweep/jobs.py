"""What a worker of a sweep does, on whichever machine: train an oracle or an arm, read test images.

Each task notes in its folder that it runs; results lie in run folders, so a task that was killed resumes
from the last complete epoch when it is run again.
"""

import datetime
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fmce.config.choices import Keep, Split
from fmce.config.run import RunConfig
from fmce.config.trust import Trust
from fmce.digests import read_record_or_none, write_record
from fmce.engine.runtime import make_runtime
from fmce.maturity.prepare import merge_runtime
from fmce.maturity.train_classifier import train_classifier
from fmce.maturity.train_fmce_net import train_fmce_net
from fmce.runs.log import mark_done, read_done
from fmce.runs.run import open_run
from fmce.tasks.classification import evaluate_classifier

# Hidden, so that it may lie in a folder that is to become a run folder.
STATE_FILE = ".state.json"


@dataclass(frozen=True)
class Placement:
    """How every training is run; the device is resolved on the machine that does it.

    Attributes:
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: Of forward passes, "float32" or "bfloat16".
        keep: Which checkpoints of the arms stay; the oracle's at the markers always do.
    """

    device: str = "auto"
    precision: str = "float32"
    keep: Keep = "last"


@dataclass(frozen=True)
class Task:
    """A job of a sweep, and the folder that its state is noted in.

    The next wave of its group waits for it, or only the one after that if it `may_lag`.
    """

    name: str
    folder: Path
    function: Callable[..., None]
    args: tuple[Any, ...]
    may_lag: bool = False


def run_task(task: Task, attempt: int) -> None:
    """Note since when and where a task runs, then run it."""
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    where = {"since": since, "host": platform.node(), "pid": os.getpid()}
    note_state(task.folder, state="running", attempt=attempt, **where)
    task.function(*task.args)


def note_state(folder: Path, **state: Any) -> None:
    """Note the state of a task's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder / STATE_FILE, state)


def read_state(folder: Path) -> dict[str, Any]:
    """Return the state noted last; nothing where no task has begun."""
    return read_record_or_none(folder / STATE_FILE, "delete it") or {}


def train_oracle(
    config: RunConfig, folder: Path, split: Split, widths: Sequence[float], placement: Placement
) -> None:
    """Train the original task, find its phases, and train its FMCE-Net, once in each width that arms need."""
    runtime = make_runtime(placement.device, placement.precision)
    run = train_classifier(config, folder, runtime=runtime, keep="markers", read_test=False)
    if not run.has_phases:
        why = (run.done or {}).get("no_phases_because")
        raise ValueError(f"the oracle's run has no phases: {why}")
    for width in widths:
        section = replace(run.config.fmce_net, width=width)
        train_fmce_net(run, split, config=section, runtime=runtime)


def train_group_arm(config: RunConfig, folder: Path, placement: Placement) -> None:
    """Train an arm without reading the test images."""
    runtime = make_runtime(placement.device, placement.precision)
    train_classifier(config, folder, runtime=runtime, keep=placement.keep, read_test=False)


def read_test(folders: Sequence[Path], device: str, trust: Trust) -> None:
    """Evaluate finished runs on the test images, in their own precision; add that to their DONE.json, once each."""
    for folder in folders:
        run, done = open_run(folder, trust=trust), read_done(folder)
        if done is not None and "test_accuracy" not in done:
            # As the run itself computes its passes, so that the number is the one `fmce train` would note.
            _, runtime = merge_runtime(run.config, make_runtime(device))
            model = runtime.to_device(run.model(run.config.train.epochs))
            test = run.training.batches(run.training.data.test, runtime)
            scores = evaluate_classifier(model, test, runtime)
            mark_done(folder, done | {"test_accuracy": scores.accuracy, "test_loss": scores.loss})
