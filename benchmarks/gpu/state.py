"""What travels between calls: data in parts, and run folders small enough to carry, weights exact.

A run folder keeps the newest two checkpoints with the optimiser's state and, of the others, the weights of
those that may become phase markers. What does not fit is named.
"""

import io
import json
import lzma
import shutil
import tarfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fmce.config.io import read_yaml
from fmce.convergence.phases import NoPhasesError, PhaseConfig, find_phases

CHUNK = 15_500_000
CHUNKS = 3
SMALL = 300_000
SHEET = (25, 40)
"""Rows and columns of images on one sheet of a packed data set."""
MANIFEST = "files.json"
# How much farther than now the smoothed loss may fall until convergence, in parts of its fall so far.
_FURTHER = (0.0, 0.05, 0.1, 0.2, 0.3)


def save_state(state: Path, out: Path) -> list[str]:
    """Write the run folders' files, most needed first, as `state.0`, `state.1`, … of at most 15.5 MB.

    Args:
        state: Folder of everything.
        out: Where the chunks go.

    Returns:
        Names of files that found no room.
    """
    left_out, room = [], CHUNK * CHUNKS - 500_000
    chosen = []
    for file in _by_need(state):
        size = file.stat().st_size + 1024
        if size > room:
            left_out.append(str(file.relative_to(state)))
            continue
        room -= size
        chosen.append(file)
    if not chosen:
        return left_out
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file in chosen:
            archive.add(file, arcname=str(file.relative_to(state)), recursive=False)
    whole = buffer.getbuffer()
    for number, start in enumerate(range(0, len(whole), CHUNK)):
        (out / f"state.{number}").write_bytes(whole[start : start + CHUNK])
    return left_out


def load_state(folder: Path, state: Path) -> bool:
    """Put back what `save_state` wrote; False where there is nothing."""
    chunks = sorted(folder.glob("state.[0-9]"))
    if not chunks:
        return False
    whole = io.BytesIO(b"".join(chunk.read_bytes() for chunk in chunks))
    state.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=whole) as archive:
        archive.extractall(state, filter="data")
    return True


def run_folders(state: Path) -> list[Path]:
    """Return the folders of trainings, those touched last first."""
    found = {config.parent for config in (state / "runs").rglob("config.yaml")}
    return sorted(found, key=lambda f: (f / "config.yaml").stat().st_mtime, reverse=True)


def _by_need(state: Path) -> list[Path]:
    """Return all files worth carrying, most needed first, each once."""
    folders = run_folders(state)
    unfinished = [f for f in folders if not (f / "DONE.json").exists()]
    finished = [f for f in folders if f not in unfinished]
    ordered = [file for file in (state / "settings.json", state / "speed.jsonl") if file.exists()]
    for folder in folders:
        ordered += [f for f in sorted(folder.glob("*")) if f.is_file() and f.stat().st_size < SMALL]
    for folder in unfinished:
        epochs = _epochs(folder)
        for epoch in reversed(epochs[-2:]):
            ordered += sorted(_checkpoint(folder, epoch).glob("*"))
    ordered += [f for folder in finished for f in sorted(folder.glob("*.safetensors"))]
    for folder in folders:
        for epoch in marker_candidates(folder, _epochs(folder)):
            checkpoint = _checkpoint(folder, epoch)
            ordered += [checkpoint / "meta.json", checkpoint / "model.safetensors"]
    return [file for file in dict.fromkeys(ordered) if file.is_file()]


def _epochs(folder: Path) -> list[int]:
    return sorted(int(p.name[6:]) for p in (folder / "checkpoints").glob("epoch_*[0-9]"))


def _checkpoint(folder: Path, epoch: int) -> Path:
    return folder / "checkpoints" / f"epoch_{epoch:04d}"


