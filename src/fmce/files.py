"""Files on disk: atomic writes, JSON and JSON lines.

A write goes to a hidden file beside the target, is flushed, and takes its name in one step: complete or absent.
"""

import io
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

# Longest first: the mark of UTF-32 begins with that of UTF-16.
_BYTE_ORDER_MARKS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}


@contextmanager
def reading(path: str | os.PathLike[str], expected: str, remedy: str = "") -> Iterator[None]:
    """Give every error inside the block its file, what was expected and what to do, on one line.

    Errors that name the file already pass unchanged. What a reader meets in content of another kind (a missing
    key, a list in place of an object, what a library raises about bytes it cannot parse) becomes a ValueError. Only
    calls that read belong in the block: a mistake of ours in it would be taken for damage.

    Args:
        path: The file that is read.
        expected: What it should hold, such as "COCO annotations".
        remedy: What the user can do; left out where the error says it.

    Raises:
        ValueError: If the block raises one, or meets content of another kind.
        OSError: If the file cannot be read; of the class that the block raised.

    >>> with reading("labels.json", "an object", "export it again"):
    ...     {}["images"]
    Traceback (most recent call last):
    ValueError: labels.json: expected an object, got another kind of content ('images'); export it again
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: expected {expected} as UTF-8 text, got no such text at byte {error.start}; save it as UTF-8"
        ) from error
    except OSError as error:
        if error.strerror is None:  # raised by hand, with a message of its own
            raise
        raise type(error)(f"{path}: expected {expected}, got: {error.strerror}") from error
    except RecursionError as error:
        raise ValueError(f"{path}: expected {expected}, got too deep a nesting") from error
    except MemoryError as error:
        raise ValueError(f"{path}: expected {expected}, got more than memory holds") from error
    except ImportError:
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        found = (
            str(error) if isinstance(error, ValueError) else f"another kind of content ({error})"
        )
        raise ValueError(
            f"{path}: expected {expected}, got {found}" + (f"; {remedy}" if remedy else "")
        ) from error


@contextmanager
def wanted_by(path: str | os.PathLike[str] | None) -> Iterator[None]:
    """Open an error inside the block with the file whose content asked for what cannot be had.

    Args:
        path: The file; None where nothing was read from one, and errors pass unchanged.

    Raises:
        ValueError: If the block raises one.

    >>> with wanted_by("run/config.yaml"):
    ...     raise ValueError("no network 'resnet51'; near: resnet50")
    Traceback (most recent call last):
    ValueError: run/config.yaml: no network 'resnet51'; near: resnet50
    """
    try:
        yield
    except ValueError as error:
        if path is None or str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error


def read_text(path: str | os.PathLike[str], expected: str = "text") -> str:
    """Read a text file: UTF-8, or what its byte order mark says; lines end in a line feed.

    Args:
        path: The file.
        expected: What it should hold, for the error.

    Raises:
        ValueError: If it is in another encoding or no text.
        OSError: If it cannot be read.
    """
    with reading(path, expected):
        content = Path(path).read_bytes()
        marked = (e for mark, e in _BYTE_ORDER_MARKS.items() if content.startswith(mark))
        text = content.decode(next(marked, "utf-8-sig"))
        if "\0" in text.rstrip("\0"):
            raise ValueError(
                f"{path}: expected {expected} as text, got NUL bytes in it: damaged, no text, or UTF-16 without a "
                "mark; save it as UTF-8"
            )
    return io.StringIO(text, newline=None).read()


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
        raise _not_written(path, error) from error
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace the file at `path` by `text`, atomically, as `replacing` does."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, indent: int | None = 1) -> None:
    """Replace the file at `path` by `value` as JSON, atomically, as `replacing` does.

    Raises:
        ValueError: If a number is NaN or infinite; callers write null.
    """
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If the file is empty, in another encoding, or holds no JSON.
    """
    text = read_text(path, "JSON")
    if not text.strip():
        raise ValueError(f"{path} is empty, expected JSON; write or export it again")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}); it may be damaged: write or export it again"
        ) from error


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
        except (ValueError, RecursionError) as error:
            if until_damage:
                break
            raise ValueError(
                f"{path}, line {number} is not valid JSON ({error}); fix or remove that line"
            ) from error
    return rows


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace the file at `path` by one line of JSON per row, atomically, as `replacing` does.

    Raises:
        ValueError: If a number is NaN or infinite.
    """
    write_text(path, "".join(map(_json_line, rows)))


def append_json_line(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row to a file of JSON lines and flush it to disk; a kill may cut the line short.

    Raises:
        ValueError: If a number is NaN or infinite.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    with open(descriptor, "a", encoding="utf-8") as file:
        file.write(_json_line(row))
        file.flush()
        os.fsync(file.fileno())


def _json_line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n"


def _not_written(path: Path, error: OSError) -> OSError:
    """Return an error of writing that names what was to be written, not the hidden file beside it."""
    # A library's own kind of error may not be made from one text.
    kind = type(error) if type(error).__module__ == "builtins" else OSError
    return kind(f"cannot write {path}: {error.strerror or error}")


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Make the folder `path` appear, or be replaced, with all the files at once that `fill` writes into it.

    Call it only where no other process writes this folder: what a killed write left is removed first. The folder around
    it must exist: one that was moved away meanwhile is not made anew.
    """
    remove_leftovers(path)
    beside = _beside(path)
    try:
        beside.mkdir()
        fill(beside)
        for file in beside.rglob("*"):
            sync(file)
        sync(beside)
        if path.exists():
            shutil.rmtree(path)
        os.replace(beside, path)
    except BaseException as error:
        shutil.rmtree(beside, ignore_errors=True)
        if isinstance(error, OSError) and error.strerror:  # others name their file
            raise _not_written(path, error) from error
        raise
    sync(path.parent)


def folder_inside(folder: Path, name: str, remedy: str) -> Path:
    """Make a folder inside another one where it is missing.

    Args:
        folder: The outer one.
        name: Of the inner one.
        remedy: What the user can do where it is a link to a folder elsewhere.

    Raises:
        ValueError: If it is a link out of the folder: files elsewhere would be written through it.
    """
    path = folder / name
    path.mkdir(parents=True, exist_ok=True)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"{path} is a link out of the folder, through which files elsewhere would be written; {remedy}"
        )
    return path


def refuse_links_out(folder: Path, remedy: str) -> None:
    """Refuse links to folders elsewhere, at any depth: files there would be written through them.

    Inside stored maps links to files are refused too, since zarr writes its files in place.

    Args:
        folder: The folder that holds them.
        remedy: What the user can do.

    Raises:
        ValueError: If there is one.
    """
    home = os.path.realpath(folder)
    for place, folders, files in os.walk(folder):
        in_maps = ".zarr" in os.path.relpath(place, folder)
        for name in (*folders, *(files if in_maps else ())):
            path = os.path.join(place, name)
            if os.path.islink(path) and not Path(os.path.realpath(path)).is_relative_to(home):
                raise ValueError(
                    f"{path} is a link out of the folder, through which files elsewhere would be written; {remedy}"
                )


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
