"""A training in a folder resumes after any stop as if there had been none."""

import json
import math

import pytest
import torch
from torch import nn

from fmce.engine.loop import StepOutput, TrainingStoppedError
from fmce.engine.runtime import Runtime
from fmce.runs.checkpoint import checkpoint_epochs, checkpoint_path, load_weights
from fmce.runs.log import mark_done, read_done, read_metrics
from fmce.runs.resume import Optimization, finished, fit_resumable

EPOCHS = 6


class Random:
    def __len__(self):
        return 2

    def epoch(self, _epoch):
        for _ in range(2):
            yield torch.randn(4, 3, 6, 6)


class StopError(Exception):
    """Stands for whatever ends a process between two epochs' records."""


def train(folder, *, stop_after=None, measure=lambda _r, _rows: {}, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 1))

    def step(batch):
        return StepOutput((model(batch) - 1).square().mean(), len(batch), {})

    def measured(result, rows):
        if result.epoch == stop_after:
            raise StopError
        return measure(result, rows)

    fit_resumable(
        folder,
        model,
        step,
        Random(),
        Optimization(EPOCHS, learning_rate=0.01, seed=1),
        Runtime(torch.device("cpu")),
        measure=measured,
        **options,
    )


def end_of(folder):
    rows = [{k: v for k, v in r.items() if k != "time_seconds"} for r in read_metrics(folder)]
    return rows, load_weights(checkpoint_path(folder / "checkpoints", EPOCHS))


def assert_same_end(one, other):
    (rows, weights), (other_rows, other_weights) = end_of(one), end_of(other)
    assert rows == other_rows
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
    assert all(torch.equal(weights[k], other_weights[k]) for k in weights)


@pytest.fixture
def uninterrupted(tmp_path):
    (tmp_path / "whole").mkdir()
    train(tmp_path / "whole")
    return tmp_path / "whole"


@pytest.fixture
def stopped(tmp_path):
    """A folder whose training ended after epoch 4 was recorded."""
    folder = tmp_path / "stopped"
    folder.mkdir()
    with pytest.raises(StopError):
        train(folder, stop_after=5)
    return folder


def test_a_stopped_training_ends_as_an_uninterrupted_one(uninterrupted, stopped):
    assert checkpoint_epochs(stopped / "checkpoints") == [1, 2, 3, 4]
    train(stopped)
    assert_same_end(stopped, uninterrupted)


def test_with_the_newest_checkpoints_alone_it_ends_alike(uninterrupted, tmp_path):
    folder = tmp_path / "newest"
    folder.mkdir()
    with pytest.raises(StopError):
        train(folder, stop_after=5, newest_only=True)
    assert checkpoint_epochs(folder / "checkpoints") == [3, 4]
    file = checkpoint_path(folder / "checkpoints", 4) / "state.pt"
    file.write_bytes(file.read_bytes()[:-8])  # what the second is kept for
    train(folder, newest_only=True)
    assert checkpoint_epochs(folder / "checkpoints") == [EPOCHS - 1, EPOCHS]
    assert_same_end(folder, uninterrupted)


def test_a_truncated_newest_checkpoint_falls_back_and_says_so(uninterrupted, stopped, caplog):
    file = checkpoint_path(stopped / "checkpoints", 4) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    train(stopped)
    assert "skipping a damaged checkpoint, epoch 4" in caplog.text
    assert "model.safetensors is damaged" in caplog.text
    assert_same_end(stopped, uninterrupted)


def test_without_a_whole_checkpoint_it_starts_again_and_says_so(uninterrupted, stopped, caplog):
    for epoch in (3, 4):
        (checkpoint_path(stopped / "checkpoints", epoch) / "state.pt").write_bytes(b"")
    with pytest.raises(StopError):
        train(stopped, stop_after=3)
    assert "starting again" in caplog.text
    caplog.clear()
    aside = (
        stopped / "checkpoints.damaged"
    )  # nothing is lost: the weights of old epochs may be whole
    assert {p.name for p in aside.iterdir()} == {f"epoch_{e:04d}" for e in (1, 2, 3, 4)}
    train(stopped)  # goes on after epoch 2: the damaged ones do not count as the newest
    assert "WARNING" not in caplog.text
    assert_same_end(stopped, uninterrupted)


def test_a_line_that_a_kill_kept_from_being_written_is_restored(uninterrupted, stopped):
    path = stopped / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]) + lines[3][:20])
    train(stopped)
    assert_same_end(stopped, uninterrupted)


def test_a_damaged_old_note_does_not_stop_a_resume(uninterrupted, stopped):
    (checkpoint_path(stopped / "checkpoints", 1) / "meta.json").write_text('{"epo')
    train(stopped)
    assert_same_end(stopped, uninterrupted)


def test_lost_lines_are_rebuilt_from_the_checkpoints(uninterrupted, stopped):
    (stopped / "metrics.jsonl").unlink()
    train(stopped)
    assert_same_end(stopped, uninterrupted)


def test_each_line_says_what_its_checkpoint_says(stopped):
    for row in read_metrics(stopped):
        meta = checkpoint_path(stopped / "checkpoints", row["epoch"]) / "meta.json"
        assert json.loads(meta.read_text())["metrics"] == row


def test_earlier_lines_are_given_to_the_measure_also_after_a_resume(stopped):
    seen = []
    train(stopped, measure=lambda r, rows: seen.append((r.epoch, len(rows))) or {"extra": 1})
    assert seen == [(5, 4), (6, 5)]
    assert [row.get("extra") for row in read_metrics(stopped)] == [None] * 4 + [1, 1]


def test_weights_that_the_last_step_spoilt_are_not_kept(tmp_path):
    def measure(result, _rows):
        return {"validation_loss": math.inf if result.epoch == 3 else 0.5}

    with pytest.raises(TrainingStoppedError, match="validation_loss became inf after epoch 3"):
        train(tmp_path, measure=measure)
    assert checkpoint_epochs(tmp_path / "checkpoints") == [1, 2]
    assert len(read_metrics(tmp_path)) == 2


def test_a_finished_folder_is_not_trained_further(uninterrupted):
    before = (uninterrupted / "checkpoints" / "epoch_0006" / "meta.json").stat().st_mtime_ns
    train(uninterrupted, stop_after=1)
    after = (uninterrupted / "checkpoints" / "epoch_0006" / "meta.json").stat().st_mtime_ns
    assert after == before


def test_a_training_is_finished_while_the_weights_of_its_end_are_intact(tmp_path):
    train(tmp_path)
    assert finished(tmp_path) is None
    mark_done(tmp_path, {"epochs": EPOCHS})
    assert finished(tmp_path) == {"epochs": EPOCHS}
    weights = checkpoint_path(tmp_path / "checkpoints", EPOCHS) / "model.safetensors"
    expected = weights.read_bytes()
    weights.write_bytes(expected[:-1])
    assert finished(tmp_path) is None
    assert read_done(tmp_path) is None
    train(tmp_path)
    assert weights.read_bytes() == expected
