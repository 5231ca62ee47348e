"""`fmce sweep`: every training once, failures kept in sight, RAF from validation, test images read last."""

import csv
import json
import math
import os
import re
import shutil
import signal
import statistics
import threading
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from fmce.cli.main import main
from fmce.cli.show_fmce_net_pp import show_estimate, show_sweep
from fmce.config.io import from_yaml, to_yaml
from fmce.config.sweep import CONTROLS, SweepConfig
from fmce.console.progress import Progress
from fmce.digests import read_record
from fmce.engine.jobs.job import Finished
from fmce.engine.jobs.local import LocalWorkers
from fmce.fmce_net_pp.sweep.grid import make_groups
from fmce.fmce_net_pp.sweep.jobs import Task, note_state, read_state
from fmce.fmce_net_pp.sweep.results import sweep_result
from fmce.fmce_net_pp.sweep.run import _run_all as run_all
from fmce.fmce_net_pp.sweep.run import sweep
from fmce.fmce_net_pp.sweep.selection import read_selection, select
from fmce.fmce_net_pp.sweep.status import sweep_estimate, sweep_status
from fmce.metrics.statistics import holm, paired_comparison
from fmce.runs.log import lock_run, read_metrics
from fmce.runs.run import open_run
from tests.conftest import NEWER, SETTINGS, without

ARMS = ("baseline", "raf0.9", "raf0.5", "phase_1", "scaled_rate")
NAMES = {f"{arm}-seed{seed}" for arm in ARMS for seed in (1, 2)}


@pytest.fixture(scope="module")
def grid(finished_run):
    return SweepConfig(
        oracles=(str(finished_run.path),),
        rafs=(0.9, 0.5),
        seeds=(1, 2),
        controls=("phase_1", "scaled_rate"),
        length="full",
    )


def once(config, out, **options):
    return sweep(config, out, workers=LocalWorkers(2), **options)


@pytest.fixture(scope="module")
def swept(grid, tmp_path_factory):
    """Folder and result of a sweep that nothing disturbed; never change the folder."""
    out = tmp_path_factory.mktemp("sweep") / "out"
    return out, once(grid, out)


def folder_of(out, name):
    return out / "tiny-digits" / "runs" / name


def numbers(result):
    """Every training's row without what differs between two sweeps: time and a cured error."""
    drop = ("seconds", "epoch_seconds", "error")
    return [{k: v for k, v in row.items() if k not in drop} for row in result.rows]


def test_each_training_has_one_row_with_what_its_run_says(swept, finished_run):
    out, result = swept
    assert len(result.rows) == 11
    assert result.failed == {}
    assert {r["folder"].split("/")[-1] for r in result.rows[1:]} == NAMES
    for row in result.rows[1:]:
        run = open_run(out / row["folder"])
        assert row["test_accuracy"] == run.done["test_accuracy"]
        assert row["validation_accuracy"] == run.curve[-1]["validation_accuracy"]
        assert (row["seed"], row["epochs"], row["status"]) == (run.config.train.seed, 8, "done")
        assert row["oracle_markers"] == " ".join(map(str, finished_run.phases.markers))
    assert result.rows[0]["folder"] == str(finished_run.path)


def test_raf_is_the_best_on_validation_and_its_controls_are_trained_with_it(swept):
    out, result = swept
    means = {}
    for raf in (0.9, 0.5):
        last = [read_metrics(folder_of(out, f"raf{raf}-seed{s}"))[-1] for s in (1, 2)]
        means[raf] = sum(row["validation_accuracy"] for row in last) / 2
    (group,) = result.groups
    got = {row["raf"]: row["validation_accuracy"] for row in group.selection["candidates"]}
    assert got == pytest.approx(means)
    raf = group.selection["raf"]
    assert means[raf] == max(means.values())
    assert open_run(folder_of(out, "phase_1-seed1")).config.auxiliary.raf == raf
    rates = [r["raf"] for r in result.rows if r["arm"] in ("phase_1", "scaled_rate")]
    assert rates == [raf] * 4


def test_test_images_are_read_after_the_selection(swept):
    out, _ = swept
    selected = (out / "tiny-digits" / "selection.json").stat().st_mtime_ns
    for name in NAMES:
        assert (folder_of(out, name) / "DONE.json").stat().st_mtime_ns > selected
        assert sorted(p.name for p in (folder_of(out, name) / "checkpoints").iterdir()) == [
            "epoch_0008"
        ]


