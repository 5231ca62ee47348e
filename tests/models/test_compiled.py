"""Training through torch.compile still gives maps, with their gradients."""

import pytest
import torch
from torch import nn

from fmce.models.build import build_model
from fmce.models.compiled import CompiledModel


def gradients_of(network, maps, model, images):
    """Return logits, maps and gradients of a loss that uses both."""
    model.zero_grad()
    logits = network(images)
    held = maps()
    (logits.square().sum() + held.square().sum()).backward()
    return logits.detach(), held.detach(), [p.grad.clone() for p in model.parameters()]


class Uncompiled:
    """The same with an ordinary hook."""

    def __init__(self, model, layer):
        self.model = model
        model.get_submodule(layer).register_forward_hook(self.hold)

    def hold(self, _module, _inputs, output):
        self.held = output
        return output.clone()


@pytest.mark.slow
def test_compiled_logits_maps_and_gradients_are_the_uncompiled_ones():
    torch.manual_seed(0)
    compiled_model, plain_model = build_model("tiny", 4), build_model("tiny", 4)
    plain_model.load_state_dict(compiled_model.state_dict())
    images = torch.randn(6, 3, 8, 8)
    plain = Uncompiled(plain_model, "blocks.2")
    expected = gradients_of(plain_model, lambda: plain.held, plain_model, images)
    with CompiledModel(compiled_model, "blocks.2") as compiled:
        found = gradients_of(compiled, lambda: compiled.take("blocks.2"), compiled_model, images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert compiled_model.state_dict().keys() == plain_model.state_dict().keys()
    assert not compiled_model.blocks[2]._forward_hooks


def test_a_submodule_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"no submodule 'blocks\.7'"):
        CompiledModel(build_model("tiny", 4), "blocks.7")


def test_maps_are_there_only_after_a_call_and_only_of_the_tap():
    with CompiledModel(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten()), "0") as compiled:
        for name in ("0", "1"):
            with pytest.raises(ValueError, match=f"'{name}' is not available; captured: 0"):
                compiled.take(name)


def test_a_tap_that_gives_no_single_map_is_said_to(monkeypatch):
    monkeypatch.setattr(
        torch, "compile", lambda function, **_: function
    )  # tracing is not the matter here
    images = torch.zeros(2, 3, 4, 4)
    relu = nn.ReLU()
    flat = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    twice = nn.Sequential(relu, nn.Conv2d(3, 3, 1), relu)
    for model, message in ((flat, "gave 1 outputs"), (twice, "gave 2 outputs")):
        expected = pytest.raises(ValueError, match=f"{message} .*expected one 4-d tensor")
        with CompiledModel(model, "0") as compiled, expected:
            compiled(images)
