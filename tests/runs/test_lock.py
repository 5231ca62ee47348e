"""One process at a time holds a lock file, and anyone may ask whether one does."""

import errno

import pytest

from fmce.runs.lock import is_locked, locked


def test_a_lock_is_refused_with_the_given_line_and_free_again_afterwards(tmp_path):
    path = tmp_path / ".lock"
    assert not is_locked(path)
    with locked(path, "busy"):
        assert is_locked(path)
        with (
            pytest.raises(BlockingIOError, match=r"^wait for the other$"),
            locked(path, "wait for the other"),
        ):
            pass
    assert not is_locked(path)
    with locked(path, "busy"):
        pass


def test_what_a_lock_file_holds_stays(tmp_path):
    path = tmp_path / ".lock"
    path.write_text("whose it is")
    with locked(path, "busy"):
        assert path.read_text() == "whose it is"


def test_a_file_system_without_locks_counts_as_unlocked(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fmce.runs.lock.fcntl.flock", refuse)
    with locked(tmp_path / ".lock", "held"):
        assert not is_locked(tmp_path / ".lock")