def test_differences_are_paired_with_the_baseline_and_adjusted_over_all_arms(swept):
    _, result = swept
    (group,) = result.groups
    values = {arm: [r["test_accuracy"] for r in group.rows if r["arm"] == arm] for arm in ARMS}
    expected = [paired_comparison(values["baseline"], values[arm]) for arm in ARMS[1:]]
    assert [c["arm"] for c in group.comparisons] == list(ARMS[1:])
    got = [c["mean_difference"] for c in group.comparisons]
    assert got == pytest.approx([e.mean_difference for e in expected])
    adjusted = holm([e.p_value for e in expected])
    for comparison, p in zip(group.comparisons, adjusted, strict=True):
        assert comparison["p_holm"] == (None if math.isnan(p) else pytest.approx(p))
    over = {c["arm"]: c["mean_difference"] for c in group.over_controls}
    mean = {arm: sum(v) / 2 for arm, v in values.items()}
    assert over == pytest.approx(
        {arm: mean[group.selected] - mean[arm] for arm in ("phase_1", "scaled_rate")}
    )


def test_pandas_reads_the_rows_from_csv_and_parquet(swept, grid, tmp_path):
    out, result = swept
    table = pd.read_csv(out / "sweep.csv")
    assert table["test_accuracy"].tolist()[1:] == [r["test_accuracy"] for r in result.rows[1:]]
    assert (table["role"].value_counts()["ral"], len(table)) == (4, 11)
    from fmce.fmce_net_pp.sweep.results import write_rows

    pd.testing.assert_frame_equal(
        pd.read_parquet(write_rows(result.rows, tmp_path, "parquet"))[["arm", "raf", "test_loss"]],
        table[["arm", "raf", "test_loss"]],
    )


def test_a_second_call_trains_nothing(swept, grid):
    out, result = swept
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    assert once(grid, out) == result
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")} == before
    assert read_record(out / "sweep.json") == result.to_dict()


def test_a_sweep_of_an_earlier_version_is_taken_up(swept, grid, tmp_path):
    out, result = swept
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    without(copy / "config.yaml", "oracle_split", "vary", "selection_seed", "same_seed")
    for file in copy.glob("*/runs/*/config.yaml"):
        without(file, *NEWER)
    assert sweep_status(copy)["counts"] == {"done": 11}
    assert once(grid, copy).rows == result.rows


def test_the_report_of_the_oracle_takes_a_group_as_its_comparison(swept, finished_run, tmp_path):
    from fmce.report.run_page import report_page

    out, result = swept
    page = report_page(finished_run.path, out / "tiny-digits")
    (group,) = result.groups
    verdict = next(c["verdict"] for c in group.comparisons if c["arm"] == group.selected)
    assert verdict in page


def kill_in_the_middle(out, name, seen):
    """Kill the process that trains a run once it has an epoch, and note what the status says."""
    folder, end = folder_of(out, name), time.monotonic() + 120
    while time.monotonic() < end:
        state = read_state(folder)
        if state.get("state") == "running" and read_metrics(folder):
            seen.append(sweep_status(out))
            os.kill(state["pid"], signal.SIGKILL)
            seen.append(len(read_metrics(folder)))
            return
        time.sleep(0.002)


@pytest.fixture(scope="module")
def disturbed(grid, tmp_path_factory):
    """A sweep with a folder that no training may use, and a worker killed in the middle of another."""
    out = tmp_path_factory.mktemp("disturbed") / "out"
    with lock_run(out, to_yaml(grid)):
        folder_of(out, "raf0.9-seed2").mkdir(parents=True)
    (folder_of(out, "raf0.9-seed2") / "notes.txt").write_text("no run's file")
    seen = []
    killer = threading.Thread(target=kill_in_the_middle, args=(out, "baseline-seed1", seen))
    killer.start()
    result = once(grid, out, leave_out_failed=True)
    killer.join()
    return out, result, seen


def test_a_failed_training_is_retried_then_reported_and_the_others_finish(disturbed):
    out, result, _ = disturbed
    assert list(result.failed) == ["tiny-digits/runs/raf0.9-seed2"]
    assert "holds 'notes.txt'; choose an empty or new folder" in result.failed.popitem()[1]
    assert read_state(folder_of(out, "raf0.9-seed2"))["attempt"] == 2
    status = {row["folder"].split("/")[-1]: row["status"] for row in result.rows[1:]}
    assert status == dict.fromkeys(NAMES, "done") | {"raf0.9-seed2": "failed"}
    (group,) = result.groups
    assert group.selected == "raf0.5"
    assert group.selection["candidates"][0]["left_out"] == "not trained at seeds [2]"
    assert group.left_out == ["raf0.9 (not trained at seeds [2])"]


