"""Kills trainings with SIGKILL at random moments; the end must be an uninterrupted training's.

Run by hand: python -m tests.end_to_end.faults --kills 20
Every kind of training is killed that often, now and then several times before it may finish. It is
started again with the same command and must end with the same weights, bit for bit, the same metrics
lines (but for time_seconds) and the same results. The first difference ends the campaign with exit code 1.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

KILLS_PER_TRAINING = 4  # then it may finish, so that ends are compared often
SETTINGS = (
    "data.image_size=8",
    "data.shift=1",
    "model.options={width: 4}",
    "train.epochs=8",
    "train.batch_size=64",
    "phases.num_phases=3",
    "phases.threshold=0.1",
    "phases.smoothing=none",
    "phases.if_not_converged=last",
)
MATCHING = (
    "data={height: 16, width: 24, labelled: 8, unlabelled: 8, held_out: 4, validation: 4}",
    "teacher_steps={steps: 24, batch_size: 4, interval: 3}",
    "student_steps={steps: 24, batch_size: 4, interval: 3, mixup: true}",
    "student.options={encoder_options: {channels: [4, 4, 4, 8], stem_width: 4}}",
    "arms=[function_matching]",
    "seeds=[1]",
)
RESULTS = ("DONE.json", "phases.json", "metrics.json", "teacher.json", "config.yaml")


@dataclass(frozen=True)
class Kind:
    """A kind of training: how a trial's folder is prepared, its command, and where the training's folder is."""

    name: str
    prepare: Callable[[Path], None]
    command: Callable[[Path], list[str]]
    folder: Callable[[Path], Path]


@dataclass(frozen=True)
class Timing:
    """When an uninterrupted training had claimed its folder, and when it ended, in seconds from its start."""

    claimed: float
    ended: float


def settings(values: tuple[str, ...] = SETTINGS) -> list[str]:
    return [word for setting in values for word in ("--set", setting)]


def kinds(oracle: Path) -> list[Kind]:
    """Return the five kinds; `oracle` is a finished run with the FMCE-Net of split map."""

    def train(trial: Path) -> list[str]:
        return ["train", "--out", str(trial / "run"), "--seed", "1", *settings()]

    def copy_run(trial: Path) -> None:
        ignored = shutil.ignore_patterns("fmce_net")
        shutil.copytree(oracle, trial / "run", ignore=ignored)

    def train_net(trial: Path) -> list[str]:
        return ["train-net", str(trial / "run"), "--set", "epochs=12", "--set", "batch_size=64"]

    def distill(trial: Path) -> list[str]:
        return ["distill", "--out", str(trial / "x"), "--jobs", "1", *settings(MATCHING)]

    ral = ["--oracle", str(oracle), "--raf", "0.9"]
    return [
        Kind("plain", lambda _: None, train, lambda trial: trial / "run"),
        Kind("FMCE-Net++", lambda _: None, lambda t: train(t) + ral, lambda trial: trial / "run"),
        Kind("FMCE-Net", copy_run, train_net, lambda trial: trial / "run" / "fmce_net" / "map"),
        Kind(
            "matched student",
            lambda _: None,
            distill,
            lambda t: t / "x/runs/function_matching-seed1",
        ),
        Kind("its teacher", lambda _: None, distill, lambda trial: trial / "x" / "teacher"),
    ]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fmce", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for a training to end by itself."""
    _, error = process.communicate(timeout=300)
    if process.returncode != 0:
        raise AssertionError(f"exit code {process.returncode}: {error[-2000:]}")


def prepared(kind: Kind, trial: Path) -> Path:
    trial.mkdir(parents=True)
    kind.prepare(trial)
    return trial


def uninterrupted(kind: Kind, trial: Path) -> Timing:
    """Train without a kill and take the time."""
    prepared(kind, trial)
    started, claimed = time.monotonic(), None
    process = start(kind.command(trial))
    while process.poll() is None:
        if claimed is None and (kind.folder(trial) / "config.yaml").exists():
            claimed = time.monotonic() - started
        time.sleep(0.002)
    finish(process)
    ended = time.monotonic() - started
    return Timing(ended if claimed is None else claimed, ended)


def kill_at_a_moment(
    process: subprocess.Popen[str], timing: Timing, draw: random.Random
) -> str | None:
    """Kill at a moment drawn over the training's duration; None if it had ended before."""
    # Little can go wrong while Python still imports: only the end of that time is drawn from.
    moment = draw.uniform(0.9 * timing.claimed, timing.ended)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        return f"after {moment:.2f} s"
    return None


