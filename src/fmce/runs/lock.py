"""Locks that keep two processes out of one folder, on file systems that have them."""

import errno
import fcntl
from typing import IO

# Of file systems without locks, such as Lustre as it is often mounted.
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


def locked(file: IO[str], *, shared: bool = False) -> bool | None:
    """Lock an open file until it is closed or the process ends, without waiting.

    Args:
        file: the lock file; open for writing, but for a shared lock.
        shared: let others in that lock it so too.

    Returns:
        True; False where another process holds it; None where the file system has no locks.

    Raises:
        OSError: it failed for another reason.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return True