def test_a_killed_worker_costs_an_epoch_and_changes_no_number(disturbed, swept):
    out, result, (_, epochs_before) = disturbed
    assert 1 <= epochs_before < 8
    assert read_state(folder_of(out, "baseline-seed1"))["attempt"] == 2
    of = {row["folder"]: row for row in numbers(swept[1])}
    for row in numbers(result):
        if row["status"] == "done" and row["role"] in ("baseline", "ral"):
            assert row == of[row["folder"]]


def test_the_status_is_live_while_the_sweep_runs(disturbed, capsys):
    out, _, (live, _) = disturbed
    assert live["active"]
    runs = {entry["name"].split("/")[-1]: entry for entry in live["runs"]}
    assert runs["baseline-seed1"]["status"] == "running"
    assert re.match(r"epoch [1-7]/8, validation \d", runs["baseline-seed1"]["progress"])
    assert runs["phase_1-seed1"]["status"] == "waiting"
    after = sweep_status(out)
    assert not after["active"]
    assert after["counts"] == {"done": 10, "failed": 1}
    assert main(["sweep", "--status", str(out)]) is None
    said = capsys.readouterr().out
    assert "10 done, 1 failed; no process works on it" in said
    assert "RAF 0.5 selected" in said
    assert "raf0.9 (not trained at seeds [2]) was left out of the selection" in said


def test_the_same_command_does_what_failed_and_keeps_the_selection(disturbed, grid, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(disturbed[0], out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    (folder_of(out, "raf0.9-seed2") / "notes.txt").unlink()
    result = once(grid, out)
    assert result.failed == {}
    assert {row["status"] for row in result.rows} == {"done"}
    assert result.groups[0].selected == "raf0.5"
    assert {p: p.stat().st_mtime_ns for p in before} == before


@pytest.fixture
def copied(swept, tmp_path):
    """Folder of a whole sweep that a test may change."""
    shutil.copytree(swept[0], tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("state", ["running", "failed"])
def test_a_finished_training_is_done_whatever_was_noted_before(swept, grid, copied, state):
    """A kill may fall between the end of a training and the note that it ended."""
    for folder in (folder_of(copied, "raf0.9-seed2"), copied / "tiny-digits"):
        note_state(folder, state=state, attempt=1, error="no space left", host="h", since="now")
    assert sweep_status(copied)["counts"] == {"done": 11}
    assert sweep_status(copied)["notes"] == sweep_status(swept[0])["notes"]
    result = once(grid, copied)
    assert result.failed == {}
    assert numbers(result) == numbers(swept[1])


def test_test_images_that_cannot_be_read_are_reported(grid, copied):
    folder = folder_of(copied, "raf0.9-seed1")
    done = read_record(folder / "DONE.json")
    del done["test_accuracy"]
    (folder / "DONE.json").write_text(json.dumps(done))
    shutil.rmtree(folder / "checkpoints")
    result = once(grid, copied, retries=0)
    assert list(result.failed) == ["tiny-digits/test images"]
    assert sweep_status(copied)["counts"] == {"done": 10, "trained": 1}
    assert "reading test images failed" in sweep_status(copied)["notes"][-1]


def test_no_raf_is_selected_while_a_candidate_lacks_a_training(grid, copied, capsys):
    (group,) = make_groups(grid, copied)
    (group.folder / "selection.json").unlink()
    done = folder_of(copied, "raf0.9-seed2") / "DONE.json"
    done.rename(done.with_name("kept"))
    note_state(done.parent, state="failed", attempt=2, error="out of memory")
    assert select(group) is None
    assert not (group.folder / "selection.json").exists()
    assert "because of raf0.9 (not trained at seeds [2])" in sweep_status(copied)["notes"][0]
    show_sweep(sweep_result([group], copied))
    said = " ".join(capsys.readouterr().out.split())
    assert "no RAF is selected, because of raf0.9 (not trained at seeds [2])" in said
    assert "(1 of 2 seeds)" in said
    assert select(group, leave_out_failed=True).arm == "raf0.5"
    (group.folder / "selection.json").unlink()
    done.with_name("kept").rename(done)
    assert select(group).raf == read_selection(group)["raf"]
    assert [c.get("left_out") for c in read_selection(group)["candidates"]] == [None, None]


def test_a_dry_run_lists_every_training_and_trains_nothing(grid, tmp_path, capsys):
    estimate = sweep_estimate(replace(grid, oracles=()), tmp_path / "no")
    show_estimate(estimate)
    assert not (tmp_path / "no").exists()
    assert [entry["status"] for entry in estimate["runs"]] == ["waiting"] * 11
    assert {entry["seconds"] for entry in estimate["runs"]} == {None}
    assert (estimate["seconds"], estimate["unknown"]) == (0, 11)
    printed = capsys.readouterr().out
    assert "11 trainings: time unknown until the first epoch of their kind is finished" in printed
    assert "0 s" not in printed


def test_a_dry_run_counts_what_is_done_and_learns_from_it(grid, copied):
    gone = folder_of(copied, "scaled_rate-seed2")
    shutil.rmtree(gone)
    entries = {e["name"].split("/")[-1]: e for e in sweep_estimate(grid, copied)["runs"]}
    plain = ("baseline-seed1", "baseline-seed2", "scaled_rate-seed1")
    times = [r["time_seconds"] for n in plain for r in read_metrics(folder_of(copied, n))]
    times += [r["time_seconds"] for r in read_metrics(Path(grid.oracles[0]))]
    assert entries[gone.name]["seconds"] == pytest.approx(8 * statistics.median(times))
    assert entries[gone.name]["epochs"] == 8
    assert sum(e["seconds"] > 0 for e in entries.values()) == 1


def test_a_dry_run_counts_the_epochs_that_a_stopped_training_lacks(grid, copied):
    folder = folder_of(copied, "baseline-seed1")
    (folder / "DONE.json").unlink()
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:5]))
    shutil.rmtree(folder / "checkpoints")
    (entry,) = (e for e in sweep_estimate(grid, copied)["runs"] if e["seconds"])
    plain = [Path(grid.oracles[0])]
    plain += [
        folder_of(copied, f"{a}-seed{s}") for a in ("baseline", "scaled_rate") for s in (1, 2)
    ]
    times = [row["time_seconds"] for run in plain for row in read_metrics(run)]
    assert entry["name"] == "tiny-digits/runs/baseline-seed1"
    assert entry["seconds"] == pytest.approx(3 * statistics.median(times))


