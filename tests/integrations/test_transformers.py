"""The callback in real trainings of Hugging Face's Trainer."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fmce import module_table, open_run
from fmce.runs.log import read_metrics
from tests.recorder.loops import Small, digits

transformers = pytest.importorskip("transformers")
from fmce.integrations.transformers import TrainerMaturityCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Small()
        self.net.head[1].p = 0.0

    def forward(self, pixels, labels=None):
        logits = self.net(pixels)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


class Digits(torch.utils.data.Dataset):
    def __len__(self):
        return 400

    def __getitem__(self, index):
        images, targets = digits()
        return {"pixels": images[index], "labels": targets[index]}


class Kill(transformers.TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def train(folder, epochs, *, resume=None, kill=None, stop=None, **options):
    torch.manual_seed(0)
    options = {"save_strategy": "epoch", "eval_strategy": "epoch", "logging_steps": 3} | options
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "mine"),
        num_train_epochs=epochs,
        per_device_train_batch_size=100,
        per_device_eval_batch_size=200,
        report_to="none",
        use_cpu=True,
        seed=0,
        learning_rate=3e-3,
        lr_scheduler_type="constant",
        disable_tqdm=True,
        **options,
    )
    callback = TrainerMaturityCallback(
        folder / "run",
        ["net.stem", "net.late", "net.head"],
        {"pixels": digits()[0][:32]},
        stop=stop,
    )
    trainer = transformers.Trainer(
        Model(),
        arguments,
        train_dataset=Digits(),
        eval_dataset=Digits(),
        callbacks=[callback, *([] if kill is None else [Kill(kill)])],
    )
    trainer.train(resume_from_checkpoint=resume)
    return callback


def rows_of(folder):
    return [
        {k: v for k, v in row.items() if k != "time_seconds"}
        for row in read_metrics(folder / "run")
    ]


def test_a_training_is_recorded(tmp_path):
    callback = train(tmp_path, 3)
    run = open_run(tmp_path / "run")
    assert run.done["epochs"] == 3
    assert [row["epoch"] for row in run.curve] == [1, 2, 3]
    assert run.curve[-1]["loss"] < run.curve[0]["loss"]
    assert run.curve[-1]["validation_loss"] > 0
    assert run.curve[-1]["learning_rate"] == 3e-3
    assert run.curve[-1]["modules"]["net.late"]["gradient"] == "some"
    assert not callback.status.alarms
    assert len(module_table(run.path).rows) == 3


@pytest.mark.parametrize(
    "options", [{}, {"logging_steps": 1}, {"eval_strategy": "no", "logging_steps": 500}]
)
def test_the_loss_is_the_mean_over_the_epochs_steps(tmp_path, options):
    """Whenever the trainer logs: the mean over an epoch's 4 steps is the same."""
    train(tmp_path / "a", 2, **options)
    train(tmp_path / "b", 2, logging_steps=4)
    ours, theirs = ([row["loss"] for row in read_metrics(tmp_path / n / "run")] for n in "ab")
    assert ours == pytest.approx(theirs, rel=1e-6)


def test_killed_and_resumed_it_has_the_rows_of_an_undisturbed_training(tmp_path):
    whole = train(tmp_path / "whole", 5)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", 5, kill=14)
    again = train(tmp_path / "cut", 5, resume=str(tmp_path / "cut/mine/checkpoint-12"))
    assert rows_of(tmp_path / "cut") == rows_of(tmp_path / "whole")
    assert str(again.status) == str(whole.status)


def test_resumed_within_an_epoch(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 3, "logging_steps": 3}
    train(tmp_path / "whole", 3, **options)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", 3, kill=7, **options)
    train(tmp_path / "cut", 3, resume=str(tmp_path / "cut/mine/checkpoint-6"), **options)
    ours, theirs = (rows_of(tmp_path / n) for n in ("cut", "whole"))
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], rel=1e-6)
    assert [row["modules"]["net.late"]["fingerprint"] for row in ours] == [
        row["modules"]["net.late"]["fingerprint"] for row in theirs
    ]


def test_it_stops_a_training_at_rest(tmp_path, monkeypatch):
    from fmce.recorder.status import Status

    monkeypatch.setattr(Status, "at_rest", property(lambda self: self.epoch == 2))
    train(tmp_path, 9, stop="at_rest")
    assert len(read_metrics(tmp_path / "run")) == 2
