"""Files on disk: atomic writes, JSON and JSON lines.

A write is complete or absent. It goes to a hidden file beside the target, is flushed to disk and then
takes the target's name in one step, so that a kill or a full disk never leaves half a file.
"""

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Exclusive and without links: a file or link that someone else put there is never written through.
_NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield an empty file beside `path` to be written; on leaving it replaces `path`, atomically.

    Name the format where a library would take it from the suffix, which is that of the file yielded.
    After an error the file is removed and `path` is as it was.

    Args:
        path: The file to write; its folder must exist.

    Raises:
        OSError: If it cannot be written; the message names `path`, not the file beside it.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "map.bin"
    >>> with replacing(target) as beside:
    ...     _ = beside.write_bytes(b"complete")
    >>> target.read_bytes()
    b'complete'
    """
    beside = _beside(path)
    try:
        os.close(os.open(beside, _NEW_FILE, 0o666))
        try:
            yield beside
            sync(beside)
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        # A library's own kind of error may not be made from one text.
        kind = type(error) if type(error).__module__ == "builtins" else OSError
        raise kind(f"cannot write {path}: {error.strerror or error}") from error
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace the file at `path` by `text`, atomically.

    Raises:
        OSError: As `replacing`.
    """
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, indent: int | None = 1) -> None:
    """Replace the file at `path` by `value` as JSON, atomically.

    Raises:
        ValueError: If a number is NaN or infinite; callers write null.
        OSError: As `replacing`.
    """
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If the file holds no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); it may be damaged") from error


def read_json_or_none(path: Path) -> Any:
    """Read a JSON file; return None where there is none.

    Raises:
        ValueError: If the file holds no JSON.
    """
    try:
        return read_json(path)
    except FileNotFoundError:
        return None


def read_json_lines(path: Path, *, until_damage: bool = False) -> list[dict[str, Any]]:
    """Read a file of one JSON object per line; return no rows where there is no file.

    Args:
        path: The file.
        until_damage: End at the first line that is no JSON: a kill may have cut an append short.

    Raises:
        ValueError: If a line is no JSON, without `until_damage`.
    """
    rows = []
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            if line:
                rows.append(json.loads(line))
        except ValueError as error:
            if until_damage:
                break
            raise ValueError(f"{path}, line {number} is not valid JSON ({error})") from error
    return rows


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace the file at `path` by one line of JSON per row, atomically.

    Raises:
        ValueError: If a number is NaN or infinite.
        OSError: As `replacing`.
    """
    write_text(path, "".join(map(_json_line, rows)))


def append_json_line(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row to a file of JSON lines and flush it to disk; a kill may cut the line short.

    Raises:
        ValueError: If a number is NaN or infinite.
    """
    with open(path, "a", encoding="utf-8") as file:
        file.write(_json_line(row))
        file.flush()
        os.fsync(file.fileno())


def _json_line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n"


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Make the folder `path` appear with all its files at once.

    Call it only where no other process writes this folder: what a killed write left is removed first.

    Args:
        path: The folder; one of that name is replaced.
        fill: Writes the files into the empty folder it is given.
    """
    remove_leftovers(path)
    beside = _beside(path)
    beside.mkdir(parents=True)
    try:
        fill(beside)
        for file in beside.rglob("*"):
            sync(file)
        sync(beside)
        if path.exists():
            shutil.rmtree(path)
        os.replace(beside, path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    sync(path.parent)


def remove_leftovers(path: Path) -> None:
    """Remove what killed writes of `path` left beside it; only for who alone writes it."""
    for left in path.parent.iterdir() if path.parent.is_dir() else ():
        if left.name.startswith(f".{path.name}.") and left.name.endswith(".tmp"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path) -> Path:
    # A random name: two processes that write the same file do not meet in its half-written one.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
