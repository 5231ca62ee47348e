import random

import numpy as np
import pytest
import torch
from torch import nn

from fmce.recorder.probe import Probe, bare_model
from tests.recorder.loops import Small, digits


class Detector(nn.Module):
    """Takes a dict; its neck returns a dict of maps, its head is called once per level."""

    def __init__(self):
        super().__init__()
        self.neck = Neck()
        self.head = nn.Conv2d(4, 3, 1)
        self.loop = nn.Identity()

    def forward(self, image, scale=1.0):
        levels = self.neck(image * scale)
        for _ in range(40):
            self.loop(image)
        return [self.head(level) for level in levels.values()]


class Neck(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, x):
        y = self.conv(x)
        return {"p3": y, "p4": y[..., ::2, ::2]}


def images(count=16):
    return digits()[0][:count]


def test_parts_of_a_module_have_names():
    probe = Probe(Detector(), ["neck", "head"], {"image": images(), "scale": 0.5})
    found = probe.measure()
    assert list(found["neck"].outputs) == ["neck[p3]", "neck[p4]"]
    assert list(found["head"].outputs) == ["head#1", "head#2"]


def test_a_dict_that_forward_has_no_names_for_is_one_argument():
    class Takes(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 2)

        def forward(self, batch):
            return self.inner(batch["x"])

    assert (
        Probe(Takes(), ["inner"], {"x": torch.randn(9, 2)})
        .measure()["inner"]
        .outputs["inner"]
        .channels
        == 2
    )


def test_lists_and_tuples_are_cut_by_sample():
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 2)

        def forward(self, items, offset):
            assert len(items) == len(offset) <= 64
            return self.inner(torch.stack(items) + offset)

    probe = Probe(Views(), ["inner"], ([torch.randn(2) for _ in range(70)], torch.randn(70, 2)))
    assert probe.samples == 70
    probe.check()
    assert len(probe.measure()["inner"].outputs["inner"].triangle) == 70 * 69 // 2


def test_dead_repeated_and_infinite_channels_are_counted():
    torch.manual_seed(0)
    model = Small().eval()
    with torch.no_grad():
        model.stem[1].bias[:4] = -100.0
        model.stem[1].bias[4:] = 10.0
        model.late[0].weight[3] = model.late[0].weight[2]
        model.late[0].bias[2:4] = 5.0  # alive, so that they can repeat
    found = Probe(model, ["stem", "middle", "late"], images()).measure()
    assert (found["stem"].units, found["stem"].dead_units) == (8, 4)
    assert found["stem"].outputs["stem"].dead == 4
    assert found["late"].outputs["late"].repeated == 1
    assert found["middle"].outputs["middle"].repeated == 0
    with torch.no_grad():
        model.middle[0].bias[0] = float("nan")
    found = Probe(model, ["stem", "late"], images()).measure()
    assert found["stem"].outputs["stem"].finite
    assert not found["late"].outputs["late"].finite
    assert found["late"].outputs["late"].triangle is None


def test_the_model_and_the_generators_are_left_as_found():
    class Counting(Small):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x):
            self.seen += 1
            random.random()
            np.random.rand()  # noqa: NPY002
            return super().forward(x + 0 * torch.randn(1))

    model = Counting().train()
    model.late.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    Probe(model, ["stem", "head"], images()).measure()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # noqa: NPY002
    assert model.training
    assert not model.late.training
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_in_pieces_as_in_one():
    from fmce.recorder import probe as module

    model = Small().eval()
    found = [Probe(model, ["late"], images(20)).measure()]
    module.TOGETHER, before = 8, module.TOGETHER
    try:
        found.append(Probe(model, ["late"], images(20)).measure())
    finally:
        module.TOGETHER = before
    a, b = (one["late"].outputs["late"].triangle.astype(float) for one in found)
    assert np.abs(a - b).max() < 2e-3


@pytest.mark.parametrize(
    ("modules", "inputs", "message"),
    [
        (["stam"], images(), "near matches: stem"),
        (["stem"], images(7), "7 samples"),
        (["stem"], torch.zeros(9, 3, 8, 8), "cannot take the probe"),
        (["stem"], 5, "0 samples"),
        (["unused"], images(), "was not called"),
        (["says"], images(), "returns no tensor"),
        (["mixes"], images(), "one row per sample"),
    ],
)
def test_what_cannot_be_measured_is_refused(modules, inputs, message):
    class Odd(Small):
        def __init__(self):
            super().__init__()
            self.unused, self.says, self.mixes = nn.Linear(1, 1), Says(), Mixes()

        def forward(self, x):
            self.says(x)
            self.mixes(x)
            return super().forward(x)

    class Says(nn.Module):
        def forward(self, x):
            return "nothing"

    class Mixes(nn.Module):
        def forward(self, x):
            return x.flatten(0, 1).repeat(3, 1, 1)

    with pytest.raises(ValueError, match=message):
        Probe(Odd(), modules, inputs).check()


def test_a_loop_is_no_module():
    with pytest.raises(ValueError, match="more than 32 outputs"):
        Probe(Detector(), ["loop"], {"image": images()}).check()


def test_wrappers_are_looked_through_and_sharded_weights_refused():
    model = Small()
    assert bare_model(torch.compile(nn.DataParallel(model))) is model
    model.head.weight = nn.Parameter(torch.ones(1))
    model.head.weight.placements = ()
    with pytest.raises(ValueError, match="sharded"):
        bare_model(model)


def test_channels_that_are_last_are_measured_as_channels_and_reported_once(caplog):
    class Last(nn.Module):
        def forward(self, maps):
            return maps.permute(0, 2, 3, 1)

    caplog.set_level("INFO", "fmce")
    model = nn.Sequential(nn.Conv2d(1, 5, 3, stride=2, padding=1), nn.ReLU(), Last())
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0, -1  # dead
    probe = Probe(model, ["1", "2"], images())
    for _ in range(2):
        found = probe.measure()
    first, last = found["1"].outputs["1"], found["2"].outputs["2"]
    assert (last.channels, last.dead, last.repeated) == (first.channels, first.dead, first.repeated)
    assert last.channels == 5
    assert np.array_equal(first.triangle, last.triangle)
    assert caplog.text.count("module 2 returns its channels last") == 1
