"""Reading files at any fsspec address so that a lost connection is tried again, and an outage told apart.

What is raised for a lost connection differs between fsspec's backends (aiohttp's errors are no
OSError), so every error of a read counts as one, but for those that say themselves that they will last.
"""

import time
from typing import Any

# Seconds before each further try, 15.5 in all: a server's restart is outlived, and Ctrl-C waits for
# 8 s at most.
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)
# What shows that a file can be reached: a tar's first header.
_HEAD = 512
_TOO_BUSY = (408, 425, 429)


class UnreachableError(RuntimeError):
    """A file cannot be reached for now; neither OSError nor ValueError, which count as damage."""


def open_address(address: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it.

    Raises:
        ModuleNotFoundError: fsspec, or its part for this kind of address, is not installed.
    """
    try:
        from fsspec.core import url_to_fs
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "shards are read through fsspec; install it with: pip install 'fmce[frames]'"
        ) from error
    try:
        files, root = url_to_fs(str(address))
    except ImportError as error:  # s3fs, gcsfs, …
        raise ModuleNotFoundError(f"{address} needs a further package: {error}") from error
    return files, root.rstrip("/")


def read_file(files: Any, path: str) -> bytes:
    """Read a whole file.

    Raises:
        FileNotFoundError: There is none.
        UnreachableError: It cannot be read, after all tries.
    """
    try:
        return _read(files, path)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise _unreachable(path, error) from error


def read_range(files: Any, path: str, start: int, end: int) -> bytes:
    """Read the bytes start … end − 1 of a file; none where only these cannot be read, or there is no file.

    Raises:
        UnreachableError: Nothing of the file can be read, after all tries.
    """
    try:
        return _read(files, path, start=start, end=end)
    except FileNotFoundError:
        return b""
    except Exception as error:
        _expect_reachable(files, path, error)
    try:  # the connection may have come back between the two
        return bytes(files.cat_file(path, start=start, end=end))
    except Exception:
        return b""


def _read(files: Any, path: str, **part: int) -> bytes:
    for wait in WAITS:
        try:
            return bytes(files.cat_file(path, **part))
        except Exception as error:
            if _lasts(error):
                raise
        time.sleep(wait)
    return bytes(files.cat_file(path, **part))


def _lasts(error: Exception) -> bool:
    """Tell whether trying again is of no use: no such file, no right to it, no such part of it."""
    status = getattr(error, "status", None)  # of HTTP, as aiohttp's errors have it
    refused = isinstance(status, int) and 400 <= status < 500 and status not in _TOO_BUSY
    return refused or isinstance(error, (FileNotFoundError, PermissionError))


def _expect_reachable(files: Any, path: str, error: Exception) -> None:
    try:
        files.cat_file(path, start=0, end=_HEAD)
    except FileNotFoundError:
        return
    except Exception:
        raise _unreachable(path, error) from error


def _unreachable(path: str, error: Exception) -> UnreachableError:
    said = f"{type(error).__name__}: {error}".rstrip(". :")
    tried = "tried once" if _lasts(error) else f"{len(WAITS) + 1} tries over {sum(WAITS):.0f} s"
    return UnreachableError(
        f"{path} cannot be reached ({tried}), last {said}. See that its server runs and lets you read it, "
        "then give the same command again: it goes on from the last checkpoint"
    )
