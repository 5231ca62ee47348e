"""Files that `fmce` reads back: each is used only as it was written.

A record is a JSON object that holds the SHA-256 of its other fields; a sealed text opens with that of the rest;
other files stand with theirs in a record. A file without a digest, written by hand or by an older version, is
read as it is.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fmce.files import read_json, read_text, reading, replacing, write_text

_FIELD = "sha256_of_the_rest"
_SEAL = "# SHA-256 of the rest: "
_MOST_UNPACKED = 2**30


def digest_of(value: Any) -> str:
    """Return the SHA-256 of a JSON value, which does not depend on layout or the order of keys.

    Raises:
        ValueError: If a number is NaN or infinite.

    >>> digest_of({"a": 1, "b": [0.5]}) == digest_of({"b": (0.5,), "a": 1})
    True
    """
    plain = json.loads(json.dumps(value, allow_nan=False))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def arrays_digest(arrays: Mapping[str, Any], about: Mapping[str, str] | None = None) -> str:
    """Return the SHA-256 of arrays or tensors on the CPU by name, and of texts about them.

    >>> arrays_digest({}, {"a": "1"}) == arrays_digest({}, {"a": "2"})
    False
    """
    import numpy as np

    digest = hashlib.sha256(json.dumps(sorted((about or {}).items())).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
        digest.update(np.asarray(array).tobytes())
    return digest.hexdigest()


def check_file(path: Path, digest: str, remedy: str) -> None:
    """Compare a file with the digest noted when it was written.

    Args:
        path: The file.
        digest: Its SHA-256.
        remedy: What the user can do.

    Raises:
        ValueError: If it is missing, or another.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing; {remedy}")
    if file_digest(path) != digest:
        raise ValueError(
            f"{path} is damaged: its SHA-256 is not the one noted when it was written; {remedy}"
        )


def check_regular(path: Path, most_bytes: int = 2**26) -> None:
    """Refuse what is no file of a run folder: a pipe would be waited for, and more bytes fill the memory.

    Raises:
        ValueError: If it is a pipe or device, or larger than `most_bytes`.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path} is no regular file")
    if path.is_file() and (size := path.stat().st_size) > most_bytes:
        raise ValueError(f"{path} has {size} bytes, expected at most {most_bytes}")


def write_record(path: Path, fields: Mapping[str, Any], *, indent: int | None = 1) -> None:
    """Replace the file at `path` by a JSON object with its digest, atomically.

    Args:
        path: The file.
        fields: JSON values by name.
        indent: Of nested values; None writes one field a line.

    Raises:
        ValueError: If a number is NaN or infinite.
        OSError: If it cannot be written.
    """
    complete = {**fields, _FIELD: digest_of(fields)}
    if indent is None:
        rows = (
            f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in complete.items()
        )
        text = "{\n " + ",\n ".join(rows) + "\n}"
    else:
        text = json.dumps(complete, indent=indent, ensure_ascii=False)
    write_text(path, text + "\n")


def read_record(
    path: Path, needed: Iterable[str] = (), remedy: str = "write it again"
) -> dict[str, Any]:
    """Read a record and compare it with its digest.

    Args:
        path: The file.
        needed: Fields that it must have.
        remedy: What the user can do about a damaged one.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If it is damaged, or holds something else.
    """
    try:
        check_regular(path)
        fields = read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}; {remedy}") from error
    return checked_record(fields, str(path), needed, remedy)


def checked_record(
    fields: Any, path: str, needed: Iterable[str] = (), remedy: str = "write it again"
) -> dict[str, Any]:
    """Return the fields of a record whose JSON was read before.

    Args:
        fields: What the JSON holds.
        path: Where it stood, for messages.
        needed: As in `read_record`.
        remedy: As in `read_record`.

    Raises:
        ValueError: As `read_record`.
    """
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(fields).__name__}; {remedy}")
    noted = fields.pop(_FIELD, None)
    try:
        damaged = noted is not None and noted != digest_of(fields)
    except ValueError:  # numbers that no record has
        damaged = True
    if damaged:
        raise ValueError(
            f"{path} is damaged or was edited: its contents are not those it was written with; {remedy} (after an edit "
            f"of your own, delete its field {_FIELD})"
        )
    if missing := [name for name in needed if name not in fields]:
        raise ValueError(f"{path} lacks {', '.join(missing)}; it may be damaged; {remedy}")
    return fields


def read_record_or_none(path: Path, remedy: str = "write it again") -> dict[str, Any] | None:
    """Read a record; return None where there is none.

    Raises:
        ValueError: As `read_record`.
    """
    try:
        return read_record(path, remedy=remedy)
    except FileNotFoundError:
        return None


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> str:
    """Replace the file at `path` by a compressed .npz of arrays, atomically; return its SHA-256."""
    import numpy as np

    with replacing(path) as beside, open(beside, "wb") as file:
        np.savez_compressed(file, **arrays)
    return file_digest(path)


def read_arrays(path: Path, digest: str | None, remedy: str) -> dict[str, Any]:
    """Read the arrays of an .npz file.

    Args:
        path: The file.
        digest: Its SHA-256; None where none was noted.
        remedy: What the user can do about a damaged one.

    Raises:
        ValueError: If it is missing, damaged, or unpacks to more than a gigabyte.
    """
    import numpy as np

    if digest is not None:
        check_file(path, digest, remedy)
    with reading(path, "arrays as in .npz", remedy), zipfile.ZipFile(path) as parts:
        if sum(part.file_size for part in parts.infolist()) > _MOST_UNPACKED:
            raise ValueError(f"more than {_MOST_UNPACKED} bytes")
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)


def seal(text: str) -> str:
    """Return a text of YAML behind a comment with its digest."""
    return f"{_SEAL}{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def read_sealed(path: Path, expected: str = "text") -> str:
    """Read a text, without its seal where it has one; `expected` is what it should hold, for the error.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If it is not the text that was sealed.
    """
    check_regular(path)
    text = read_text(path, expected)
    head, _, rest = text.partition("\n")
    if not head.startswith(_SEAL):
        return text
    if seal(rest) != text:
        raise ValueError(
            f"{path} is damaged or was edited: its contents are not those it was written with; repeat the "
            "command that made it in another folder, or put the original back"
        )
    return rest
