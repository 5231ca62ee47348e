import builtins
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchcam.methods import GradCAM

from fmce.models.features import FeatureMaps
from fmce.models.grad_cam import cam_numbers, grad_cam
from fmce.models.tiny import tiny


class InPlace(nn.Module):
    """A convolution whose output is rectified in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.unused = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of 3 classes."""
        logits: Tensor = self.head(torch.relu_(self.conv(images)).mean(dim=(2, 3)))
        return logits


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


TARGETS = torch.tensor([0, 2, 2])


@pytest.mark.parametrize("layer", ["stem", "blocks.1", "blocks.2"])
def test_agrees_with_torchcam(images: Tensor, layer: str) -> None:
    model = tiny(3, width=4).eval()
    with GradCAM(model, layer) as oracle:
        logits = model(images)
        (expected,) = oracle(TARGETS.tolist(), logits, normalized=False)
    torch.testing.assert_close(grad_cam(model, images, TARGETS, layer), expected)


def test_with_a_linear_head_on_the_mean_weights_are_the_heads() -> None:
    model, images = tiny(3, width=4).eval(), torch.randn(3, 3, 16, 16)
    with FeatureMaps(model, "blocks.2") as maps:
        model(images)
    # d logit / d cell = head weight / 16 cells, so the map is the class activation map over 16.
    expected = torch.einsum("bc,bchw->bhw", model.head.weight[TARGETS], maps.single("blocks.2"))
    signed = grad_cam(model, images, TARGETS, "blocks.2", signed=True)
    torch.testing.assert_close(signed, expected.detach() / 16)
    rectified = grad_cam(model, images, TARGETS, "blocks.2")
    torch.testing.assert_close(rectified, signed.clamp(min=0))
    assert rectified.shape == (3, 4, 4)
    assert rectified.dtype == torch.float32


def test_a_tap_that_is_changed_in_place_is_read_before_the_change(images: Tensor) -> None:
    model = InPlace()
    raw = model.conv(images).detach().requires_grad_()
    logits = model.head(torch.relu(raw).mean(dim=(2, 3)))
    (gradient,) = torch.autograd.grad(logits[range(3), TARGETS].sum(), raw)
    expected = (gradient.mean(dim=(2, 3), keepdim=True) * raw).sum(dim=1).detach()
    torch.testing.assert_close(grad_cam(model, images, TARGETS, "conv", signed=True), expected)


def test_model_and_images_are_left_as_found(images: Tensor) -> None:
    model = tiny(3, width=4)
    model.stem.eval()
    model.head.bias.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    requires = [p.requires_grad for p in model.parameters()]
    grad_cam(model, images, TARGETS, "blocks.2")
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == requires
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(buffers[name], b) for name, b in model.named_buffers())
    assert not images.requires_grad
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("frozen", [True, False])
def test_works_for_frozen_models_and_where_gradients_are_off(images: Tensor, frozen: bool) -> None:
    model = tiny(3, width=4).requires_grad_(not frozen)
    expected = grad_cam(model, images, TARGETS, "blocks.2")
    assert expected.max() > 0
    with torch.no_grad():
        assert torch.equal(grad_cam(model, images, TARGETS, "blocks.2"), expected)
    with torch.inference_mode():
        inside = grad_cam(model, images * 1.0, TARGETS, "blocks.2")
    assert torch.equal(inside, expected)


