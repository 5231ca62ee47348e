"""Checkpoints: one folder per epoch, complete or absent, verified when read.

`model.safetensors` holds weights, `state.pt` the optimiser's state (read with `weights_only=True`;
only the newest two epochs keep theirs), `meta.json` the epoch's metrics and the files' SHA-256.
"""

import contextlib
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
from fmce.digests import check_file, file_digest, read_record, write_record
from fmce.files import reading, replacing, write_folder

STATES_KEPT = 2
_NAME = re.compile(r"epoch_(\d{4,})")
_WEIGHTS, _STATE = "model.safetensors", "state.pt"
_REMEDY = "name another checkpoint, or train again in another folder"


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
        write_record(target / "meta.json", {"epoch": epoch, **meta, "sha256": digests})

    path = checkpoint_path(folder, epoch)
    try:
        folder.mkdir(exist_ok=True)  # without its parents: a run folder that is gone stays gone
        write_folder(path, fill)
    except (SafetensorError, RuntimeError, OSError) as error:  # a full disk has three names
        if not folder.exists():
            raise
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
        check_file(path / name, str(meta["sha256"].get(name)), _REMEDY)
    state: dict[str, Any] = {}
    if with_state:
        with reading(path / _STATE, "an optimiser's state", _REMEDY):
            # Onto the CPU: the GPU it was saved from may not be here, and several ranks read what one saved.
            state = dict(torch.load(path / _STATE, map_location="cpu", weights_only=True))
    with reading(path / _WEIGHTS, "weights", _REMEDY):
        return Checkpoint(meta["epoch"], load_file(path / _WEIGHTS), state, meta)


def _read_meta(path: Path) -> dict[str, Any]:
    file = path / "meta.json"
    if not file.exists():
        raise ValueError(f"{path} has no meta.json, the checkpoint is damaged; {_REMEDY}")
    meta = read_record(file, ("epoch", "sha256"), _REMEDY)
    name = path.resolve().name
    other = _NAME.fullmatch(name) and checkpoint_path(path, meta["epoch"]).name != name
    if other or not isinstance(meta["sha256"], dict):
        raise ValueError(f"{file} does not belong to {path.name}; {_REMEDY}")
    return meta


def weights_digest(path: Path) -> str:
    """Return the SHA-256 of a checkpoint's weights, which are compared with it.

    Raises:
        ValueError: If they are missing or damaged.
    """
    digest = str(_read_meta(path)["sha256"].get(_WEIGHTS))
    check_file(path / _WEIGHTS, digest, _REMEDY)
    return digest


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint folder (verified) or of a bare safetensors file; errors as `load_checkpoint`."""
    if not path.is_file():
        return load_checkpoint(path).weights
    with reading(path, "a complete safetensors file", "copy or save it again"):
        return load_file(path)


def newest_resumable(folder: Path) -> Checkpoint | None:
    """Return the newest intact checkpoint with optimiser state, after moving damaged newer ones aside.

    They go to a folder beside `folder`, with a warning: left there, they would count as the newest
    two, which alone keep optimiser state.
    """
    unusable: list[int] = []
    checkpoint = None
    for epoch in reversed(checkpoint_epochs(folder)):
        try:
            found = load_checkpoint(checkpoint_path(folder, epoch), with_state=True)
            if "optimizer" not in found.state:
                raise ValueError(f"{checkpoint_path(folder, epoch)} holds no optimiser's state")
            checkpoint = found
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


def checkpoint_notes(folder: Path, newest: int | None = None) -> dict[int, dict[str, Any]]:
    """Return what the `meta.json` of each checkpoint says, or of the newest; damaged ones are left out."""
    noted: dict[int, dict[str, Any]] = {}
    for epoch in reversed(checkpoint_epochs(folder)):
        if len(noted) == newest:
            break
        with contextlib.suppress(ValueError):
            noted[epoch] = _read_meta(checkpoint_path(folder, epoch))
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
