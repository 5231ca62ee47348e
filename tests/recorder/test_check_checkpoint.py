import json

import pytest
import torch

from fmce import check_checkpoint
from fmce.runs.checkpoint import load_weights
from tests.recorder.loops import Small, digits, made, recorded


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    recorded(folder, 5, keep="all")
    return folder


def weights(run, epoch=5):
    return load_weights(run / f"checkpoints/epoch_{epoch:04d}")


def check(run, state):
    return check_checkpoint(Small(), state, run=run, probe=digits()[0][:64])


def kinds(found):
    return {(alarm.module, alarm.kind) for alarm in found.alarms}


def test_a_healthy_checkpoint_is_that_of_its_epoch(run):
    found = check(run, weights(run))
    assert not found.alarms
    assert set(found.epochs.values()) == {5}
    assert set(found.drifts) == {"stem", "middle", "late", "head"}
    assert max(found.drifts.values()) < 1e-6


@pytest.mark.parametrize("module", ["stem", "middle", "late"])
@pytest.mark.parametrize(
    "injury", ["stale", "times 4", "reinitialised", "rounded", "noise", "dead", "lost"]
)
def test_an_injured_module_is_named(run, injury, module):
    state = weights(run)
    torch.manual_seed(1)
    fresh = Small().state_dict()
    for name, value in list(state.items()):
        if not name.startswith(f"{module}.") or not value.is_floating_point():
            continue
        if injury == "stale":
            state[name] = weights(run, 2)[name]
        elif injury == "times 4":
            state[name] = 4 * value
        elif injury == "reinitialised":
            state[name] = fresh[name]
        elif injury == "rounded" and value.ndim > 1:
            scale = value.abs().max() / 7
            state[name] = (value / scale).round() * scale
        elif injury == "noise" and value.ndim > 1:
            state[name] = value + torch.randn_like(value) * value.square().mean().sqrt()
        elif injury == "dead" and name.endswith("1.bias"):
            state[name] = value - 50
        elif injury == "lost":
            del state[name]
    found = check(run, state)
    expected = "not_loaded" if injury == "lost" else "changed"
    assert (module, expected) in kinds(found)
    assert {one for one, kind in kinds(found) if kind in ("changed", "not_loaded")} == {module}
    if injury != "dead":  # constant outputs have no CKA
        assert max(found.drifts.values()) > 1e-4
    words = {"stale": "epoch 2", "times 4": "multiplied by 4"}
    if injury in words:
        assert any(words[injury] in alarm.finding for alarm in found.alarms)
    if injury == "dead":
        assert (module, "dead") in kinds(found)


def test_a_prefix_is_removed_and_without_a_run_odd_weights_are_found():
    torch.manual_seed(0)
    state = {f"module.{k}": v for k, v in Small().state_dict().items()}
    state["module.late.0.weight"] = torch.zeros_like(state["module.late.0.weight"])
    found = check_checkpoint(Small(), state)
    assert found.comparison.prefix == ("module.", "")
    assert ("late", "zero_filters") in kinds(found)
    assert ("stem", "statistics_initial") in kinds(found)
    assert found.epochs == {}


@pytest.fixture(scope="module")
def peers(tmp_path_factory):
    """Return the last checkpoints of four trainings, alike but for the seed."""
    folder = tmp_path_factory.mktemp("peers")
    for seed in range(1, 5):
        recorded(folder / str(seed), 5, *made(seed), keep="all")
    return [folder / str(seed) / "checkpoints/epoch_0005" for seed in range(1, 5)]


@pytest.mark.parametrize("module", ["stem", "middle", "late", "head"])
@pytest.mark.parametrize("injury", ["none", "times 4", "reinitialised", "noise", "nan"])
def test_without_a_record_other_trainings_show_which_weights_are_odd(peers, injury, module):
    first, *others = peers
    state = dict(load_weights(first))
    torch.manual_seed(9)
    fresh = Small().state_dict()
    for name, value in list(state.items()):
        if not name.startswith(f"{module}.") or not value.is_floating_point():
            continue
        if injury == "times 4":
            state[name] = 4 * value
        elif injury == "reinitialised":
            state[name] = fresh[name]
        elif injury == "noise" and value.ndim > 1:
            state[name] = value + 4 * torch.randn_like(value) * value.square().mean().sqrt()
        elif injury == "nan" and value.ndim > 1:
            state[name] = value * float("nan")
    found = check_checkpoint(Small(), state, peers=others)
    named = {one for one, kind in kinds(found) if kind == "unlike_peers"}
    unlike = {m: facts["unlike_peers"]["distance"] for m, facts in found.facts.items()}
    if (injury, module) == ("reinitialised", "head"):  # it has hardly grown in five epochs
        assert max(unlike, key=unlike.get) == "head"
    else:
        assert named == (set() if injury == "none" else {module})
    json.dumps(found.to_dict(), allow_nan=False)


def test_peers_must_be_others_and_of_the_same_network(peers, tmp_path):
    state = dict(load_weights(peers[0]))
    with pytest.raises(ValueError, match="at least 3 other trainings to compare with, got 2"):
        check_checkpoint(Small(), state, peers=peers[1:3])
    with pytest.raises(ValueError, match=r"peer 1, .*got the weights of the checkpoint"):
        check_checkpoint(Small(), state, peers=peers[:3])
    with pytest.raises(ValueError, match=r"peer 3, .*got the weights of .*1/checkpoints"):
        check_checkpoint(Small(), weights_of_seed(9), peers=[*peers[:2], peers[0]])
    torch.save({"stem.0.weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt"):
        check_checkpoint(Small(), state, peers=[*peers[1:3], tmp_path / "other.pt"])
    with pytest.raises(FileNotFoundError, match="none"):
        check_checkpoint(Small(), state, peers=[*peers[1:3], tmp_path / "none.pt"])


def weights_of_seed(seed):
    torch.manual_seed(seed)
    return Small().state_dict()
