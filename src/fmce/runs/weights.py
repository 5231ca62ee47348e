"""Weights from anywhere: files of safetensors and of `torch.save`, and what keeps them from fitting a network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fmce.console.log import logger
from fmce.data.image_files import first_names
from fmce.digests import check_regular
from fmce.runs.checkpoint import checkpoint_epochs, load_weights

# Prefixes that wrappers and frameworks put before names.
PREFIXES = (
    *("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "net.", "network.", "student."),
    *("teacher.", "ema.", "base_model.", "state_dict."),
)
_CONTAINERS = ("state_dict", "model_state_dict", "model", "module", "weights", "params", "ema")
_ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
# What files of `torch.save` begin with: an archive, and before PyTorch 1.6 a pickle.
_TORCH = (b"PK\x03\x04", b"\x80")


def read_state_dict(checkpoint: str | Path | Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a state dict, a file or a checkpoint folder, by name; no code in a file is run.

    What a file is goes by its content, not by its ending.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no state dict, or cannot be read without running code from it.
    """
    values: Any = checkpoint
    if isinstance(checkpoint, str | Path):
        path = weights_file(Path(checkpoint))
        if path.is_dir():
            return load_weights(path)
        with open(path, "rb") as file:
            if not file.read(4).startswith(_TORCH):
                return _load_safetensors(path)
            file.seek(0)  # the open file, since torch.load goes by the ending of a path
            try:
                values = torch.load(file, map_location="cpu", weights_only=True)
            except Exception as error:
                raise ValueError(
                    f"{path} cannot be read as weights alone ({_one_line(error)}); save its state dict apart: "
                    "torch.save(model.state_dict(), path)"
                ) from error
    where = f"{checkpoint}: " if isinstance(checkpoint, str | Path) else ""
    for _ in range(3):
        if isinstance(values, Mapping) and any(isinstance(v, Tensor) for v in values.values()):
            found = {str(k): v for k, v in values.items() if isinstance(v, Tensor)}
            for name, tensor in found.items():
                if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
                    raise ValueError(
                        f"{where}expected plain weights, got {name} as a sparse or quantised tensor, or one without "
                        "values; save the plain ones"
                    )
            return found
        inner = next((k for k in _CONTAINERS if isinstance(values, Mapping) and k in values), None)
        if inner is None:
            break
        values = values[inner]
    raise ValueError(
        f"{where}expected a state dict of tensors, got a {type(values).__name__} without any"
    )


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_weights(path)
    except ValueError as error:
        if path.suffix == ".safetensors":
            raise
        raise ValueError(
            f"{path}: expected weights as safetensors or torch.save writes them, got neither; copy or save it again"
        ) from error


def weights_file(path: Path) -> Path:
    """Return the file of weights in a folder, or the path itself: a file, or a checkpoint folder of a run.

    Raises:
        FileNotFoundError: If there is no such path.
        ValueError: If a folder holds no file of weights, or several and none is called model.safetensors.
    """
    if not path.exists():
        epochs = ", ".join(map(str, checkpoint_epochs(path.parent)))
        raise FileNotFoundError(
            f"no weights at {path}" + (f"; available epochs: {epochs}" if epochs else "")
        )
    if not path.is_dir() or (path / "meta.json").exists():
        check_regular(path, most_bytes=2**40)
        return path
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in _ENDINGS and p.is_file())
    chosen = [p for p in found if p.name == "model.safetensors"] or found
    if len(chosen) != 1:
        named = first_names([p.name for p in found]) or "none"
        raise ValueError(
            f"expected one file of weights ({', '.join(_ENDINGS)}) in {path}, found {named}; name the file itself"
        )
    return chosen[0]


def load_into(model: nn.Module, checkpoint: Path, what: str) -> None:
    """Load weights that fit a network exactly, apart from a prefix that a wrapper put before all names.

    Args:
        model: Gets the weights.
        checkpoint: As in `read_state_dict`.
        what: What messages call the network.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If names or shapes differ (the message names them), or a weight is NaN or infinite.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "weights.pth"
    >>> torch.save({f"module.{k}": v for k, v in nn.Linear(2, 2).state_dict().items()}, path)
    >>> load_into(nn.Linear(2, 2), path, "the layer")
    """
    theirs, ours = read_state_dict(checkpoint), model.state_dict()
    hint = ""
    if theirs.keys() != ours.keys():
        prefix, fitting = best_prefix(ours, theirs)
        old, new = prefix or ("", "")
        renamed = {
            new + k.removeprefix(old) if k.startswith(old) else k: v for k, v in theirs.items()
        }
        if renamed.keys() == ours.keys():
            theirs = renamed
            logger.info("%s: names read with %r in place of the prefix %r", checkpoint, new, old)
        elif (old, new) != ("", ""):
            hint = (
                f"; with {new!r} in place of the prefix {old!r}, {fitting} of {len(ours)} would fit"
            )
    shapes = [
        f"{name} {tuple(theirs[name].shape)}, expected {tuple(own.shape)}"
        for name, own in ours.items()
        if name in theirs and theirs[name].shape != own.shape
    ]
    problems = {
        "missing": [name for name in ours if name not in theirs],
        "unknown": [name for name in theirs if name not in ours],
        "of another shape": shapes,
    }
    told = [
        f"{len(names)} {kind} ({first_names(names)})" for kind, names in problems.items() if names
    ]
    if told:
        raise ValueError(
            f"{checkpoint} does not fit {what}: of its {len(ours)} weights {'; '.join(told)}{hint}"
        )
    broken = not_finite(theirs)
    if broken:
        raise ValueError(
            f"{checkpoint} holds NaN or infinite values in {len(broken)} weights ({first_names(broken)}); take "
            "another checkpoint"
        )
    try:
        model.load_state_dict(theirs)
    except RuntimeError as error:
        raise ValueError(f"{checkpoint} does not fit {what}: {_one_line(error)}") from error


def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """Return the names of weights that hold NaN or infinity."""
    floats = {k: v for k, v in weights.items() if v.is_floating_point() or v.is_complex()}
    # torch tests no floats of 8 bits.
    wide = {k: v.float() if v.element_size() == 1 else v for k, v in floats.items()}
    return [name for name, value in wide.items() if not value.isfinite().all()]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def best_prefix(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> tuple[tuple[str, str] | None, int]:
    """Return the replacement of a prefix with which most names fit, and how many then do."""
    names = [name.split(".") for name in (*theirs, *ours)]
    heads = {".".join(parts[:n]) + "." for parts in names for n in (1, 2) if len(parts) > n}
    known = {"", *PREFIXES, *heads}
    best: tuple[str, str] | None = None
    most = _fitting("", "", ours, theirs)
    for old in sorted(known, key=len):
        for new in sorted(known, key=len):
            if old != new and (not old or any(name.startswith(old) for name in theirs)):
                count = _fitting(old, new, ours, theirs)
                if count > most:
                    best, most = (old, new), count
    return best, most


def _fitting(old: str, new: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> int:
    """Return how many names fit with the prefix replaced.

    Where it is only removed, names without it may fit as they are.
    """
    found = set()
    for name, value in theirs.items():
        if name.startswith(old) or not new:
            renamed = new + name[len(old) :] if name.startswith(old) else name
            own = ours.get(renamed)
            if own is not None and own.shape == value.shape:
                found.add(renamed)
    return len(found)