def marker_candidates(folder: Path, epochs: Sequence[int]) -> list[int]:
    """Return epochs whose checkpoints may become markers, the likeliest first.

    A finished run's markers are known. Otherwise: marker E_k is where the logarithm of the smoothed loss
    has fallen by k/K of its fall until convergence, and that fall is tried at several lengths.
    """
    phases = folder / "phases.json"
    if phases.exists():
        return [e for e in json.loads(phases.read_text())["markers"] if e in epochs]
    file = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    section = read_yaml(folder / "config.yaml").get("phases")
    if len(rows) < 3 or not isinstance(section, dict):
        return []
    losses = [row.get("task_loss", row["loss"]) for row in rows]
    config = replace(PhaseConfig(**section), if_not_converged="last")
    try:
        now = find_phases(losses, config)
    except NoPhasesError:
        return []
    # As if training ended here, first; then for losses that fall on.
    logs = np.log(np.maximum(now.smoothed, 1e-12))
    fall, count = logs[now.start_epoch - 1] - logs, config.num_phases
    votes = dict.fromkeys(now.markers, len(_FURTHER))
    for further in _FURTHER:
        whole = fall.max() * (1 + further)
        for k in range(1, count + 1):
            reached = np.flatnonzero(fall >= k * whole / count)
            if reached.size and whole > 0:
                epoch = int(reached[0]) + 1
                votes[epoch] = votes.get(epoch, 0) + 1
    return [e for e in sorted(votes, key=lambda e: (-votes[e], e)) if e in epochs]


def take_parts(packed: Path, state: Path) -> None:
    """Keep the data of this call's parts and lay out each set whose files are complete."""
    store = state / "packed"
    for part in sorted(packed.glob("part*")):
        for file in (f for f in part.rglob("*") if f.is_file()):
            target = store / file.relative_to(part)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copyfile(file, target)
    for manifest in store.glob(f"*/{MANIFEST}"):
        wanted, name = json.loads(manifest.read_text()), manifest.parent.name
        complete = all((manifest.parent / file).exists() for file in wanted)
        if complete and not (state / "data" / f".{name}").exists():
            lay_out(manifest.parent, state / "data")
            (state / "data" / f".{name}").touch()


def lay_out(packed: Path, data: Path) -> None:
    """Write a packed set as fmce reads it."""
    data.mkdir(parents=True, exist_ok=True)
    if (packed / "labels.npz").exists():
        labels = np.load(packed / "labels.npz")
        arrays: dict[str, Any] = {name: labels[name] for name in labels.files}
        for part in ("train", "test"):
            sheets = sorted(packed.glob(f"{part}_*.webp"))
            with ThreadPoolExecutor(8) as workers:
                images = np.concatenate(list(workers.map(_cut, sheets)))
            arrays[f"x_{part}"] = images[: len(arrays[f"y_{part}"])]
        np.savez(data / f"{packed.name}.npz", **arrays)
        return
    for file in (f for f in packed.rglob("*") if f.is_file() and f.name != MANIFEST):
        target = data / file.relative_to(packed)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".xz":
            with lzma.open(file) as source, open(target.with_suffix(""), "wb") as opened:
                shutil.copyfileobj(source, opened)
        else:
            shutil.copyfile(file, target)


def _cut(sheet: Path) -> Any:
    """Return the images (N, side, side, 3) of a sheet."""
    rows, columns = SHEET
    pixels = np.asarray(Image.open(sheet).convert("RGB"))
    side = pixels.shape[1] // columns
    tiles = pixels.reshape(rows, side, columns, side, 3).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(-1, side, side, 3)


def as_sheets(images: Any) -> Iterable[Image.Image]:
    """Yield sheets of images (N, side, side, 3), the last one filled up with black."""
    rows, columns = SHEET
    side, count = images.shape[1], rows * columns
    for start in range(0, len(images), count):
        tiles = np.zeros((count, side, side, 3), np.uint8)
        tiles[: len(images[start : start + count])] = images[start : start + count]
        grid = tiles.reshape(rows, columns, side, side, 3).transpose(0, 2, 1, 3, 4)
        yield Image.fromarray(np.ascontiguousarray(grid.reshape(rows * side, columns * side, 3)))
