"""Kills commands with SIGKILL at random moments; the end must be an uninterrupted one's.

Every kind is killed that often, now and then several times before it may finish. It is started again with the same
command and must end with the same weights, bit for bit, the same metrics lines (but for time_seconds) and the same
results.
"""

import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from fmce.files import read_json
from tests.faults.starts import Started, fork, start

Keep = Callable[[str], bool]

KILLS_PER_TRAINING = 4  # then it may finish, so that ends are compared often
BLOCKS_PER_FRESH = 13  # trainings of a common kind for one whose starts are new Pythons, not forks
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
    files: tuple[str, ...] = ()  # compared byte for byte, where the folder is no training's
    beside: tuple[str, ...] = ()  # compared byte for byte beside what a training writes
    common: bool = True
    ranks: int = 1
    module: str = "fmce"


@dataclass(frozen=True)
class Timing:
    """When an uninterrupted training had claimed its folder, and when it ended, in seconds from its start."""

    claimed: float
    ended: float


def settings(values: tuple[str, ...] = SETTINGS) -> list[str]:
    return [word for setting in values for word in ("--set", setting)]


def kinds(oracle: Path) -> list[Kind]:
    """Return the kinds of trainings; `oracle` is a finished run with the FMCE-Net of split map."""

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
        Kind(
            *("recorder", lambda _: None, lambda trial: [str(trial / "run")]),
            lambda trial: trial / "run",
            beside=("grams/*",),
            module="tests.faults.own_loop",
        ),
        Kind(
            *("its teacher", lambda _: None, distill, lambda trial: trial / "x" / "teacher"),
            common=False,
        ),
    ]


def prepared(kind: Kind, trial: Path) -> Path:
    trial.mkdir(parents=True)
    kind.prepare(trial)
    return trial


def begin(kind: Kind, trial: Path, fresh: bool) -> Started:
    """Start a kind's command in new Pythons or in forks of this process."""
    begun = start if fresh else fork
    return begun(kind.command(trial), kind.ranks, kind.module)


def uninterrupted(kind: Kind, trial: Path, fresh: bool = True) -> Timing:
    """Train without a kill and take the time; what is claimed first is the first file or folder made."""
    before = set(prepared(kind, trial).rglob("*"))
    started, claimed = time.monotonic(), None
    process = begin(kind, trial, fresh)
    while not process.wait(0.002 if claimed is None else 1):
        if claimed is None and set(trial.rglob("*")) - before:
            claimed = time.monotonic() - started
    process.finish()
    ended = time.monotonic() - started
    return Timing(ended if claimed is None else claimed, ended)


def kill_at_a_moment(process: Started, timing: Timing, draw: random.Random) -> str | None:
    """Kill at a moment drawn over the training's duration; None if it had ended before."""
    # Little can go wrong while Python still imports: only the end of that time is drawn from.
    moment = draw.uniform(0.9 * timing.claimed, timing.ended)
    return None if process.wait(moment) else f"after {moment:.2f} s"


def kill_while_a_checkpoint_is_written(
    process: Started, folder: Path, draw: random.Random
) -> str | None:
    """Kill while some epoch's checkpoint is being written, or just after; None if it had ended before."""
    to_pass, delay = draw.randrange(4), draw.uniform(0, 0.02)
    seen: set[Path] = set()
    while not process.wait(0.0005):
        seen |= set((folder / "checkpoints").glob(".epoch_*.tmp"))
        if len(seen) > to_pass:
            time.sleep(delay)
            name = max(seen).name.split(".")[1]
            return f"{1000 * delay:.0f} ms into the writing of {name}"
    return None


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


def file_differences(folder: Path, reference: Path, patterns: tuple[str, ...]) -> list[str]:
    """Say which of the files that patterns name differ from the reference's, weights aside from nothing."""
    found = []
    for pattern in patterns:
        names = {str(p.relative_to(f)) for f in (folder, reference) for p in f.glob(pattern)}
        found += [f"no {pattern}"] if not names else []
        found += [
            f"{name} differs"
            for name in sorted(names)
            if not ((folder / name).exists() and (reference / name).exists())
            or (folder / name).read_bytes() != (reference / name).read_bytes()
        ]
    return found


def _content(path: Path) -> object:
    """Return a file's contents, a record's without digests, which cover times of day and durations."""
    if not path.exists():
        return None
    if path.suffix != ".json":
        return path.read_text(encoding="utf-8")
    return {
        k: v for k, v in read_json(path).items() if not k.startswith(("sha256_of", "metrics_sha"))
    }