def test_a_dry_run_counts_each_variant_by_its_own_epochs(grid, tmp_path):
    vary = {"auxiliary.oracle_every": [1, 4]}
    config = replace(grid, rafs=(0.9, 0.5), vary=vary, controls=("phase_1", "feature_matching"))
    for name, seconds in (("raf0.9-oracle_every=1", 3.0), ("raf0.9-oracle_every=4", 1.5)):
        folder = folder_of(tmp_path, f"{name}-seed1")
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text(f'{{"epoch": 1, "time_seconds": {seconds}}}\n')
    entries = {e["name"].split("/")[-1]: e for e in sweep_estimate(config, tmp_path)["runs"]}
    assert entries["raf0.9-oracle_every=1-seed1"]["seconds"] == 7 * 3
    assert entries["raf0.5-oracle_every=1-seed2"]["seconds"] == 8 * 3
    assert entries["raf0.5-oracle_every=4-seed2"]["seconds"] == 8 * 1.5
    assert entries["phase_1-seed1"]["seconds"] == 8 * 3  # the first variant before the selection
    assert entries["feature_matching-seed1"]["seconds"] is None


def test_the_oracle_is_trained_first_where_none_is_given(finished_run, tmp_path, capsys):
    """By the command, with one seed pair and no controls: oracle, FMCE-Net, four arms, exit code 0."""
    config = finished_run.config
    file = tmp_path / "grid.yaml"
    file.write_text("rafs: [0.9]\nseeds: [1, 2]\ncontrols: []\nlength: full\n")
    arguments = [
        "sweep",
        "--out",
        tmp_path / "out",
        "--config",
        file,
        "--raf",
        "0.8",
        "--jobs",
        "1",
    ]
    for setting in (*SETTINGS, "train.epochs=4"):
        arguments += ["--set", setting]
    assert main([str(a) for a in arguments]) is None
    with open(tmp_path / "out" / "sweep.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["role"] for row in rows] == ["oracle", "baseline", "baseline", "ral", "ral"]
    assert {row["status"] for row in rows} == {"done"}
    oracle = open_run(tmp_path / "out" / "tiny-digits" / "oracle")
    assert oracle.config.train.epochs == 4
    assert oracle.config.data == config.data
    assert oracle.fmce_net("map").num_phases == 3
    assert "raf0.8 against the baseline" in capsys.readouterr().out


def test_a_failed_oracle_leaves_its_arms_waiting_and_exit_code_1(tmp_path, capsys):
    arguments = ["sweep", "--out", tmp_path / "out", "--retries", "0", "--jobs", "1"]
    settings = [s for s in SETTINGS if "threshold" not in s and "if_not" not in s]
    for setting in (*settings, "train.epochs=3", "phases.threshold=50"):
        arguments += ["--set", setting]
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    assert end.value.code == 1
    said = capsys.readouterr().out
    assert re.search(
        r"failed: tiny-digits/oracle: the oracle's run has no phases: .*num_phases", said
    )
    status = sweep_status(tmp_path / "out")
    assert status["counts"] == {"failed": 1, "waiting": 3 * (3 + len(CONTROLS))}


def test_the_status_of_a_run_that_is_no_sweep_is_refused(finished_run):
    with pytest.raises(FileNotFoundError, match="holds no sweep; begin one with"):
        sweep_status(finished_run.path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--raf 0.9", "needs --out FOLDER, or --status FOLDER"),
        ("--status OUT", "holds no sweep; begin one with"),
        ("--out OUT --jobs 0", "at least 1 training at a time, got 0"),
        ("--out OUT --retries -1", "retries must be 0 or more"),
        ("--out OUT --address x:1", "add --engine ray"),
        ("--out OUT --engine ray --jobs 2", "--cpus and --gpus decide"),
        ("--out OUT --vary train.batch_size", "--vary: expected section.field=A,B"),
        ("--out OUT --controls phase_2", "expected 'random_oracle', 'phase_1'"),
        ("--out OUT --data digit", "did you mean 'digits'"),
        ("--out OUT --vary auxiliary.evry=1", "unknown config key"),
        ("--out OUT --seeds 0 1", "seed 0 is the own seed of the oracle"),
        (
            "--out OUT --set auxiliary.target_phase=11",
            "must be in 1…10, the oracle's phases, got 11",
        ),
    ],
)
def test_a_mistake_in_the_grid_is_one_line(arguments, message, tmp_path, capsys):
    words = [str(tmp_path / "out") if word == "OUT" else word for word in arguments.split()]
    with pytest.raises(SystemExit) as end:
        main(["sweep", *words])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_status_can_be_read_whatever_became_of_the_oracle(swept, own_run, tmp_path):
    copied = tmp_path / "out"
    shutil.copytree(swept[0], copied)
    config = from_yaml(SweepConfig, copied / "config.yaml")

    def with_oracle(path, *settings):
        changed = replace(config, oracles=(str(path),), settings=settings)
        (copied / "config.yaml").write_text(to_yaml(changed))
        return sweep_status(copied)

    phase_too_many = with_oracle(own_run.path, "auxiliary.target_phase=99")
    assert phase_too_many["counts"] == {"done": 11}
    gone = with_oracle(tmp_path / "gone")
    assert gone["counts"] == {"waiting": 1, "done": 10}
    assert f"oracle {tmp_path / 'gone'} is gone" in gone["notes"][0]


