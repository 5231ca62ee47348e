import pytest
import torch
from torch import nn

from fmce.models.features import FeatureMaps
from fmce.models.tiny import ResidualBlock, tiny


def test_maps_are_64_by_4_by_4_at_16_pixels() -> None:
    model = tiny(10)
    with FeatureMaps(model, "blocks.2") as maps:
        logits = model(torch.zeros(2, 3, 16, 16))
    assert maps.single("blocks.2").shape == (2, 64, 4, 4)
    assert logits.shape == (2, 10)


def test_parameter_count_matches_a_count_by_hand() -> None:
    # Convolutions k·k·in·out, batch norms 2 a channel, linear (64 + 1)·10.
    stem = 9 * 3 * 16 + 32
    first = 2 * (9 * 16 * 16 + 32)
    second = 9 * 16 * 32 + 64 + 9 * 32 * 32 + 64 + 16 * 32 + 64
    third = 9 * 32 * 64 + 128 + 9 * 64 * 64 + 128 + 32 * 64 + 128
    assert sum(p.numel() for p in tiny(10).parameters()) == stem + first + second + third + 650


def test_submodules_have_the_settled_names() -> None:
    model = tiny(10, in_channels=1, width=4)
    assert [name for name, _ in model.named_children()] == ["stem", "blocks", "head"]
    assert [name for name, _ in model.blocks.named_children()] == ["0", "1", "2"]
    assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_head_sees_the_mean_of_the_last_maps() -> None:
    model = tiny(5, width=4).eval()
    images = torch.randn(2, 3, 9, 9)
    maps = model.blocks(model.stem(images))
    torch.testing.assert_close(model(images), model.head(maps.mean(dim=(2, 3))))


def test_block_of_unchanged_shape_adds_its_input() -> None:
    block = ResidualBlock(4, 4, stride=1).eval()
    last_norm = block.residual[4]
    assert isinstance(last_norm, nn.BatchNorm2d)
    nn.init.zeros_(last_norm.weight)
    inputs = torch.rand(1, 4, 3, 3)
    torch.testing.assert_close(block(inputs), inputs)


@pytest.mark.parametrize("argument", ["num_classes", "in_channels", "width"])
def test_a_size_below_1_is_refused(argument: str) -> None:
    sizes = {"num_classes": 10, "in_channels": 3, "width": 16, argument: 0}
    with pytest.raises(ValueError, match=f"{argument} must be at least 1, got 0"):
        tiny(**sizes)