def _lines(folder: Path) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "time_seconds"} for row in rows]


def _epochs(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "checkpoints").glob("epoch_*"))


def _same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.tobytes() == other.tobytes()


def campaign(
    kind: Kind,
    kills: int,
    folder: Path,
    *,
    seed: int = 0,
    timing: Timing | None = None,
    fresh: bool = True,
) -> list[str]:
    """Kill a kind of training `kills` times.

    Args:
        kind: what is trained.
        kills: how often; moments drawn over the duration and while checkpoints are written take turns.
        folder: where trainings are made.
        seed: of the moments.
        timing: that of an uninterrupted training that was started alike, where `folder`/reference holds one;
            None makes it.
        fresh: whether each start is a new Python, not a fork.

    Returns:
        A line a kill.

    Raises:
        AssertionError: a training failed, or ended otherwise than the uninterrupted one.
    """
    draw, lines, trial_number = random.Random(f"{kind.name} {seed}"), [], 0
    timing = timing or uninterrupted(kind, folder / "reference", fresh)
    reference = kind.folder(folder / "reference")
    while len(lines) < kills:
        trial_number += 1
        trial, before = prepared(kind, folder / f"trial{trial_number}"), len(lines)
        most = min(KILLS_PER_TRAINING, kills - len(lines))
        _one_training(lambda t=trial: begin(kind, t, fresh), kind, trial, most, timing, draw, lines)
        compare(kind, trial, reference)
        shutil.rmtree(trial)
        if len(lines) == before:  # on a busy machine that has become idle every kill comes too late
            timing = uninterrupted(kind, trial, fresh)
            shutil.rmtree(trial)
    return lines


def compare(kind: Kind, trial: Path, reference: Path) -> None:
    """Raise an AssertionError if a trial's end is not the reference's."""
    ended = kind.folder(trial)
    found = file_differences(ended, reference, kind.files or kind.beside)
    found += [] if kind.files else differences(ended, reference)
    if found:
        raise AssertionError(f"{kind.name}, {trial}: {'; '.join(found)}")