def kill_while_a_checkpoint_is_written(
    process: subprocess.Popen[str], folder: Path, draw: random.Random
) -> str | None:
    """Kill while some epoch's checkpoint is being written, or just after; None if it had ended before."""
    to_pass, delay = draw.randrange(4), draw.uniform(0, 0.02)
    seen: set[Path] = set()
    while process.poll() is None:
        seen |= set((folder / "checkpoints").glob(".epoch_*.tmp"))
        if len(seen) > to_pass:
            time.sleep(delay)
            name = max(seen).name.split(".")[1]
            return f"{1000 * delay:.0f} ms into the writing of {name}"
        time.sleep(0.0005)
    return None


def kill(process: subprocess.Popen[str]) -> bool:
    """Kill with SIGKILL; False if it came too late, after a good end."""
    os.killpg(process.pid, signal.SIGKILL)
    _, error = process.communicate()
    if process.returncode not in (0, -signal.SIGKILL):
        raise AssertionError(f"exit code {process.returncode}: {error[-2000:]}")
    return process.returncode != 0


def differences(folder: Path, reference: Path) -> list[str]:
    """Say how a training's end differs from the reference's; an empty list if it does not."""
    found = [
        f"{name} differs"
        for name in RESULTS
        if _content(folder / name) != _content(reference / name)
    ]
    if _lines(folder) != _lines(reference):
        found.append("metrics.jsonl differs")
    epochs = _epochs(reference)
    if _epochs(folder) != epochs:
        found.append(f"checkpoints of {_epochs(folder)}, expected {epochs}")
        return found
    for name in epochs:
        weights, others = (
            load_file(f / "checkpoints" / name / "model.safetensors") for f in (folder, reference)
        )
        unlike = [k for k in others if not _same_bits(weights[k], others[k])]
        if weights.keys() != others.keys() or unlike:
            found.append(f"weights of {name} differ: {unlike}")
    return found


def _content(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _lines(folder: Path) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "time_seconds"} for row in rows]


def _epochs(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "checkpoints").glob("epoch_*"))


def _same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.tobytes() == other.tobytes()


def campaign(kind: Kind, kills: int, folder: Path, *, seed: int = 0) -> list[str]:
    """Kill a kind of training `kills` times.

    Args:
        kind: what is trained.
        kills: how often; moments drawn over the duration and while checkpoints are written take turns.
        folder: where trainings are made.
        seed: of the moments.

    Returns:
        A line a kill.

    Raises:
        AssertionError: a training failed, or ended otherwise than the uninterrupted one.
    """
    draw, lines, trial_number = random.Random(f"{kind.name} {seed}"), [], 0
    timing = uninterrupted(kind, folder / "reference")
    reference = kind.folder(folder / "reference")
    while len(lines) < kills:
        trial_number += 1
        trial, before = prepared(kind, folder / f"trial{trial_number}"), len(lines)
        _one_training(kind, trial, min(KILLS_PER_TRAINING, kills - len(lines)), timing, draw, lines)
        found = differences(kind.folder(trial), reference)
        if found:
            raise AssertionError(f"{kind.name}, {trial}: {'; '.join(found)}")
        shutil.rmtree(trial)
        if len(lines) == before:  # on a busy machine that has become idle every kill comes too late
            timing = uninterrupted(kind, trial)
            shutil.rmtree(trial)
    return lines


def _one_training(
    kind: Kind,
    trial: Path,
    most_kills: int,
    timing: Timing,
    draw: random.Random,
    lines: list[str],
) -> None:
    """Start a training again and again until it ends, killing it up to `most_kills` times."""
    last = len(lines) + most_kills
    while len(lines) < last:
        process = start(kind.command(trial))
        if len(lines) % 2:
            when = kill_while_a_checkpoint_is_written(process, kind.folder(trial), draw)
        else:
            when = kill_at_a_moment(process, timing, draw)
        if when is None:
            finish(process)
            return
        if not kill(process):
            return
        at = _newest(kind.folder(trial))
        lines.append(f"{kind.name}: kill {len(lines) + 1} {when}, last whole checkpoint {at}")
        print(lines[-1], flush=True)
    finish(start(kind.command(trial)))


def _newest(folder: Path) -> str:
    return max((p.name for p in (folder / "checkpoints").glob("epoch_*")), default="none")


def make_oracle(folder: Path) -> Path:
    """Train the run that FMCE-Net++ takes its oracle from."""
    run = folder / "oracle"
    for arguments in (
        ["train", "--out", str(run), *settings()],
        ["train-net", str(run), "--set", "epochs=1"],
    ):
        finish(start(arguments))
    return run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="of each kind of training")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fmce-faults-") as name:
        folder = Path(name)
        for kind in kinds(make_oracle(folder)):
            try:
                lines = campaign(kind, options.kills, folder / kind.name, seed=options.seed)
            except AssertionError as error:
                print(f"FAILED: {error}", file=sys.stderr)
                return 1
            print(f"{kind.name}: {len(lines)} of {options.kills} kills left no trace", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
