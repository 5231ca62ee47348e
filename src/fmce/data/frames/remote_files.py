"""Reading files at any fsspec address: lost connections are retried, outages distinguished from damage.

Backends raise different errors for a lost connection, so every error counts as one unless it is known to last.
"""

import time
from typing import Any

# Seconds before each retry, 15.5 in total: long enough for a server to restart; Ctrl-C waits 8 s at most.
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)
# Bytes that show whether a file can be reached: the first header of a tar.
_HEAD = 512
_TOO_BUSY = (408, 425, 429)


class UnreachableError(RuntimeError):
    """A file cannot be reached at the moment; neither OSError nor ValueError, which count as damage."""


def open_address(address: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it.

    Raises:
        ModuleNotFoundError: If fsspec, or its backend for this kind of address, is not installed.
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
    """Read a complete file.

    Raises:
        FileNotFoundError: If there is none.
        UnreachableError: If it cannot be read after all retries.
    """
    try:
        return _read(files, path)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise _unreachable(path, error) from error


def read_range(files: Any, path: str, start: int, end: int) -> bytes:
    """Read the bytes start … end − 1 of a file; return none if there is no file or only these are unreadable.

    Raises:
        UnreachableError: If nothing of the file can be read after all retries.
    """
    try:
        return _read(files, path, start=start, end=end)
    except FileNotFoundError:
        return b""
    except Exception as error:
        _expect_reachable(files, path, error)
    try:  # the connection may have come back in between
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
    """Return whether a retry is useless: no such file, no permission, no such range."""
    status = getattr(error, "status", None)  # HTTP status of aiohttp's errors
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
        f"{path} cannot be reached ({tried}), last {said}. Check that its server runs and grants access, "
        "then rerun the command: it resumes from the last checkpoint"
    )
