"""Gram triangles and weight sketches of an epoch on disk: one safetensors file per kept epoch."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fmce.console.log import logger
from fmce.digests import arrays_digest, check_regular
from fmce.files import replacing
from fmce.recorder.gram import Triangle

# Kept epochs: ten modules with a probe of 256 take below 60 MB.
MOST = 72
_NAME = re.compile(r"epoch_(\d{4,})\.safetensors")


@dataclass(frozen=True)
class EpochGrams:
    """What is kept of an epoch beside its metrics line.

    Attributes:
        triangles: Output of a module → its Gram triangle (P,).
        sketches: Module → sketch of its weights.
    """

    triangles: dict[str, Triangle]
    sketches: dict[str, NDArray[np.float64]]


def gram_file(run: Path, epoch: int) -> Path:
    """Return the file of an epoch's Gram triangles, whether it exists or not; epoch 0 is before training."""
    return run / "grams" / f"epoch_{epoch:04d}.safetensors"


def gram_epochs(run: Path) -> list[int]:
    """Return the epochs whose Gram triangles are kept, ascending."""
    folder = run / "grams"
    names = (_NAME.fullmatch(p.name) for p in folder.iterdir()) if folder.is_dir() else ()
    return sorted(int(match[1]) for match in names if match)


def save_grams(run: Path, epoch: int, grams: EpochGrams) -> None:
    """Write an epoch's Gram triangles, atomically."""
    path = gram_file(run, epoch)
    path.parent.mkdir(exist_ok=True)
    tensors: dict[str, NDArray[Any]] = {f"gram/{k}": v for k, v in grams.triangles.items()}
    tensors |= {f"sketch/{name}": value for name, value in grams.sketches.items()}
    with replacing(path) as beside:
        save_file(tensors, beside, {"sha256": arrays_digest(tensors)})


def load_grams(run: Path, epoch: int) -> EpochGrams:
    """Read an epoch's Gram triangles.

    Raises:
        FileNotFoundError: If they are not kept.
        ValueError: If the file is damaged.
    """
    path = gram_file(run, epoch)
    check_regular(path, most_bytes=2**30)
    try:
        with safe_open(path, "numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            noted = (file.metadata() or {}).get("sha256")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it") from error
    if noted not in (None, arrays_digest(tensors)):
        raise ValueError(f"{path} is damaged: its SHA-256 is not the noted one; delete it")
    parts: dict[str, dict[str, NDArray[Any]]] = {"gram": {}, "sketch": {}}
    for key, value in tensors.items():
        kind, _, name = key.partition("/")
        parts.get(kind, {})[name] = value
    return EpochGrams(parts["gram"], parts["sketch"])


def warn_of_lost_grams(run: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Warn of Gram files that metrics lines speak of and that are gone; of long trainings some are thinned out."""
    if len(rows) > MOST:
        return
    measured = [
        int(row["epoch"])
        for row in rows
        if any(facts.get("outputs") for facts in (row.get("modules") or {}).values())
    ]
    began = [0] if measured and (run / "grams" / "initial.json").exists() else []
    lost = sorted({*began, *measured} - {*gram_epochs(run)})
    if lost:
        logger.warning(
            "%s is missing, %d such files in all; the other epochs' are used",
            *(gram_file(run, lost[0]), len(lost)),
        )


def delete_grams(run: Path, *, after: int) -> None:
    """Delete the Gram triangles of the epochs after one, and what killed writes left."""
    for left in (run / "grams").glob(".*.tmp"):
        left.unlink()
    for epoch in gram_epochs(run):
        if epoch > after:
            gram_file(run, epoch).unlink()
