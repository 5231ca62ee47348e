"""Checkpoints: one folder per epoch, complete or absent, verified when read.

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

from fmce.console.log import logger
from fmce.files import read_json, replacing, write_folder, write_json

STATES_KEPT = 2
_NAME = re.compile(r"epoch_(\d{4,})")
_WEIGHTS, _STATE = "model.safetensors", "state.pt"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back: its weights, and the optimiser's state where it was asked for."""

    epoch: int
    weights: dict[str, Tensor]
    state: dict[str, Any]
    meta: dict[str, Any]


def checkpoint_path(folder: Path, epoch: int) -> Path:
    """Return the folder of an epoch's checkpoint, whether it exists or not."""
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
        folder: The run's `checkpoints` folder; made where missing.
        epoch: 1-based epoch that the weights belong to.
        weights: A module's state dict.
        state: Whatever `torch.load(weights_only=True)` can read back; optimiser state.
        meta: JSON values, such as the epoch's metrics.

    Raises:
        OSError: If it cannot be written; earlier checkpoints stay intact.
    """

    def fill(target: Path) -> None:
        save_weights(target / _WEIGHTS, weights)
        torch.save(dict(state), target / _STATE)
        digests = {name: file_digest(target / name) for name in (_WEIGHTS, _STATE)}
        write_json(target / "meta.json", {"epoch": epoch, **meta, "sha256": digests})

    folder.mkdir(parents=True, exist_ok=True)
    path = checkpoint_path(folder, epoch)
    try:
        write_folder(path, fill)
    except (SafetensorError, RuntimeError, OSError) as error:  # a full disk has three names
        free = shutil.disk_usage(folder).free
        raise OSError(
            f"cannot write the checkpoint {path}: {error}; {free / 1e6:.0f} MB are free there. Make room, then "
            "rerun the command to resume after the last complete epoch"
        ) from error
    for old in checkpoint_epochs(folder)[:-STATES_KEPT]:
        (checkpoint_path(folder, old) / _STATE).unlink(missing_ok=True)


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a module's state dict as one safetensors file, atomically."""
    # Clones of shared tensors are written twice rather than refused: a user's model may tie weights.
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}
    with replacing(path) as beside:
        save_file(tensors, beside)


def load_checkpoint(path: Path, *, with_state: bool = False) -> Checkpoint:
    """Read a checkpoint folder, `…/epoch_0007`, and verify it; the optimiser's state only where asked for.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If a file is missing, truncated or altered.
    """
    if not path.is_dir():
        epochs = ", ".join(map(str, checkpoint_epochs(path.parent))) or "none"
        raise FileNotFoundError(f"no checkpoint {path}; available epochs: {epochs}")
    meta = _read_meta(path)
    for name in (_WEIGHTS, _STATE) if with_state else (_WEIGHTS,):
        file = path / name
        if not file.exists():
            raise ValueError(f"{file} is missing")
        if file_digest(file) != meta["sha256"].get(name):
            raise ValueError(f"{file} is damaged: its SHA-256 is not the one noted with it")
    # Onto the CPU: the GPU it was saved from may not be here, and several ranks read what one saved.
    state = torch.load(path / _STATE, map_location="cpu", weights_only=True) if with_state else {}
    return Checkpoint(meta["epoch"], load_file(path / _WEIGHTS), state, meta)


def _read_meta(path: Path) -> dict[str, Any]:
    file = path / "meta.json"
    if not file.exists():
        raise ValueError(f"{path} has no meta.json; the checkpoint is damaged")
    meta = read_json(file)
    if not isinstance(meta, dict) or not {"epoch", "sha256"} <= meta.keys():
        raise ValueError(f"{file} lacks epoch or sha256; it is damaged")
    return meta


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint folder (verified) or of a bare safetensors file; errors as `load_checkpoint`."""
    if not path.is_file():
        return load_checkpoint(path).weights
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a complete safetensors file: {error}") from error


def newest_resumable(folder: Path) -> Checkpoint | None:
    """Return the newest intact checkpoint with optimiser state, after moving damaged newer ones aside.

    They go to a folder beside `folder`, with a warning: left there, they would count as the newest
    two, which alone keep optimiser state.
    """
    unusable: list[int] = []
    checkpoint = None
    for epoch in reversed(checkpoint_epochs(folder)):
        try:
            checkpoint = load_checkpoint(checkpoint_path(folder, epoch), with_state=True)
            break
        except (ValueError, FileNotFoundError) as error:
            # Other kinds of OSError may pass: no reason to go back.
            logger.warning("skipping a damaged checkpoint, epoch %d: %s", epoch, error)
            unusable.insert(0, epoch)
    if unusable:
        aside = _quarantine(folder, unusable)
        logger.warning("moved checkpoints of epochs %s to %s", unusable, aside)
        if checkpoint is None:
            logger.warning("no checkpoint is left to resume from; starting again")
    return checkpoint


def checkpoint_metrics(folder: Path) -> dict[int, dict[str, Any]]:
    """Return the metrics that each checkpoint notes of its own epoch; damaged ones are left out."""
    noted = {}
    for epoch in checkpoint_epochs(folder):
        with contextlib.suppress(ValueError, KeyError):
            noted[epoch] = dict(_read_meta(checkpoint_path(folder, epoch))["metrics"])
    return noted


def _quarantine(folder: Path, epochs: Iterable[int]) -> Path:
    """Move checkpoints that cannot be used into a folder beside; return that folder."""
    aside = folder.with_name(f"{folder.name}.damaged")
    aside.mkdir(exist_ok=True)
    for epoch in epochs:
        source = checkpoint_path(folder, epoch)
        target, number = aside / source.name, 1
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