def _one_training(
    begun: Callable[[], Started],
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
        process = begun()
        if len(lines) % 2 and not kind.files:
            when = kill_while_a_checkpoint_is_written(process, kind.folder(trial), draw)
        else:
            when = kill_at_a_moment(process, timing, draw)
        if when is None:
            process.finish()
            return
        if not process.kill():
            return
        at = _newest(kind.folder(trial))
        lines.append(f"{kind.name}: kill {len(lines) + 1} {when}, last whole checkpoint {at}")
        print(lines[-1], flush=True)
    begun().finish()


def _newest(folder: Path) -> str:
    return max((p.name for p in (folder / "checkpoints").glob("epoch_*")), default="none")


def make_oracle(folder: Path) -> Path:
    """Train the run that FMCE-Net++ takes its oracle from."""
    run = folder / "oracle"
    for arguments in (
        ["train", "--out", str(run), *settings()],
        ["train-net", str(run), "--set", "epochs=1"],
    ):
        start(arguments).finish()
    return run


def other_kinds(home: Path, oracle: Path) -> list[Kind]:
    """Return the kinds that are not trainings of one network in one folder; `home` holds a clip and an experiment."""
    weights = ("**/checkpoints/*/model.safetensors", "**/phases.json")
    grid = ["--model", "tiny", "--data", "digits", "--raf", "0.9", "--seeds", "1", "2"]
    grid += ["--controls", "none", "--oracles", str(oracle), *settings(SETTINGS)]

    def copy_run(trial: Path) -> None:
        shutil.copytree(oracle, trial / "run", ignore=shutil.ignore_patterns("maps.zarr"))

    def copy_experiment(trial: Path) -> None:
        shutil.copytree(home / "experiment", trial / "x")

    def distill(task: str, *more: str) -> Callable[[Path], list[str]]:
        words = ["--task", task, "--jobs", "1", *settings((*SHORT, *more))]
        return lambda trial: ["distill", "--out", str(trial / "x"), *words]

    def nothing(_trial: Path) -> None:
        return None

    def out(name: str) -> Callable[[Path], Path]:
        return lambda trial: trial / name

    frames = [
        "frames",
        str(home / "clip.mp4"),
        "--every",
        "1",
        "--shard-frames",
        "10",
        "--workers",
        "1",
    ]
    return [
        Kind(
            "compare",
            nothing,
            lambda t: [
                *(
                    "compare",
                    str(oracle),
                    "--out",
                    str(t / "x"),
                    "--raf",
                    "0.9",
                    "--seeds",
                    "1",
                    "2",
                ),
                *("--no-controls", "--length", "full", "--jobs", "2"),
            ],
            out("x"),
            weights,
            common=False,
        ),
        *(
            Kind(
                f"sweep, {jobs} jobs",
                nothing,
                lambda t, j=jobs: ["sweep", "--out", str(t / "x"), "--jobs", str(j), *grid],
                out("x"),
                weights,
                common=False,
            )
            for jobs in (1, 2)
        ),
        *(
            Kind(
                f"distill, {task}",
                nothing,
                distill(task, *more),
                out("x"),
                weights[:1],
                common=False,
            )
            for task, *more in (
                ("classify", "data.labelled=50"),
                (
                    "detect",
                    "data={height: 32, width: 64, labelled: 8, unlabelled: 8, held_out: 4, validation: 4}",
                ),
            )
        ),
        Kind(
            "frames",
            nothing,
            lambda t: [*frames, "--out", str(t / "x")],
            out("x"),
            ("*.tar", "shards.json"),
            common=False,
        ),
        Kind(
            "extract",
            copy_run,
            lambda t: ["extract", str(t / "run")],
            out("run/maps.zarr"),
            ("*/*/c/*/*/*/*", "*/*/zarr.json"),
            common=False,
        ),
        Kind(
            "export",
            copy_experiment,
            lambda t: ["export", str(t / "x"), "--no-onnx"],
            out("x/student"),
            ("student.safetensors",),
            common=False,
        ),
        Kind(
            "report",
            copy_run,
            lambda t: ["report", str(t / "run"), "--out", str(t / "page.html")],
            out("run"),
            ("phases.json",),
            common=False,
        ),
        Kind(
            "two ranks",
            nothing,
            lambda t: ["train", "--out", str(t / "run"), *settings()],
            out("run"),
            common=False,
            ranks=2,
        ),
    ]


SHORT = (
    "teacher_steps={steps: 12, batch_size: 4, interval: 3}",
    "student_steps={steps: 12, batch_size: 4, interval: 3}",
    "arms=[function_matching]",
    "seeds=[1]",
)


def tries(folder: Path, kills: int, few: int, keep: Keep) -> Iterator[tuple[str, str]]:
    """Yield the name and the column of every kill whose name `keep` accepts."""
    from tests.faults import folders

    home = folder / "kills"
    home.mkdir(exist_ok=True)
    if not (home / "made").exists():
        shutil.rmtree(home / "oracle", ignore_errors=True)
        shutil.rmtree(home / "experiment", ignore_errors=True)
        make_oracle(home)
        folders.make_experiment(home / "experiment")
        if folders.has_video():
            folders.make_video(home / "clip.mp4")
        (home / "made").touch()
    for kind in [*kinds(home / "oracle"), *other_kinds(home, home / "oracle")]:
        if kind.name == "frames" and not folders.has_video():
            continue
        wanted = kills if kind.common else few
        left = [name for n in range(wanted) if keep(name := f"{kind.name}, kill {n + 1}")]
        shutil.rmtree(trials := home / "trials", ignore_errors=True)
        if not left:
            continue
        # The reference is a new Python, so that forks are compared with one too.
        timings = {True: uninterrupted(kind, trials / "reference")}
        timings[False] = uninterrupted(kind, trials / "trial", fresh=False)
        compare(kind, trials / "trial", kind.folder(trials / "reference"))
        # A block of kills is one campaign: what is noted was compared with an uninterrupted end.
        while left:
            block, left = left[:KILLS_PER_TRAINING], left[KILLS_PER_TRAINING:]
            for trial in trials.glob("trial*"):
                shutil.rmtree(trial)
            seed = int(block[0].split()[-1])
            number = (seed - 1) // KILLS_PER_TRAINING
            fresh = kind.common and number % BLOCKS_PER_FRESH == 0
            try:
                campaign(kind, len(block), trials, seed=seed, timing=timings[fresh], fresh=fresh)
                column = "recovered"
            except AssertionError as error:
                print(f"{kind.name}: {error}", flush=True)
                shutil.copytree(trials, home / f"lost-{kind.name}-{seed}", dirs_exist_ok=True)
                column = "traceback" if "Traceback" in str(error) else "used silently"
            yield from ((name, column) for name in block)