class InOrder:
    """Workers whose jobs end in the order given, without being done."""

    def __init__(self, ends):
        self.ends, self.open, self.seen = list(ends), [], []

    def submit(self, name, _function, *_args):
        self.open.append(name)

    def wait(self):
        self.seen.append(sorted(self.open))
        self.open.remove(self.ends[0])
        return Finished(self.ends.pop(0))


@pytest.mark.parametrize(
    ("ends", "open_each_time"),
    [
        # The arm begins when the candidate ended, the test images when both others did.
        ("candidate arm baseline test", ["baseline candidate", "arm baseline", "baseline", "test"]),
        ("candidate baseline arm test", ["baseline candidate", "arm baseline", "arm", "test"]),
        ("baseline candidate arm test", ["baseline candidate", "candidate", "arm", "test"]),
    ],
)
def test_arms_wait_for_the_selection_and_test_images_for_all(ends, open_each_time, tmp_path):
    (tmp_path / "config.yaml").touch()

    def wave(*names):
        return [Task(n, tmp_path / n, print, (), may_lag=n == "baseline") for n in names]

    waves = [wave("candidate", "baseline"), wave("arm"), wave("test")]
    workers = InOrder(ends.split())
    progress = Progress("trainings", 4)
    run_all({"group": iter(waves)}, workers, 0, progress, tmp_path)
    assert [" ".join(names) for names in workers.seen] == open_each_time
