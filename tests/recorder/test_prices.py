"""What freezing saves, on networks whose multiply-adds can be counted by hand."""

import pytest
import torch
from torch import nn

from fmce.models.tiny import tiny
from fmce.recorder.prices import ModulePrice, module_prices


def test_prices_are_those_worked_out_by_hand():
    # 1×1 convolutions on 4 cells: 24, 32 and 16 products forward each.
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 4, 1), nn.Conv2d(4, 1, 1))
    forward = [4 * n for n in (6, 8, 4)]
    full = sum(forward) + sum(forward) + forward[1] + forward[2]  # none to the images
    left = [
        sum(forward) + forward[1] + forward[2] + forward[2],
        sum(forward) + forward[2],
        sum(forward),
    ]
    prices = module_prices(net, ["0", "1", "2"], torch.ones(1, 3, 2, 2))
    assert [p.saving for p in prices] == pytest.approx([1 - cost / full for cost in left])
    assert sum(p.own_saving for p in prices) == pytest.approx(prices[-1].saving)


def test_the_share_does_not_depend_on_the_batch_and_the_model_is_left_as_found():
    net, names = tiny(10, 3, 4).train(), ["stem", "blocks.0", "head"]
    net.blocks[0].requires_grad_(False)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    one, many = (module_prices(net, names, torch.rand(n, 3, 8, 8)) for n in (1, 5))
    assert [p.saving for p in one] == pytest.approx([p.saving for p in many])
    assert net.training
    assert [p.requires_grad for p in net.blocks[0].parameters()] == [False] * 6
    assert all(p.requires_grad for p in net.stem.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


class Tokens(nn.Module):
    """A position embedding outside all modules, and outputs in a dict beside what is no tensor."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 4))
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = self.first(x + self.position)
        return {"logits": [self.second(x)], "mask": x > 0, "count": 3}


def test_what_lies_outside_all_modules_is_frozen_with_the_first():
    prices = module_prices(Tokens(), ["first", "second"], {"x": torch.ones(2, 4)})
    # Forward 2, weights' gradients 2, inputs' 2 (that of the embedding too).
    assert [p.saving for p in prices] == pytest.approx([3 / 6, 4 / 6])


def test_what_cannot_be_priced_is_refused():
    with pytest.raises(ValueError, match="no submodule 'secnd'; near matches: second"):
        module_prices(Tokens(), ["secnd"], torch.ones(2, 4))
    with pytest.raises(ValueError, match="modules is empty"):
        module_prices(Tokens(), [], torch.ones(2, 4))

    class NoGradient(nn.Sequential):
        def forward(self, x):
            return super().forward(x).argmax(1)

    with pytest.raises(ValueError, match="no output of the model depends on its weights"):
        module_prices(NoGradient(nn.Linear(2, 2)), ["0"], torch.ones(2, 2))


def test_a_price_as_json():
    assert ModulePrice("a", 0.25, 0.5).to_dict() == {
        "name": "a",
        "own_saving": 0.25,
        "saving": 0.5,
    }
