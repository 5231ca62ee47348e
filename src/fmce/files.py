"""Writes that are whole or not there: beside the target, flushed to disk, then renamed."""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Replace the file at `path` by `text`, atomically.

    Raises:
        OSError: it cannot be written; the message names it, not the file beside it.
    """
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with open(beside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise type(error)(f"cannot write {path}: {error.strerror or error}") from error


def write_json(path: Path, value: Any) -> None:
    """Replace the file at `path` by `value` as JSON; NaN is refused, callers write null."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: the file holds no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); it may be damaged") from error


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Make the folder `path` appear with all its files at once.

    Args:
        path: the folder; one of that name is replaced.
        fill: writes the files into the empty folder it is given.
    """
    beside = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    fill(beside)
    for file in beside.iterdir():
        sync(file)
    sync(beside)
    if path.exists():
        shutil.rmtree(path)
    os.replace(beside, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
