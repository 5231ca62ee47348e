import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from fmce.models.fmce_net import FMCENet, expected_phase


@pytest.mark.parametrize(
    ("map_shape", "parameters"), [((1024, 7, 7), 5_901_578), ((2048, 7, 7), 7_999_754)]
)
def test_parameter_counts_are_the_settled_ones(
    map_shape: tuple[int, int, int], parameters: int
) -> None:
    with torch.device("meta"):
        net = FMCENet(map_shape)
    assert sum(p.numel() for p in net.parameters()) == parameters


@pytest.mark.parametrize("map_shape", [(1, 1, 1), (3, 1, 5), (40, 2, 2), (64, 4, 4), (20, 9, 6)])
def test_any_map_down_to_1_by_1_gives_logits(map_shape: tuple[int, int, int]) -> None:
    net = FMCENet(map_shape, num_phases=7)
    assert net(torch.randn(3, *map_shape)).shape == (3, 7)
    assert (net.map_shape, net.num_phases) == (map_shape, 7)


def test_channels_never_fall_below_16() -> None:
    widths = [p.shape[0] for n, p in FMCENet((40, 4, 4)).named_parameters() if p.ndim == 4]
    assert widths == [20, 16]


def test_layers_are_conv_pool_relu_twice_then_max_then_linear() -> None:
    net, maps = FMCENet((32, 9, 9), num_phases=4), torch.randn(2, 32, 9, 9)
    (w1, b1, w2, b2, w3, b3) = net.parameters()
    hidden = F.relu(F.max_pool2d(F.conv2d(maps, w1, b1, padding=1), 2))
    hidden = F.relu(F.max_pool2d(F.conv2d(hidden, w2, b2, padding=1), 2))
    assert hidden.shape[2:] == (2, 2)
    pooled = F.adaptive_max_pool2d(hidden, 1).flatten(1)
    torch.testing.assert_close(net(maps), F.linear(pooled, w3, b3))


def test_maps_above_1024_channels_are_reduced_without_pooling() -> None:
    net, maps = FMCENet((1025, 2, 3), num_phases=4), torch.randn(2, 1025, 2, 3)
    (w0, b0, w1, b1, w2, b2, w3, b3) = net.parameters()
    assert w0.shape == (1024, 1025, 1, 1)
    hidden = F.relu(F.conv2d(maps, w0, b0))
    hidden = F.relu(F.max_pool2d(F.conv2d(hidden, w1, b1, padding=1), 2))
    hidden = F.relu(F.conv2d(hidden, w2, b2, padding=1))  # 1×1 left: no second pooling
    torch.testing.assert_close(net(maps), F.linear(hidden.flatten(1), w3, b3))


@pytest.mark.parametrize("shape", [(2, 8, 4, 4), (2, 16, 5, 4), (16, 4, 4), (2, 1, 16, 4, 4)])
def test_maps_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected maps of shape \(B, 16, 4, 4\), got .*capture"):
        FMCENet((16, 4, 4))(torch.zeros(shape))


def test_half_precision_maps_are_accepted() -> None:
    net, maps = FMCENet((16, 4, 4)), torch.randn(2, 16, 4, 4).half()
    torch.testing.assert_close(net(maps), net(maps.float()))


