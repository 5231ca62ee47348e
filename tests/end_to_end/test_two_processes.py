"""Two processes under torchrun against one: the same curves, one run folder, and what a lost rank leaves."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from fmce.digests import read_record
from fmce.distillation.distill import distill
from fmce.engine.runtime import make_runtime
from fmce.maturity.train_classifier import train_classifier
from fmce.runs.checkpoint import load_checkpoint
from fmce.runs.log import read_metrics
from fmce.runs.run import open_run
from tests.end_to_end.launch import ended, rank_process, torchrun, wait_for
from tests.end_to_end.two_ranks import (
    EPOCHS,
    config,
    digits_in_double,
    fit_in_double,
    matching,
    train_net_counting,
    trainings,
)

# float32 sums of two halves round otherwise than one sum, and a training carries that on.
CLOSE = 2e-3
NAMES = ("plain", "ral", "feature_matching")


class StopError(Exception):
    """Ends a training in the middle."""


def begin_alone(folder):
    """Train two epochs in this process and leave the run unfinished."""

    def stop(*arguments):
        if arguments[1] == 2:
            raise StopError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fmce.runs.resume.append_metrics", lambda *a: stop(a, a[1]["epoch"]))
        with pytest.raises(StopError):
            train_classifier(config(), folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def said(folder, finished_run):
    """Train everything of two_ranks.py in two processes; return what they printed."""
    begin_alone(folder / "begun")
    shutil.copytree(finished_run.path, folder / "net")
    process = torchrun(Path(__file__).with_name("two_ranks.py"), folder, finished_run.path)
    out, error = ended(process)
    assert process.returncode == 0, error
    return out, error


@pytest.fixture(scope="module")
def alone(folder, finished_run):
    """The same trainings in this process."""
    runtime = make_runtime("cpu")
    configs = trainings(finished_run.path)
    return {n: train_classifier(configs[n], folder / "alone" / n, runtime=runtime) for n in NAMES}


def curve(run, name):
    return [row[name] for row in run.curve]


@pytest.mark.parametrize(
    ("what", "trained_alone"), [("rows", fit_in_double), ("digits", digits_in_double)]
)
def test_in_float64_two_processes_agree_with_one_to_twelve_digits(
    what, trained_alone, folder, said
):
    expected, weights = trained_alone(make_runtime("cpu"))
    for rank in (0, 1):
        losses, found = torch.load(folder / f"double{rank}.pt")[what]
        for ours, theirs in zip(losses, expected, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-12)
        for name, values in weights.items():  # running statistics of batch norm among them
            torch.testing.assert_close(found[name], values, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_give_the_curve_of_one(name, folder, said, alone):
    two, one = open_run(folder / name), alone[name]
    assert [row.keys() for row in two.curve] == [row.keys() for row in one.curve]
    for field in ("loss", "validation_loss"):
        assert curve(two, field) == pytest.approx(curve(one, field), rel=CLOSE)
    for field in ("accuracy", "validation_accuracy"):
        assert curve(two, field) == pytest.approx(curve(one, field), abs=0.02)
    assert two.done.keys() == one.done.keys()
    assert two.config == one.config


def test_two_processes_give_the_curve_and_measures_of_one_fmce_net(folder, said, finished_run):
    shutil.copytree(finished_run.path, folder / "net-alone")
    maps = train_net_counting(folder / "net-alone", make_runtime("cpu"))
    assert maps == 2 * 3 * 943
    shares = [json.loads((folder / f"maps{rank}.json").read_text()) for rank in (0, 1)]
    assert sum(shares) == maps
    assert abs(shares[0] - shares[1]) <= 2  # each process computes its own part alone
    (two, rows), (one, expected) = (
        (read_record(path / "metrics.json"), read_metrics(path))
        for path in (
            open_run(folder / name).fmce_net_folder("image", 0.25) for name in ("net", "net-alone")
        )
    )
    assert [r["loss"] for r in rows] == pytest.approx([r["loss"] for r in expected], rel=CLOSE)
    assert two.keys() == one.keys()
    for part in ("held_out", "test_images"):
        assert two[part]["accuracy"] == pytest.approx(one[part]["accuracy"], abs=0.02)
        counts = [torch.tensor(m[part]["confusion"]).sum(1).tolist() for m in (two, one)]
        assert counts[0] == counts[1]


@pytest.fixture(scope="module")
def matched_alone(folder):
    """The experiments of function matching in this process, one arm after another."""
    with pytest.MonkeyPatch.context() as patch:
        run = "fmce.distillation.distill.run_jobs"
        patch.setattr(run, lambda train_arm, jobs, *_: [train_arm(*j) for j in jobs.values()])
        for name, config in matching().items():
            distill(config, folder / "matched-alone" / name)
    return folder / "matched-alone"


@pytest.mark.parametrize("name", matching())
def test_two_processes_give_the_curves_and_scores_of_one_in_function_matching(
    name, folder, said, matched_alone
):
    two, one = folder / "matched" / name, matched_alone / name
    runs = sorted(p.parent.relative_to(one) for p in one.rglob("metrics.jsonl"))
    assert len(runs) == 1 + len(matching()[name].arms)
    for run in runs:
        rows, expected = read_metrics(two / run), read_metrics(one / run)
        assert [row.keys() for row in rows] == [row.keys() for row in expected]
        for field in {k for k in expected[0] if "loss" in k or k == "kl_to_teacher"}:
            wanted = [row[field] for row in expected]
            assert [row[field] for row in rows] == pytest.approx(wanted, rel=CLOSE), (run, field)
    ours, theirs = (read_record(out / "distill.json") for out in (two, one))
    name = theirs["score_name"]
    assert ours["teacher"][name] == pytest.approx(theirs["teacher"][name], abs=0.02)
    for row, wanted in zip(ours["rows"], theirs["rows"], strict=True):
        assert (row["arm"], row["seed"]) == (wanted["arm"], wanted["seed"])
        assert row["score"] == pytest.approx(wanted["score"], abs=0.02)
        for pool, alike in wanted["agreement"].items():
            assert row["agreement"][pool]["positions"] == alike["positions"]


def test_only_the_first_rank_prints_and_a_finished_run_says_so(said):
    out, error = said
    assert out.count("data digits:") == 5
    assert out.count("is finished already") == 1
    assert "Traceback" not in error


def test_two_processes_go_on_where_one_stopped(folder, said, alone):
    run = open_run(folder / "begun")
    assert "resuming" in said[0]
    assert [row["epoch"] for row in run.curve] == run.epochs == list(range(1, EPOCHS + 1))
    assert curve(run, "loss") == pytest.approx(curve(alone["plain"], "loss"), rel=CLOSE)
    assert curve(run, "loss")[:2] == curve(alone["plain"], "loss")[:2]


def command(folder):
    words = ["-m", "fmce", "train", "--out", folder, "--device", "cpu"]
    return words + [w for s in (*LONG, "train.seed=1") for w in ("--set", s)]


LONG_EPOCHS = 16
LONG = (
    *("data.image_size=8", "data.shift=1", "model.options={width: 4}", "train.batch_size=200"),
    f"train.epochs={LONG_EPOCHS}",
)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A training of two processes of which rank 1 was killed: its folder, what was said, how long it took."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    process = torchrun(*command(folder))
    wait_for(folder / "checkpoints" / "epoch_0003", process)
    victim = rank_process(process, 1)
    os.kill(victim, signal.SIGKILL)
    started = time.monotonic()
    _, error = ended(process)
    return folder, victim, error, process.returncode, time.monotonic() - started


def test_a_killed_rank_ends_the_job_soon_with_a_message(killed):
    _, victim, error, code, seconds = killed
    assert code != 0
    assert seconds < 30
    messages = [line for line in error.splitlines() if line.startswith("fmce: ")]
    assert len(messages) == 1, error
    assert messages[0].startswith(f"fmce: rank 1 (process {victim} on ")
    assert "rerun the command to resume" in messages[0]


def test_the_same_command_goes_on_and_ends_as_one_process_does(killed, tmp_path):
    folder = killed[0]
    before = max(int(p.name[-4:]) for p in (folder / "checkpoints").glob("epoch_*"))
    assert 3 <= before < LONG_EPOCHS
    process = torchrun(*command(folder))
    out, error = ended(process)
    assert process.returncode == 0, error
    assert f"resuming {folder} after epoch {before}" in out
    from fmce.config.io import with_settings
    from fmce.config.run import RunConfig

    alone = train_classifier(with_settings(RunConfig(), [*LONG, "train.seed=1"]), tmp_path / "run")
    run = open_run(folder)
    assert [row["epoch"] for row in run.curve] == list(range(1, LONG_EPOCHS + 1))
    assert curve(run, "loss")[:5] == pytest.approx(curve(alone, "loss")[:5], rel=CLOSE)
    assert run.done["test_accuracy"] == pytest.approx(alone.done["test_accuracy"], abs=0.02)
    assert load_checkpoint(
        folder / "checkpoints" / f"epoch_{LONG_EPOCHS:04d}", with_state=True
    ).state


def test_a_command_of_one_process_is_refused_under_torchrun(finished_run, fmce_command):
    started = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    result = fmce_command("evaluate", finished_run.path, env={**os.environ, **started})
    assert result.returncode == 2
    assert "fmce evaluate runs in one process, but torchrun started 2" in result.stderr


SMALLEST = (
    *("data.train_images=200", "data.image_size=8", "data.shift=1", "train.epochs=5"),
    *("model.options={width: 2}", "phases.num_phases=3", "phases.if_not_converged=last"),
    *("phases.threshold=0.01", "phases.smoothing=none", "train.learning_rate=1e-2"),
    *("phases.relative_threshold=null", "runtime.channels_last=false"),
)


@pytest.mark.skipif("FMCE_DATA" not in os.environ, reason="needs FMCE_DATA with MNIST")
def test_two_processes_make_a_table_each_row_once(tmp_path):
    words = [
        "-m",
        "experiments.fmce_table2",
        "--small",
        "--data",
        "mnist",
        "--model",
        "tiny",
        "--splits",
        "map",
        "run",
    ]
    words += ["--fmce-net-epochs", "1", "--device", "cpu", "--out", tmp_path / "runs"]
    words += ["--results", tmp_path / "rows.jsonl"]
    words += [word for setting in SMALLEST for word in ("--set", setting)]
    process = torchrun(*words)
    out, error = ended(process)
    assert process.returncode == 0, error
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["what"] for row in rows] == ["FMCE-Net, split map", "FMCE-Net, split run"]
    assert 0 <= rows[1]["result"]["map_split_on_other_run"]["accuracy"] <= 1
    assert out.count("FMCE, Table II: ours beside the paper's") == 1
