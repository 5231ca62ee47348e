"""`fmce sweep --engine ray` on a cluster of two nodes, a training killed in its middle, then a whole node."""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fmce.config.io import from_yaml, to_yaml
from fmce.config.sweep import SweepConfig
from fmce.fmce_net_pp.sweep.grid import make_groups
from fmce.fmce_net_pp.sweep.jobs import Placement, read_state, train_group_arm
from fmce.maturity.train_classifier import train_classifier
from fmce.runs.log import lock_run, read_done, read_metrics
from fmce.runs.run import open_run
from tests.end_to_end.two_nodes import ON_LOOPBACK

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs Ray (the extra `cluster`)"
)
RUNS = [f"{arm}-seed{seed}" for arm in ("baseline", "raf0.9", "scaled_rate") for seed in (1, 2)]
SECONDS = 300  # the most that the cluster and the sweep may take, on a busy machine


@pytest.fixture(scope="module")
def cluster():
    """Address and the nodes' process ids of a cluster that ends with this module."""
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("two_nodes.py"), str(2 * SECONDS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    try:
        yield json.loads(line)
        _, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
    finally:
        process.kill()


def begin(cluster, config, out):
    arguments = ["sweep", "--out", out, "--config", config, "--engine", "ray"]
    arguments += ["--address", cluster["address"], "--gpus", 0]
    return subprocess.Popen(
        [sys.executable, "-m", "fmce", *map(str, arguments)],
        env=os.environ | ON_LOOPBACK,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def in_its_middle(runs, process, chosen):
    """Wait for a training with an epoch done and more to come; return its folder and process id."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()
        for folder in runs:
            state = read_state(folder)
            running = state.get("state") == "running" and 1 <= len(read_metrics(folder)) < 7
            if running and chosen(state["pid"]):
                return folder, state["pid"]
        time.sleep(0.002)
    raise AssertionError("waited too long")


def _stat(pid):
    """Return the fields that follow a process's name, the first its state; nothing where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def parent_of(pid):
    return int((_stat(pid) or "00")[1])


def lose(node):
    """Kill all processes of a node, as if its machine were gone; return them."""
    workers = [int(p.name) for p in Path("/proc").glob("[0-9]*") if parent_of(int(p.name)) == node]
    for pid in (node, *workers):
        os.kill(pid, signal.SIGKILL)
    return [node, *workers]


def is_alive(pid):
    """Return whether a process is there; one that waits for its parent to look has ended."""
    return (_stat(pid) or ["Z"])[0] != "Z"


def weights(folders):
    """Return when each file of weights was written, and which file it is."""
    files = [file for folder in folders for file in folder.glob("checkpoints/*/*.safetensors")]
    return {file: (file.stat().st_mtime_ns, file.stat().st_ino) for file in files}


JOBS = """
import subprocess, sys
from fmce.engine.jobs.ray import RayWorkers
address, file = sys.argv[1:]
with RayWorkers(address, gpus=1) as workers:
    for name in ("first", "second"):
        workers.submit(name, subprocess.run, ["sh", "-c", f"echo $PPID $FMCE_DATA $PWD >> {file}"])
        assert workers.wait() == (name, None, "")
"""


# A process for each since CUDA reads once in a process which GPUs it may see.
@needs_ray
@pytest.mark.slow
def test_a_job_on_a_gpu_has_its_own_process_and_finds_data_as_it_was_handed_in(cluster, tmp_path):
    command = [sys.executable, "-c", JOBS, cluster["address"], tmp_path / "said"]
    env = os.environ | ON_LOOPBACK | {"FMCE_DATA": "sets"}
    subprocess.run(command, env=env, cwd=tmp_path, check=True, timeout=SECONDS)
    first, second = (line.split() for line in (tmp_path / "said").read_text().splitlines())
    assert first[0] != second[0]
    assert first[1:] == second[1:] == ["sets", str(tmp_path)]


@needs_ray
@pytest.mark.slow
def test_a_killed_training_and_a_lost_node_leave_every_row_once(cluster, finished_run, tmp_path):
    config, out = tmp_path / "grid.yaml", tmp_path / "out"
    config.write_text(
        f"oracles: ['{finished_run.path}']\nrafs: [0.9]\nseeds: [1, 2]\nlength: full\n"
        "controls: [scaled_rate]\n"
    )
    grid = from_yaml(SweepConfig, config)
    (group,) = make_groups(grid, out)
    first = group.baselines[0]
    with lock_run(out, to_yaml(grid)):
        pass
    train_group_arm(group.config_of(first), group.folder_of(first), Placement("cpu"))
    runs = [group.folder_of(run) for run in group.runs[1:]]
    process = begin(cluster, config, out)
    try:
        victim, pid = in_its_middle(
            runs, process, lambda pid: parent_of(pid) == cluster["nodes"][0]
        )
        os.kill(pid, signal.SIGKILL)
        assert 1 <= len(read_metrics(victim)) < 8
        lost, other = in_its_middle(
            runs, process, lambda pid: parent_of(pid) == cluster["nodes"][1]
        )
        finished = weights(folder for folder in runs if read_done(folder) is not None)
        killed = [pid, *lose(cluster["nodes"][1])]
        assert other in killed
        assert read_done(lost) is None
        _, error = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0, error
    assert not any(map(is_alive, killed))
    with open(out / "sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["folder"].split("/")[-1] for row in rows[1:]) == sorted(RUNS)
    assert {(row["status"], row["epochs"]) for row in rows} == {("done", "8")}
    assert all(float(row["test_accuracy"]) > 0 for row in rows)
    for folder in runs:
        assert [line["epoch"] for line in read_metrics(folder)] == list(range(1, 9))
    # The one trained before the sweep, and what was done when the node was lost.
    assert group.folder_of(first) in {file.parents[2] for file in finished}
    assert weights(file.parents[2] for file in finished) == finished
    # What was killed ends as if it had not been.
    train_classifier(open_run(victim).config, tmp_path / "alone", read_test=False)
    for ours, alone in zip(read_metrics(victim), read_metrics(tmp_path / "alone"), strict=True):
        assert {**ours, "time_seconds": 0} == {**alone, "time_seconds": 0}
