import pytest
import torch
from torch import nn

from fmce import Recorder, find_alarms
from tests.recorder.loops import Small, digits, made, recorded, train_epoch


def kinds(status):
    return {(alarm.module, alarm.kind) for alarm in status.alarms}


def from_epoch(start, action):
    return lambda epoch, model, optimizer: action(model, optimizer) if epoch == start else None


@torch.no_grad()
def halve(model, _optimizer):
    model.middle[0].weight[:8] = 0
    model.middle[0].bias[:8] = 0
    model.middle[0].weight.register_hook(lambda g: torch.cat([0 * g[:8], g[8:]]))


def freeze(model, _optimizer):
    model.middle.requires_grad_(False)
    for parameter in model.middle.parameters():
        parameter.grad = None


def cut(model, _optimizer):
    model.middle.register_forward_hook(lambda m, i, o: o.detach())


def slow(_model, optimizer):
    for group in optimizer.param_groups:
        group["lr"] = 0.0


@torch.no_grad()
def kill(model, _optimizer):
    model.middle[1].bias.fill_(-50.0)


@torch.no_grad()
def spoil(model, _optimizer):
    model.late[0].weight[0, 0, 0, 0] = float("nan")


@torch.no_grad()
def copy_channels(model, _optimizer):
    for tensor in (
        model.middle[0].weight,
        model.middle[0].bias,
        model.middle[1].weight,
        model.middle[1].bias,
    ):
        tensor[1] = tensor[0]


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (freeze, {("middle", "frozen"), ("middle", "statistics_move")}),
        (cut, {("stem", "no_gradient"), ("middle", "no_gradient")}),
        (slow, {(name, "learning_rate_zero") for name in ("stem", "middle", "late", "head")}),
        (kill, {("middle", "dead")}),
    ],
)
def test_an_injury_raises_its_alarm_on_its_module_since_its_epoch(tmp_path, action, expected):
    _, statuses = recorded(tmp_path, 4, before=from_epoch(3, action))
    assert not kinds(statuses[1])
    assert expected <= kinds(statuses[3])
    if action is not kill:  # what follows dead units gets no gradient either
        assert kinds(statuses[3]) == expected
    assert {alarm.since for alarm in statuses[3].alarms} == {3}


def test_a_gradient_left_on_frozen_weights(tmp_path):
    model, optimizer = made()
    recorder = Recorder(tmp_path, model, optimizer=optimizer)
    train_epoch(model, optimizer, recorder)
    model.middle.requires_grad_(False)
    assert kinds(recorder.end_epoch()) == {
        ("middle", "frozen"),
        ("middle", "gradient_left"),
        ("middle", "statistics_move"),
    }


def test_zeroed_filters_and_channels_that_repeat(tmp_path):
    _, statuses = recorded(tmp_path / "a", 1, before=from_epoch(1, halve))
    assert ("middle", "zero_filters") in kinds(statuses[-1])
    model, optimizer = made()
    recorder = Recorder(tmp_path / "b", model, optimizer=optimizer, probe=digits()[0][:64])
    train_epoch(model, optimizer, recorder)
    copy_channels(model, optimizer)
    model.middle[1].running_mean[1] = model.middle[1].running_mean[0]
    model.middle[1].running_var[1] = model.middle[1].running_var[0]
    assert kinds(recorder.end_epoch()) == {("middle", "repeated")}


def test_weights_that_are_not_finite(tmp_path):
    _, statuses = recorded(tmp_path, 3, before=from_epoch(3, spoil))
    found = kinds(statuses[-1])
    assert ("", "loss") in found
    assert ("late", "not_finite") in found
    assert statuses[-1].loss is None


def test_parameters_that_the_optimizer_lacks(tmp_path):
    torch.manual_seed(0)
    model = Small()
    parts = [*model.stem.parameters(), *model.middle[0].parameters(), *model.head.parameters()]
    optimizer = torch.optim.SGD(parts, lr=0.01)
    _, statuses = recorded(tmp_path, 1, model, optimizer)
    assert kinds(statuses[-1]) == {("middle", "not_in_optimizer"), ("late", "not_in_optimizer")}
    assert "2 of its 4 trainable parameters" in str(statuses[-1].alarms[0])


def test_frozen_on_purpose_raises_no_alarm(tmp_path):
    model, optimizer = made()
    model.stem.requires_grad_(False)
    recorder_before = lambda epoch, m, o: None  # noqa: E731
    original = model.train
    model.train = lambda mode=True: (original(mode), model.stem.eval())[0]
    _, statuses = recorded(tmp_path, 2, model, optimizer, before=recorder_before, frozen=["stem"])
    assert not statuses[-1].alarms


def test_norm_statistics_of_initialisation(tmp_path):
    model, optimizer = made()
    original = model.train
    model.train = lambda mode=True: (original(mode), model.late.eval())[0]
    _, statuses = recorded(tmp_path, 1, model, optimizer)
    assert kinds(statuses[-1]) == {("late", "statistics_initial")}


def test_rounded_weights(tmp_path):
    model, optimizer = made()
    train_epoch(model, optimizer)
    with torch.no_grad():
        for scale in (model.late[0].weight.abs().amax() / 7,):
            model.late[0].weight.copy_((model.late[0].weight / scale).round() * scale)
        model.late[0].weight.register_hook(torch.zeros_like)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    _, statuses = recorded(tmp_path, 1, model, optimizer)
    assert ("late", "rounded") in kinds(statuses[-1])


@pytest.mark.parametrize("seed", range(3))
def test_healthy_training_raises_no_alarm(tmp_path, seed):
    _, statuses = recorded(tmp_path, 6, *made(seed))
    assert [status.alarms for status in statuses] == [()] * 6


def test_since_counts_epochs_without_a_break():
    def row(epoch, frozen):
        return {"epoch": epoch, "modules": {"a": {"frozen": frozen}}}

    rows = [row(1, True), row(2, False), row(3, True), row(4, True)]
    assert find_alarms(rows)[0].since == 3
    assert find_alarms([*rows, row(6, True)])[0].since == 6
    assert not find_alarms([*rows, row(5, False)])
    assert not find_alarms([])
    assert not find_alarms([{"epoch": 1}])


def test_amp_scaler_that_skips_every_step(tmp_path):
    """The optimizer's step never runs, so the weights stay."""
    model, optimizer = made()
    images, targets = digits()
    recorder = Recorder(tmp_path, model, probe=images[:16], optimizer=optimizer)
    for _ in range(3):
        loss = nn.functional.cross_entropy(model(images[:50]), targets[:50])
        loss.backward()
        recorder.step(loss, 50)
    status = recorder.end_epoch()
    assert {alarm.kind for alarm in status.alarms} == {"not_moved"}
    assert "still those that training started with" in str(status.alarms[0])
