"""Checkpoints: one folder an epoch, whole or absent, verified when read.

`model.safetensors` holds weights, `state.pt` the optimiser's state (read with `weights_only=True`;
only the newest two epochs keep theirs), `meta.json` the epoch's metrics and the files' SHA-256.
"""

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fmce.files import read_json, replacing, write_folder, write_json

STATES_KEPT = 2
_NAME = re.compile(r"epoch_(\d{4,})")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back: weights always, optimiser state where it was kept."""

    epoch: int
    weights: dict[str, Tensor]
    state: dict[str, Any] | None
    meta: dict[str, Any]


def checkpoint_path(folder: Path, epoch: int) -> Path:
    """Return where the epoch's checkpoint stands (or would)."""
    return folder / f"epoch_{epoch:04d}"


def checkpoint_epochs(folder: Path) -> list[int]:
    """Return the epochs that have a checkpoint, ascending."""
    if not folder.is_dir():
        return []
    found = (_NAME.fullmatch(p.name) for p in folder.iterdir())
    return sorted(int(match[1]) for match in found if match)


def save_checkpoint(
    folder: Path,
    epoch: int,
    weights: Mapping[str, Tensor],
    state: Mapping[str, Any],
    meta: Mapping[str, Any],
) -> None:
    """Write an epoch's checkpoint atomically, then drop optimiser states older than the newest two.

    Args:
        folder: the run's `checkpoints` folder; made where missing.
        epoch: 1-based epoch the weights are of.
        weights: a module's state dict.
        state: whatever `torch.load(weights_only=True)` can read back; optimiser state.
        meta: JSON values, such as the epoch's metrics.

    Raises:
        OSError: it cannot be written; earlier checkpoints are whole.
    """

    def fill(target: Path) -> None:
        save_weights(target / "model.safetensors", weights)
        torch.save(dict(state), target / "state.pt")
        digests = {name: file_digest(target / name) for name in ("model.safetensors", "state.pt")}
        write_json(target / "meta.json", {"epoch": epoch, **meta, "sha256": digests})

    folder.mkdir(parents=True, exist_ok=True)
    path = checkpoint_path(folder, epoch)
    try:
        write_folder(path, fill)
    except (SafetensorError, RuntimeError, OSError) as error:  # a full disk has three names
        free = shutil.disk_usage(folder).free
        raise OSError(
            f"cannot write the checkpoint {path}: {error}; {free / 1e6:.0f} MB are free there. Make room, then "
            "the same command goes on from the last whole epoch"
        ) from error
    for old in checkpoint_epochs(folder)[:-STATES_KEPT]:
        (checkpoint_path(folder, old) / "state.pt").unlink(missing_ok=True)


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a module's state dict as one safetensors file, atomically."""
    # Clones of shared tensors are written twice rather than refused: a user's model may tie weights.
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}
    with replacing(path) as beside:
        save_file(tensors, beside)


def load_checkpoint(path: Path, *, with_state: bool = False) -> Checkpoint:
    """Read a checkpoint and verify it against its digests.

    Args:
        path: a checkpoint folder, `…/epoch_0007`.
        with_state: also read the optimiser's state.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: a file is missing, truncated or altered.
    """
    if not path.is_dir():
        epochs = ", ".join(map(str, checkpoint_epochs(path.parent))) or "none"
        raise FileNotFoundError(f"no checkpoint {path}; epochs at hand: {epochs}")
    meta = _read_meta(path)
    names = ["model.safetensors", "state.pt"] if with_state else ["model.safetensors"]
    for name in names:
        _verify(path / name, meta["sha256"].get(name, "none"))
    # Onto the CPU: the GPU it was saved from may not be here, and several ranks read what one saved.
    file = path / "state.pt"
    state = torch.load(file, map_location="cpu", weights_only=True) if with_state else None
    return Checkpoint(meta["epoch"], load_file(path / "model.safetensors"), state, meta)


def _read_meta(path: Path) -> dict[str, Any]:
    if not (path / "meta.json").exists():
        raise ValueError(f"{path} has no meta.json; the checkpoint is damaged")
    meta = read_json(path / "meta.json")
    if not isinstance(meta, dict) or not {"epoch", "sha256"} <= meta.keys():
        raise ValueError(f"{path / 'meta.json'} lacks epoch or sha256; it is damaged")
    return meta


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint folder (verified) or of a bare safetensors file.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is damaged, or no safetensors file.
    """
    if not path.is_file():
        return load_checkpoint(path).weights
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error


def newest_resumable(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest whole checkpoint with optimiser state, and what was wrong with newer ones."""
    problems: list[str] = []
    for epoch in reversed(checkpoint_epochs(folder)):
        try:
            return load_checkpoint(checkpoint_path(folder, epoch), with_state=True), problems
        except (
            ValueError,
            FileNotFoundError,
        ) as error:  # other OSErrors may pass: no reason to go back
            problems.append(f"epoch {epoch}: {error}")
    return None, problems


def checkpoint_metrics(folder: Path) -> dict[int, dict[str, Any]]:
    """Return the metrics that each checkpoint notes of its own epoch; damaged ones are left out."""
    noted = {}
    for epoch in checkpoint_epochs(folder):
        with contextlib.suppress(ValueError, KeyError):
            noted[epoch] = dict(_read_meta(checkpoint_path(folder, epoch))["metrics"])
    return noted


def quarantine(folder: Path, epochs: Iterable[int]) -> Path:
    """Move checkpoints that cannot be used out of the way, into a folder beside; return that folder."""
    aside = folder.with_name(f"{folder.name}.damaged")
    aside.mkdir(exist_ok=True)
    for epoch in epochs:
        source = checkpoint_path(folder, epoch)
        target = aside / source.name
        number = 1
        while target.exists():
            number += 1
            target = aside / f"{source.name}.{number}"
        os.replace(source, target)
    return aside


def delete_checkpoints(folder: Path, *, keep: Iterable[int]) -> list[int]:
    """Delete all checkpoints but those of the epochs in `keep`; return the deleted epochs."""
    gone = sorted(set(checkpoint_epochs(folder)) - set(keep))
    for epoch in gone:
        shutil.rmtree(checkpoint_path(folder, epoch))
    return gone


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify(path: Path, expected: str) -> None:
    if not path.exists():
        raise ValueError(f"{path} is missing")
    if file_digest(path) != expected:
        raise ValueError(f"{path} is damaged: its SHA-256 is not the one noted when it was written")