@pytest.mark.parametrize(
    ("map_shape", "num_phases", "message"),
    [((16, 0, 4), 10, "at least 1"), ((16, 4), 10, "C, H, W"), ((16, 4, 4), 1, "num_phases")],
)
def test_impossible_configurations_are_refused(
    map_shape: tuple[int, int, int], num_phases: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        FMCENet(map_shape, num_phases)


def test_save_and_load_keep_weights_shape_and_origin(tmp_path: Path) -> None:
    net, maps = FMCENet((16, 4, 3), num_phases=5), torch.randn(2, 16, 4, 3)
    net.save(tmp_path / "net.safetensors", trained_on="digits-seed0")
    loaded = FMCENet.load(tmp_path / "net.safetensors")
    assert torch.equal(loaded(maps), net(maps))
    assert (loaded.map_shape, loaded.num_phases) == ((16, 4, 3), 5)
    assert loaded.trained_on == net.trained_on == "digits-seed0"
    loaded.save(tmp_path / "copy.safetensors")
    assert FMCENet.load(tmp_path / "copy.safetensors").trained_on == "digits-seed0"


def test_a_failed_save_keeps_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.safetensors"
    FMCENet((16, 4, 4)).save(path, trained_on="first")

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        FMCENet((16, 4, 4)).save(path, trained_on="second")
    assert FMCENet.load(path).trained_on == "first"
    assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"]


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    text, foreign, cut = (tmp_path / name for name in ("a.txt", "b.safetensors", "c.safetensors"))
    text.write_text("no network")
    save_file({"weight": torch.zeros(2)}, foreign)
    FMCENet((16, 4, 4)).save(cut)
    cut.write_bytes(cut.read_bytes()[:-100])
    for path in (text, foreign, cut):
        with pytest.raises(ValueError, match=r"is not a complete FMCE-Net file .*FMCENet\.save"):
            FMCENet.load(path)
    with pytest.raises(FileNotFoundError, match="no FMCE-Net file at"):
        FMCENet.load(tmp_path / "missing.safetensors")


def test_expected_phase_is_the_softmax_weighted_mean() -> None:
    # Probabilities 0.2, 0.3, 0.5: 0.2·1 + 0.3·2 + 0.5·3 = 2.3.
    logits = torch.tensor([[0.2, 0.3, 0.5], [1.0, 1.0, 1.0]]).log()
    torch.testing.assert_close(expected_phase(logits), torch.tensor([2.3, 2.0]))


@pytest.mark.parametrize(
    ("map_shape", "width", "widths"),
    [
        ((1024, 7, 7), 0.25, [128, 64]),
        ((2048, 7, 7), 0.25, [256, 128, 64]),  # the 1×1 reduction too
        ((64, 4, 4), 0.25, [8, 4]),  # published: 32 and 16
        ((16, 4, 4), 0.01, [1, 1]),
    ],
)
def test_a_narrow_net_has_that_share_of_the_published_channels(
    map_shape: tuple[int, int, int], width: float, widths: list[int]
) -> None:
    with torch.device("meta"):
        net = FMCENet(map_shape, width=width)
    assert [p.shape[0] for p in net.parameters() if p.ndim == 4] == widths


@pytest.mark.parametrize("width", [0, -0.5, 1.01, float("nan")])
def test_a_width_outside_0_to_1_is_refused(width: float) -> None:
    with pytest.raises(ValueError, match=r"width must be in \(0, 1\], got"):
        FMCENet((16, 4, 4), width=width)


def test_save_and_load_keep_the_width(tmp_path: Path) -> None:
    net, maps = FMCENet((64, 4, 4), width=0.5), torch.randn(2, 64, 4, 4)
    net.save(tmp_path / "net.safetensors")
    loaded = FMCENet.load(tmp_path / "net.safetensors")
    assert (loaded.width, torch.equal(loaded(maps), net(maps))) == (0.5, True)


@pytest.mark.parametrize("map_shape", [(64, 7, 7), (32, 7, 4), (32, 5, 6), (32, 3, 3), (32, 2, 3)])
def test_what_pooling_drops_is_left_out_without_changing_output_or_gradient(
    map_shape: tuple[int, int, int],
) -> None:
    net = FMCENet(map_shape)
    maps = torch.randn(4, *map_shape, requires_grad=True)
    (w1, b1, w2, b2, w3, b3) = net.parameters()

    def published() -> torch.Tensor:
        hidden = maps
        for weight, bias in ((w1, b1), (w2, b2)):
            hidden = F.conv2d(hidden, weight, bias, padding=1)
            if min(hidden.shape[2:]) >= 2:
                hidden = F.max_pool2d(hidden, 2)
            hidden = F.relu(hidden)
        return F.linear(F.adaptive_max_pool2d(hidden, 1).flatten(1), w3, b3)

    wanted, got = published(), net(maps)
    torch.testing.assert_close(got, wanted)
    gradients = [
        torch.autograd.grad(out.square().sum(), [maps, *net.parameters()]) for out in (got, wanted)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_map_of_7_by_7_needs_36_of_its_49_first_outputs() -> None:
    net, sizes = FMCENet((16, 7, 7)), []
    for layer in net.convolutions:
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(lambda _m, _i, out: sizes.append(tuple(out.shape[2:])))
    net(torch.randn(1, 16, 7, 7))
    assert sizes == [(6, 6), (2, 2)]


def test_sizes_that_are_not_the_weights_fill_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    FMCENet((8, 2, 2), 3).save(path)
    with safe_open(path, "pt") as file:
        about = dict(file.metadata())
    del about["sha256"]
    config = {"map_shape": [10**6, 4, 4], "num_phases": 3}
    save_file(load_file(path), path, {**about, "config": json.dumps(config)})
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="is not a complete FMCE-Net file"):
        FMCENet.load(path)
    assert torch.equal(torch.get_rng_state(), state)  # nothing was drawn for weights of that size
