import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fmce import check_model, compare_weights
from tests.recorder.loops import Small, digits, made


def batch():
    images, targets = digits()
    return images[:32], lambda logits: F.cross_entropy(logits, targets[:32])


def test_a_good_model_has_no_alarm_and_is_left_as_found():
    model, optimizer = made()
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(4)
    expected = torch.get_rng_state()
    found = check_model(model, optimizer, *batch())
    assert found.good
    assert found.facts["late"]["moved"] > 0
    assert found.loss > 0
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not optimizer.state
    assert torch.equal(torch.get_rng_state(), expected)


def test_what_would_not_learn_is_named():
    model, _ = made()
    model.stem.requires_grad_(False)
    model.head.register_forward_pre_hook(lambda m, args: args[0].detach())
    optimizer = torch.optim.SGD([*model.middle.parameters(), *model.head.parameters()], lr=0.1)
    alarms = {(a.module, a.kind) for a in check_model(model, optimizer, *batch()).alarms}
    assert alarms == {("stem", "frozen"), ("middle", "no_gradient"), ("late", "not_in_optimizer")}
    assert not [
        a
        for a in check_model(model, optimizer, *batch(), frozen=["stem"]).alarms
        if a.module == "stem"
    ]


@pytest.mark.parametrize("value", [float("nan"), "text"])
def test_a_loss_that_is_no_finite_number_is_refused(value):
    model, optimizer = made()
    with pytest.raises(ValueError, match="expected one finite number"):
        check_model(
            model, optimizer, batch()[0], lambda y: y.sum() * value if value != "text" else value
        )


def test_weights_that_were_loaded_and_a_part_that_was_not():
    model, other = Small(), Small()
    assert compare_weights(model, model.state_dict()).loaded
    state = {k: v for k, v in other.state_dict().items() if not k.startswith("late")}
    model.load_state_dict(state, strict=False)
    found = compare_weights(model, state)
    assert not found.loaded
    assert found.modules["stem"]["equal"] == found.modules["stem"]["tensors"] == 7
    assert found.modules["late"]["missing"] == 7
    assert found.prefix is None


@pytest.mark.parametrize(
    ("old", "new"),
    [("module.", ""), ("_orig_mod.", ""), ("backbone.", ""), ("module.backbone.", "")],
)
def test_the_prefix_that_would_make_it_fit(old, new):
    state = {f"{old}{k}": v for k, v in Small().state_dict().items()}
    assert compare_weights(Small(), state).prefix == (old, new)


@pytest.mark.parametrize("part", ["stem", "late", "head"])
def test_a_prefix_of_one_module_alone(part):
    names = Small().state_dict()
    state = {f"backbone.{k}" if k.startswith(part) else k: v for k, v in names.items()}
    found = compare_weights(Small(), state)
    assert found.prefix == ("backbone.", "")
    assert found.fitting == len(names)


def test_one_part_is_not_taken_for_another():
    names = Small().state_dict()
    state = {k.replace("late.", "middle2."): v for k, v in names.items()}
    assert compare_weights(Small(), state).prefix is None


def test_a_backbone_checkpoint_for_a_model_that_holds_it():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.extra = Small(), nn.Linear(2, 2)

    found = compare_weights(Holder(), Small().state_dict())
    assert found.prefix == ("", "backbone.")
    assert found.fitting == 23
    assert found.modules["backbone"]["missing"] == 23


def test_files_of_every_kind(tmp_path):
    from safetensors.torch import save_file

    model = Small()
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, tmp_path / "a.ckpt")
    save_file(model.state_dict(), tmp_path / "b.safetensors")
    for name in ("a.ckpt", "b.safetensors"):
        assert compare_weights(model, tmp_path / name).loaded
    torch.save(model, tmp_path / "code.pt")
    with pytest.raises(ValueError, match="cannot be read as weights alone"):
        compare_weights(model, tmp_path / "code.pt")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    with pytest.raises(ValueError, match="without any"):
        compare_weights(model, tmp_path / "none.pt")
    with pytest.raises(FileNotFoundError):
        compare_weights(model, tmp_path / "missing.pt")


def test_shapes_that_differ():
    other = dict(Small().state_dict())
    other["head.2.weight"] = torch.zeros(3, 64)
    assert compare_weights(Small(), other).modules["head"]["wrong_shape"] == 1
