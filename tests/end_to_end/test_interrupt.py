"""Ctrl-C: exit code 130, one line, a run that goes on, and no process left behind."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from fmce.cli.main import main
from fmce.config.sweep import CompareConfig
from fmce.engine.jobs.local import LocalWorkers
from fmce.fmce_net_pp.compare import compare
from fmce.runs.run import open_run

SETTINGS = ("data.image_size=8", "data.shift=1", "model.options={width: 4}")


def started(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "fmce", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # In the background of a script or of nohup this process ignores signals, and its children would too.
        preexec_fn=lambda: [
            signal.signal(n, signal.SIG_DFL) for n in (signal.SIGINT, signal.SIGHUP)
        ],
    )


def wait_for(there, process, seconds=90):
    end = time.monotonic() + seconds
    while not there():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def group_is_gone(group, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "stopped by SIGTERM"),
        (signal.SIGHUP, 129, "stopped by SIGHUP"),
    ],
)
def test_a_stopped_run_is_finished_by_the_same_command(number, code, said, tmp_path, capsys):
    arguments = ["train", "--out", tmp_path / "run", "--epochs", "20"]
    arguments += [word for setting in SETTINGS for word in ("--set", setting)]
    process = started(*arguments)
    wait_for((tmp_path / "run" / "checkpoints" / "epoch_0003").exists, process)
    os.killpg(process.pid, number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"{said}; rerun the command to resume from the last checkpoint" in error
    assert "Traceback" not in error
    main([str(a) for a in arguments])
    went_on = re.search(r"resuming .* after epoch (\d+)", capsys.readouterr().out)
    assert int(went_on[1]) >= 3
    run = open_run(tmp_path / "run")
    assert [row["epoch"] for row in run.curve] == run.epochs == list(range(1, 21))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_comparison_that_is_stopped_leaves_no_process_and_one_that_is_killed_goes_on(
    number, finished_run, tmp_path
):
    out = tmp_path / "out"
    arguments = ["compare", finished_run.path, "--out", out, "--raf", "0.9", "--seeds", "1", "2"]
    arguments += ["--no-controls", "--length", "full", "--jobs", "2"]
    process = started(*arguments)
    wait_for(lambda: any(out.glob("runs/*/checkpoints/epoch_0001")), process)
    # The whole group gets a terminal's Ctrl-C and a scheduler's notice; a kill hits the parent alone.
    killed = number == signal.SIGKILL
    process.kill() if killed else os.killpg(process.pid, number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == (-number if killed else 128 + number)
    assert "Traceback" not in error
    assert group_is_gone(process.pid)
    if not killed:
        return
    config = CompareConfig(
        oracle=str(finished_run.path), rafs=(0.9,), seeds=(1, 2), controls=(), length="full"
    )
    result = compare(config, out, workers=LocalWorkers(2))
    arms = [(arm, seed) for arm in ("baseline", "ral") for seed in (1, 2)]
    assert [(row["arm"], row["seed"]) for row in result.rows[1:]] == arms
    assert all(row["test_accuracy"] is not None for row in result.rows)
    assert (result.selection["raf"], result.selection["candidates"]) == (0.9, [])
    assert result.epochs == 8


@pytest.mark.slow
def test_two_processes_do_not_train_in_one_folder(tmp_path, capsys):
    arguments = ["train", "--out", tmp_path / "run", "--epochs", "200"]
    arguments += [word for setting in SETTINGS for word in ("--set", setting)]
    process = started(*arguments)
    wait_for((tmp_path / "run" / "checkpoints" / "epoch_0001").exists, process)
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    assert end.value.code == 2
    assert "another process is training in" in capsys.readouterr().err
    assert process.poll() is None
    process.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["renamed", "deleted"])
def test_a_folder_that_is_gone_ends_its_training_and_is_not_made_anew(how, tmp_path):
    run = tmp_path / "run"
    arguments = ["train", "--out", run, "--epochs", "2000"]
    arguments += [word for setting in SETTINGS for word in ("--set", setting)]
    process = started(*arguments)
    wait_for((run / "checkpoints" / "epoch_0002").exists, process)
    run.rename(tmp_path / "elsewhere")
    if how == "deleted":
        shutil.rmtree(tmp_path / "elsewhere")
    _, error = process.communicate(timeout=30)
    assert process.returncode == 1, error
    assert re.search(
        rf"the run folder {run} is gone: .* epoch \d+ was its last complete one", error
    )
    assert "Traceback" not in error
    assert not run.exists()
