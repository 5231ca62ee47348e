import itertools
import json
import warnings

import pytest
import torch
from torch import nn

from fmce import check_checkpoint
from fmce.recorder.peers import unlike_peers
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
    """Return the last checkpoints of six trainings, alike but for the seed."""
    folder = tmp_path_factory.mktemp("peers")
    for seed in range(1, 7):
        recorded(folder / str(seed), 5, *made(seed), keep="all")
    return [folder / str(seed) / "checkpoints/epoch_0005" for seed in range(1, 7)]


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
    with pytest.raises(ValueError, match="at least 4 other trainings, got 3"):
        check_checkpoint(Small(), state, peers=peers[1:4])
    with pytest.raises(ValueError, match="at least 4 other trainings, got weights"):
        check_checkpoint(Small(), state, peers="weights.pt")
    with pytest.raises(ValueError, match=r"peer 1, .*got the weights of the checkpoint"):
        check_checkpoint(Small(), state, peers=peers[:4])
    with pytest.raises(ValueError, match=r"peer 4, .*got the weights of .*1/checkpoints"):
        check_checkpoint(Small(), weights_of_seed(9), peers=[*peers[:3], peers[0]])
    torch.save({"stem.0.weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt"):
        check_checkpoint(Small(), state, peers=[*peers[1:4], tmp_path / "other.pt"])
    with pytest.raises(FileNotFoundError, match="none"):
        check_checkpoint(Small(), state, peers=[*peers[1:4], tmp_path / "none.pt"])


def test_no_healthy_training_is_unlike_its_peers(peers):
    for number, one in enumerate(peers):
        others = [*peers[:number], *peers[number + 1 :]]
        for four in itertools.combinations(others, 4):
            found = check_checkpoint(Small(), load_weights(one), peers=four)
            assert not found.alarms


def test_the_network_keeps_the_weights_of_the_checkpoint(peers):
    model = Small()
    check_checkpoint(model, load_weights(peers[0]), peers=peers[1:])
    assert all(torch.equal(v, load_weights(peers[0])[n]) for n, v in model.state_dict().items())


class Odd(nn.Module):
    """Parameters of many types, a tied one, one that is zero, and old weight norm, which cannot be copied."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.half = nn.Linear(4, 4).half()
        self.brain = nn.Linear(4, 4).bfloat16()
        self.turned = nn.Module()
        self.turned.weight = nn.Parameter(torch.randn(4, 4, dtype=torch.complex64))
        self.tied = nn.Linear(4, 4)
        self.again = nn.Linear(4, 4)
        self.again.weight = self.tied.weight
        self.eight = nn.Module()
        eighth = torch.randn(4, 4).to(torch.float8_e4m3fn)
        self.eight.weight = nn.Parameter(eighth, requires_grad=False)
        self.still = nn.Module()
        self.still.bias = nn.Parameter(torch.zeros(4))
        self.none = nn.ReLU()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.normed = nn.utils.weight_norm(nn.Linear(4, 4))
        self.normed(torch.zeros(1, 4))


def test_weights_of_any_type_are_compared(tmp_path):
    files = [tmp_path / f"{seed}.pt" for seed in range(4)]
    for seed, file in enumerate(files):
        torch.save(Odd(seed).state_dict(), file)
    model = Odd(9)
    with torch.no_grad():
        model.turned.weight *= 40
        model.still.bias[0] = 1e-4
    names = [name for name, _ in model.named_children()]
    found = unlike_peers(model, names, files)
    assert set(found) == set(names) - {"none"}
    assert max(found, key=lambda name: found[name].distance) == "turned"
    assert found["still"].distance == 0


def weights_of_seed(seed):
    torch.manual_seed(seed)
    return Small().state_dict()