def test_a_compiled_model_is_explained_through_its_module(images: Tensor) -> None:
    model = tiny(3, width=4).eval()
    compiled: Any = torch.compile(model, backend="eager")
    compiled(images)
    torch.testing.assert_close(
        grad_cam(compiled, images, TARGETS, "blocks.2"),
        grad_cam(model, images, TARGETS, "blocks.2"),
    )


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("cnv", "near matches: conv"),
        ("head", "'head' returned a 2-d tensor"),
        ("unused", "'unused' was not called"),
    ],
)
def test_taps_without_maps_are_refused(images: Tensor, layer: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grad_cam(InPlace(), images, TARGETS, layer)


@pytest.mark.parametrize("targets", [[0, 1], [0, 1, 3], [0, 1, -1]])
def test_targets_that_are_no_classes_are_refused(images: Tensor, targets: list[int]) -> None:
    with pytest.raises(ValueError, match=r"targets \(3,\) with classes in 0 … 2.*count from 0"):
        grad_cam(InPlace(), images, torch.tensor(targets), "conv")


def test_missing_captum_names_the_extra(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without_captum(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("captum"):
            raise ModuleNotFoundError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_captum)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fmce\[explain\]'"):
        grad_cam(InPlace(), images, TARGETS, "conv")


def one_hot(row: int, column: int, height: int = 4, width: int = 5) -> np.ndarray:
    cam = np.zeros((1, height, width))
    cam[0, row, column] = 3.0
    return cam


def test_gini_is_0_for_a_uniform_map_and_n_minus_1_over_n_for_one_cell() -> None:
    assert cam_numbers(np.full((1, 4, 5), 0.5)).gini[0] == pytest.approx(0)
    assert cam_numbers(one_hot(1, 2)).gini[0] == pytest.approx(19 / 20)
    # Mean absolute difference of 1, 2, 3, 6 over twice the mean: (2·(1+2+5+1+4+3)/16)/(2·3) = 1/3.
    assert cam_numbers([[[6.0, 1.0], [3.0, 2.0]]]).gini[0] == pytest.approx(1 / 3)


def test_gini_agrees_with_the_mean_absolute_difference() -> None:
    cam = np.random.default_rng(0).exponential(size=(2, 3, 4))
    flat = cam.reshape(2, -1)
    pairs = np.abs(flat[:, :, None] - flat[:, None, :]).mean(axis=(1, 2))
    np.testing.assert_allclose(cam_numbers(cam).gini, pairs / (2 * flat.mean(axis=1)))


def test_area_counts_cells_strictly_above_half_the_maximum() -> None:
    assert cam_numbers([[[4.0, 2.0], [2.1, 0.0]]]).area_above_half_max[0] == 0.5
    assert cam_numbers(np.ones((1, 2, 2))).area_above_half_max[0] == 1


def test_drift_is_a_fraction_of_each_side() -> None:
    numbers = cam_numbers(one_hot(0, 0), previous=one_hot(2, 3))
    assert numbers.centroid_drift[0] == pytest.approx(np.hypot(2 / 4, 3 / 5))
    halfway = one_hot(0, 0) + one_hot(0, 2)
    assert cam_numbers(halfway, one_hot(0, 1)).centroid_drift[0] == pytest.approx(0)


def test_overlap_is_intersection_over_union() -> None:
    now = one_hot(0, 0) + one_hot(0, 1)
    then = one_hot(0, 1) + one_hot(0, 2)
    assert cam_numbers(now, then).overlap[0] == pytest.approx(1 / 3)
    assert cam_numbers(now, now).overlap[0] == 1
    assert cam_numbers(now, one_hot(3, 3)).overlap[0] == 0


def test_without_a_previous_map_drift_and_overlap_are_undefined() -> None:
    numbers = cam_numbers(torch.rand(2, 4, 4) + 0.1)
    assert np.isnan(numbers.centroid_drift).all()
    assert np.isnan(numbers.overlap).all()
    assert np.isfinite(numbers.gini).all()


def test_an_all_zero_map_has_no_numbers_and_gives_no_warning() -> None:
    cam = np.concatenate([np.zeros((1, 4, 5)), one_hot(1, 1)])
    numbers = cam_numbers(cam, previous=cam[::-1])
    assert all(np.isnan(values[0]) for values in numbers)
    assert np.isfinite(numbers.gini[1])
    assert np.isnan(numbers.centroid_drift[1])  # the previous map is the empty one
    assert np.isnan(numbers.overlap[1])


@pytest.mark.parametrize(
    ("cam", "previous", "message"),
    [
        (np.zeros((4, 5)), None, r"cam of shape \(B, h, w\), got \(4, 5\)"),
        (-np.ones((1, 2, 2)), None, r"at least 0.*cam\.clip\(0\)"),
        (np.full((1, 2, 2), np.nan), None, "expected cam finite"),
        (np.ones((1, 2, 2)), np.ones((1, 3, 3)), r"shape \(1, 2, 2\), got \(1, 3, 3\)"),
    ],
)
def test_maps_that_do_not_fit_are_refused(
    cam: np.ndarray, previous: np.ndarray | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        cam_numbers(cam, previous)


def test_a_backbone_that_runs_without_gradients_is_named():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 5)

        def forward(self, images):
            with torch.no_grad():
                maps = self.conv(images)
            return self.head(maps.mean(dim=(2, 3)))

    with pytest.raises(ValueError, match="maps of 'conv' carry no gradient"):
        grad_cam(Frozen(), torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.long), "conv")


def test_a_layer_with_the_channels_last_is_refused():
    class Last(nn.Module):
        def forward(self, maps):
            return maps.permute(0, 2, 3, 1)

    model = nn.Sequential(nn.Conv2d(3, 4, 1), Last(), nn.Flatten(), nn.Linear(4 * 64, 5))
    with pytest.raises(ValueError, match=r"'1' returned maps \(2, 8, 8, 4\) .*channels last"):
        grad_cam(model, torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.long), "1")
