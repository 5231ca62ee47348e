"""Every kind of file × flip, cut, empty, delete, zeros × every command that reads it."""

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.faults import folders
from tests.faults.trial import fmce, results, verdict


def _flip(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content)) if content else 0
    return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "flip": _flip,
    "cut": lambda content, draw: content[: draw.randrange(len(content))],
    "empty": lambda _content, _draw: b"",
    "delete": lambda _content, _draw: None,
    "zeros": lambda content, _draw: b"\0" * len(content),
}


# Undamaged runs of a command whose result differed without a word.
AGAIN = 8


@dataclass(frozen=True)
class Subject:
    """A folder, its kinds of files, the commands that read it, and the results that each leaves."""

    name: str
    make: Callable[[Path], Path]
    files: tuple[str, ...]
    commands: dict[str, tuple[Callable[[Path], list[object]], tuple[str, ...]]]


def _run_commands() -> dict[str, tuple[Callable[[Path], list[object]], tuple[str, ...]]]:
    again = folders.settings(folders.RUN)
    return {
        "phases": (lambda run: ["phases", run, "--json"], ("phases.json",)),
        "report": (lambda run: ["report", run], ("report.html",)),
        "fmcs": (lambda run: ["fmcs", run, "--epoch", "6", "--json"], ()),
        "score": (lambda run: ["score", run, "--epoch", "6", *_FEW, "--json"], ()),
        "evaluate": (lambda run: ["evaluate", run, "--json"], ("evaluation.json",)),
        "explain": (lambda run: ["explain", run, "--images", "2"], ("explain/numbers.json",)),
        "extract": (lambda run: ["extract", run, "--json"], ("maps.zarr/*/*/c/*/*/*/*",)),
        "train-net": (lambda run: ["train-net", run], ("fmce_net/map/metrics.json",)),
        "train-net image": (
            lambda run: ["train-net", run, "--split", "image"],
            ("fmce_net/image/metrics.json",),
        ),
        "train": (
            lambda run: ["train", "--out", run, *again],
            ("DONE.json", "phases.json", "checkpoints/*/model.safetensors"),
        ),
    }


def _experiment_commands() -> dict[str, tuple[Callable[[Path], list[object]], tuple[str, ...]]]:
    again = ["--jobs", "1", *folders.settings(folders.MATCHING)]

    def predict(network: str) -> Callable[[Path], list[object]]:
        words = ["--network", network]
        return lambda x: ["predict", x, "--images", x.parent / "images", "--out", x / "p", *words]

    return {
        "report": (lambda x: ["report", x], ("report.html",)),
        "predict": (predict("function_matching"), ("p/*.png",)),
        "predict teacher": (predict("teacher"), ("p/*.png",)),
        "distill": (lambda x: ["distill", "--out", x, *again], ("teacher/teacher.json",)),
    }


_FEW = ("--images", "128")
_OWN = (
    *("--model", "tests.faults.own_loop:build", "--data", "tests.faults.own_loop:data"),
    *("--layer", "1"),
)


def _recorded_commands() -> dict[str, tuple[Callable[[Path], list[object]], tuple[str, ...]]]:
    check = ["--model", "tests.faults.own_loop:build", "--probe", "tests.faults.own_loop:probe"]
    return {
        "modules": (lambda run: ["modules", run, "--json"], ()),
        "watch": (lambda run: ["watch", run, "--once"], ()),
        "check": (lambda run: ["check", run / _KEPT, *check, "--run", run, "--json"], ()),
        "report": (lambda run: ["report", run], ("report.html",)),
        "phases": (lambda run: ["phases", run, "--json"], ("phases.json",)),
        "fmcs": (lambda run: ["fmcs", run, "--epoch", "12", *_OWN, "--json"], ()),
        "score": (lambda run: ["score", run, "--epoch", "12", *_OWN[:4], *_FEW, "--json"], ()),
        "evaluate": (lambda run: ["evaluate", run, *_OWN, "--json"], ("evaluation.json",)),
        folders.OWN_LOOP: (
            lambda run: [folders.OWN_LOOP, run],
            ("phases.json", "DONE.json"),
        ),
    }


