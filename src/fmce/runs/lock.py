"""File locks that keep two processes out of one folder, on file systems that have locks.

They are `flock` itself, not the library filelock: whoever may only read a folder can ask whether it is
locked, and a file system without locks is never taken for a lock that another process holds.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from fmce.console.log import logger

# Of file systems without locks, such as Lustre as it is often mounted.
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock of a file, which is made where missing and never truncated; do not wait for it.

    On a file system without locks a warning takes the lock's place.

    Raises:
        BlockingIOError: If another process holds the lock; its message is `busy`.
        OSError: If the file cannot be opened or locked.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / ".lock"
    >>> with locked(path, "busy"), locked(path, "one process at a time"):
    ...     pass
    Traceback (most recent call last):
        ...
    BlockingIOError: one process at a time
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        if not _lock(descriptor, fcntl.LOCK_EX, path):
            raise BlockingIOError(busy)
        yield
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock of a file; needs no permission to write it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        return not _lock(descriptor, fcntl.LOCK_SH, path)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _warn(path.parent)
    return True


@cache
def _warn(folder: Path) -> None:
    """Warn once per folder, however many of its files are to be locked."""
    logger.warning("the file system of %s has no locks; let no second process write there", folder)
