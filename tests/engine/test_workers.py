"""Workers of this machine: one that dies fails its job and no other, and none is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fmce.console.log import logger
from fmce.engine.jobs.local import LocalWorkers


def work(folder, name):
    """A job that notes who did it; what it does else is in its name."""
    (Path(folder) / name).write_text(f"{os.getpid()} {torch.get_num_threads()}")
    if name == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "fail":
        raise KeyError("nowhere")
    if name == "loud":
        print("to stdout")
        print("to stderr", file=sys.stderr)
    if name == "abort":
        os.write(2, b"out of everything\n")
        os._exit(3)
    if name == "slow":
        time.sleep(60)


@pytest.fixture
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def pid_of(file):
    return int(file.read_text().split()[0])


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_job_that_dies_or_fails_is_told_and_the_others_are_done(importable, tmp_path):
    names = ("first", "die", "second", "fail", "third")
    with LocalWorkers(1) as workers:
        for name in names:
            workers.submit(name, work, tmp_path, name)
        ended = {result.name: result for result in (workers.wait() for _ in names)}
    assert {n: r.error for n, r in ended.items()} == {
        **dict.fromkeys(("first", "second", "third")),
        "die": "its process was killed by signal 9",
        "fail": "KeyError: 'nowhere'",
    }
    assert "in work" in ended["fail"].details
    # One process does job after job until one goes wrong in it.
    pids = [pid_of(tmp_path / name) for name in names]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]
    assert not any(is_alive(pid) for pid in pids)


def test_what_a_job_writes_is_passed_on_under_its_name(importable, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(logger, "propagate", True)
    with LocalWorkers(1) as workers:
        for name in ("loud", "first"):
            workers.submit(name, work, tmp_path, name)
        workers.wait()
        workers.wait()
    assert [r.getMessage() for r in caplog.records] == ["loud: to stdout", "loud: to stderr"]


def test_the_last_lines_of_a_process_that_died_are_quoted(importable, tmp_path):
    with LocalWorkers(1) as workers:
        workers.submit("abort", work, tmp_path, "abort")
        assert workers.wait().error == "its process ended (3): out of everything"


def test_a_job_that_cannot_be_imported_says_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from fmce.engine.jobs.local import LocalWorkers\n"
        "def mine(): pass\n"
        "with LocalWorkers(1) as workers:\n"
        "    workers.submit('mine', mine)\n"
        "    print(workers.wait().error)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert "its process ended (1): " in done.stdout
    assert "Can't get attribute 'mine'" in done.stdout


def test_leaving_ends_what_still_runs(importable, tmp_path):
    with LocalWorkers(1) as workers:
        workers.submit("slow", work, tmp_path, "slow")
        while not (tmp_path / "slow").exists() or not (tmp_path / "slow").read_text():
            time.sleep(0.02)
        pid = pid_of(tmp_path / "slow")
        assert is_alive(pid)
    assert not is_alive(pid)


def test_waiting_for_nothing_is_refused():
    with LocalWorkers(1) as workers, pytest.raises(ValueError, match="submit one first"):
        workers.wait()


def test_no_worker_at_all_is_refused():
    with pytest.raises(ValueError, match="at least 1 training at a time, got 0"):
        LocalWorkers(0)


def test_what_uses_the_same_workers_one_after_the_other_leaves_them_running():
    with LocalWorkers(1) as workers:
        processes = []
        for _ in range(2):
            with workers:
                workers.submit("one", os.getpid)
                assert workers.wait().error is None
                processes += [child.process for child in workers._children]
        assert processes[0] is processes[1]
        assert processes[0].poll() is None
    assert processes[0].poll() is not None