_KEPT = "checkpoints/epoch_0012"
_MARKER, _LAST = "checkpoints/epoch_0003", "checkpoints/epoch_0006"
_NET, _MAPS = "fmce_net/map", "maps.zarr/epoch_0006"
SUBJECTS = (
    Subject(
        "run",
        lambda x: folders.copy_of_run(x.parents[1], x),
        (
            *("config.yaml", "versions.json", "metrics.jsonl", "DONE.json", "phases.json"),
            *(f"{_LAST}/model.safetensors", f"{_LAST}/state.pt", f"{_LAST}/meta.json"),
            *(f"{_NET}/fmce_net.safetensors", f"{_NET}/metrics.json", f"{_NET}/config.yaml"),
            *(f"{_NET}/DONE.json", f"{_NET}/metrics.jsonl"),
            *(f"{_MAPS}/zarr.json", f"{_MAPS}/train/zarr.json", f"{_MAPS}/train/c/1/0/0/0"),
            *("explain/numbers.json", "explain/grad_cam.npz", "evaluation.json"),
        ),
        _run_commands(),
    ),
    Subject(
        "experiment",
        folders.make_experiment,
        (
            *("config.yaml", "data.json", "data.safetensors", "distill.json", "DONE.json"),
            *("predictions.npz", "teacher/teacher.json", "teacher/model.safetensors"),
            "runs/function_matching-seed1/config.yaml",
            "runs/function_matching-seed1/metrics.jsonl",
            "runs/function_matching-seed1/DONE.json",
            "runs/function_matching-seed1/checkpoints/epoch_0002/model.safetensors",
            "runs/function_matching-seed1/checkpoints/epoch_0002/meta.json",
        ),
        _experiment_commands(),
    ),
    Subject(
        "recorded",
        folders.make_recorded,
        (
            *("config.yaml", "versions.json", "metrics.jsonl", "DONE.json", "phases.json"),
            *(f"{_KEPT}/model.safetensors", f"{_KEPT}/meta.json"),
            *("grams/initial.json", "grams/epoch_0000.safetensors"),
            *("grams/epoch_0005.safetensors", "grams/epoch_0012.safetensors"),
            f"{_NET}/fmce_net.safetensors",
        ),
        _recorded_commands(),
    ),
    Subject(
        "shards",
        folders.make_shards,
        ("config.yaml", "shards.json", "clip-0000.tar", "clip-0001.tar", ".videos/clip.json"),
        {
            "frames": (
                lambda x: [
                    *("frames", x.parent / "clip.mp4", "--every", "1", "--shard-frames", "20"),
                    *("--workers", "1", "--out", x),
                ],
                ("*.tar", "shards.json"),
            )
        },
    ),
)


def tries(folder: Path, keep: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """Yield the name and the column of every damage whose name `keep` accepts."""
    for subject in SUBJECTS:
        if subject.name == "shards" and not folders.has_video():
            continue
        names = {
            f"{subject.name} {file} {damage} {command}": (file, damage, command)
            for file in subject.files
            for damage in DAMAGES
            for command in subject.commands
        }
        left = {name: parts for name, parts in names.items() if keep(name)}
        if not left:
            continue
        home = folder / subject.name
        home.mkdir(exist_ok=True)
        whole = home / "x"
        if not (home / "made").exists():
            shutil.rmtree(whole, ignore_errors=True)
            subject.make(whole)
            (home / "made").touch()
            shutil.rmtree(home / "whole", ignore_errors=True)
            shutil.copytree(whole, home / "whole")
        expected: dict[str, set[str]] = {}
        for name, (file, damage, command) in left.items():
            if command not in expected:
                expected[command] = {_once(subject, home, command, None, None)[1]}
            ended, found = _once(subject, home, command, file, random.Random(name), damage)
            column = verdict(ended, _names(file), found in expected[command])
            if column == "used silently":
                # A drawn pixel may differ in its last bit from one process to another.
                again = (_once(subject, home, command, None, None)[1] for _ in range(AGAIN))
                expected[command] |= set(again)
                column = verdict(ended, _names(file), found in expected[command])
            yield name, column


def _names(file: str) -> list[str]:
    """Return what names a damaged file: itself, or for maps its group, for a checkpoint its folder."""
    path = Path(file)
    if "maps.zarr" in file or "checkpoints" in file:
        return [str(path), next(p for p in path.parts if p.startswith("epoch_"))]
    if (
        path.name == "DONE.json"
    ):  # without it a training counts as running, and every result as provisional
        return [str(path), '"provisional": true', '"finished": false', "not finished"]
    return [str(path)]


def _once(subject, home, command, file, draw, damage=""):
    """Run a command on a fresh copy, damaged or not; return how it ended and a digest of its results."""
    work = home / "x"
    shutil.rmtree(work)
    shutil.copytree(home / "whole", work)
    if file is not None:
        path = work / file
        content = DAMAGES[damage](path.read_bytes(), draw)
        path.unlink() if content is None else path.write_bytes(content)
    arguments, files = subject.commands[command]
    words = arguments(work)
    ended = folders.own_loop(work) if words[0] == folders.OWN_LOOP else fmce(words)
    # What these print depends on how much was left to do.
    training = command.startswith(("train", "distill", "frames"))
    said = replace(ended, out="") if training else ended
    return ended, results(said, work, files)
