import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fmce.models.build import build_model
from fmce.models.features import FeatureMaps, check_map, eval_mode, find_module
from fmce.models.tiny import tiny


class SharedHead(nn.Module):
    """One convolution over two levels, a second that is never called, and a tuple in between."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 4, 1)
        self.unused = nn.Conv2d(3, 4, 1)
        self.pair = nn.AdaptiveMaxPool2d(1, return_indices=True)
        self.flat = nn.Flatten()

    def forward(self, images: Tensor) -> Tensor:
        """Return one number per image."""
        levels = [self.head(images), self.head(images[..., ::2, ::2])]
        pooled = [self.flat(self.pair(level)[0]) for level in levels]
        return torch.cat(pooled, dim=1).sum(dim=1)


class InPlace(nn.Module):
    """A convolution whose output the next step changes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the mean of the rectified maps."""
        return torch.relu_(self.conv(images)).mean(dim=(2, 3))


def state_of(model: nn.Module) -> list[tuple[object, ...]]:
    """Everything hooks and modes could leave behind, for each submodule."""
    return [
        (sorted(vars(m)), m.training, len(m._forward_hooks), len(m._forward_pre_hooks))
        for m in model.modules()
    ]


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_maps_equal_the_submodules_output(images: Tensor) -> None:
    model = tiny(5, width=4).eval()
    with FeatureMaps(model, ["stem", "blocks.0"]) as maps:
        model(images)
    stem = model.stem(images)
    torch.testing.assert_close(maps["stem"], stem)
    torch.testing.assert_close(maps["blocks.0"], model.blocks[0](stem))


def test_maps_are_detached_unless_gradients_are_asked_for(images: Tensor) -> None:
    model = tiny(5, width=4)
    with FeatureMaps(model, "stem") as maps:
        model(images)
    assert not maps.single("stem").requires_grad
    with FeatureMaps(model, "stem", keep_gradients=True) as maps:
        model(images)
    assert maps.single("stem").requires_grad


def test_kept_maps_lie_between_weights_and_loss(images: Tensor) -> None:
    model = tiny(5, width=4)
    with FeatureMaps(model, "blocks.2", keep_gradients=True) as maps:
        logits = model(images)
    held = maps.single("blocks.2")
    (gradient,) = torch.autograd.grad(logits.sum(), held, retain_graph=True)
    per_channel = model.head.weight.sum(dim=0) / held[0, 0].numel()
    torch.testing.assert_close(gradient, per_channel[None, :, None, None].expand_as(held))
    held.sum().backward()
    stem = model.stem[0]
    assert isinstance(stem, nn.Conv2d)
    assert stem.weight.grad is not None


@pytest.mark.parametrize("keep_gradients", [False, True])
def test_later_operations_in_place_do_not_change_held_maps(
    images: Tensor, keep_gradients: bool
) -> None:
    model = InPlace()
    with FeatureMaps(model, "conv", keep_gradients=keep_gradients) as maps:
        output = model(images)
    torch.testing.assert_close(maps["conv"], model.conv(images))
    torch.testing.assert_close(output, model(images))


def test_a_module_called_twice_gives_a_list_in_call_order(images: Tensor) -> None:
    model = SharedHead()
    with FeatureMaps(model, "head") as maps:
        model(images)
    levels = maps["head"]
    assert isinstance(levels, list)
    assert [tuple(level.shape) for level in levels] == [(2, 4, 8, 8), (2, 4, 4, 4)]
    with pytest.raises(ValueError, match=r"'head' was called 2 times .* take the list"):
        maps.single("head")


def test_every_forward_drops_what_was_held(images: Tensor) -> None:
    model = tiny(5, width=4)
    with FeatureMaps(model, "stem") as maps:
        model(images)
        model(images[:1])
        assert maps.single("stem").shape == (1, 4, 8, 8)


@pytest.mark.parametrize("frozen_part", [False, True])
def test_the_model_is_left_as_found(images: Tensor, frozen_part: bool) -> None:
    model = tiny(5, width=4)
    if frozen_part:
        model.stem.eval()
    before = state_of(model)
    with FeatureMaps(model, ["stem", "blocks.2"], keep_gradients=True):
        model(images)
    assert state_of(model) == before


def test_the_model_is_left_as_found_after_an_exception(images: Tensor) -> None:
    model = tiny(5, width=4)
    before = state_of(model)
    with pytest.raises(RuntimeError, match="channels"), FeatureMaps(model, "blocks.2"):
        model(images[:, :1])
    assert state_of(model) == before


def test_the_models_own_hooks_stay_and_still_fire(images: Tensor) -> None:
    model, seen = tiny(5, width=4), []
    model.stem.register_forward_hook(lambda *_: seen.append("stem"))
    with FeatureMaps(model, "stem"):
        model(images)
    model(images)
    assert seen == ["stem", "stem"]


def test_outputs_are_unchanged_while_maps_are_captured(images: Tensor) -> None:
    model = tiny(5, width=4).eval()
    plain = model(images)
    with FeatureMaps(model, ["stem", "blocks", "blocks.2"], keep_gradients=True):
        assert torch.equal(model(images), plain)


def test_contexts_nest_on_one_model(images: Tensor) -> None:
    model = tiny(5, width=4)
    before = state_of(model)
    with FeatureMaps(model, "stem", keep_gradients=True) as outer:
        with FeatureMaps(model, ["stem", "blocks.2"]) as inner:
            model(images)
        assert torch.equal(outer.single("stem"), inner.single("stem"))
        model(images[:1])
    assert len(outer.single("stem")) == 1
    assert len(inner.single("stem")) == 2
    assert state_of(model) == before


def test_an_active_context_is_not_entered_twice() -> None:
    maps = FeatureMaps(tiny(5, width=4), "stem")
    with maps, pytest.raises(ValueError, match="already active; make a second one"):
        maps.__enter__()
    with maps:
        pass  # after it ended, it can be used again


def test_an_unknown_name_lists_near_matches() -> None:
    with pytest.raises(ValueError, match=r"no submodule 'block\.2'; near matches: blocks\.2"):
        FeatureMaps(tiny(5), "block.2")
    with pytest.raises(ValueError, match="its children: stem, blocks, head"):
        FeatureMaps(tiny(5), "zzz")
    with pytest.raises(ValueError, match="names is empty"):
        FeatureMaps(tiny(5), [])


def test_a_module_registered_under_two_names_is_found_under_both(images: Tensor) -> None:
    shared = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    assert find_module(model, "2") is shared
    with FeatureMaps(model, "2") as maps:
        model(images)
    assert len(maps["2"]) == 2


def test_an_output_that_is_no_map_names_module_type_and_remedy(images: Tensor) -> None:
    model = SharedHead()
    with FeatureMaps(model, ["flat", "pair"]) as maps:
        model(images)
    with pytest.raises(ValueError, match=r"'flat' returned a 2-d tensor of shape \(2, 4\), exp"):
        maps["flat"]
    with pytest.raises(ValueError, match=r"'pair' returned a tuple, expected one 4-d .*wrap"):
        maps["pair"]


def test_a_module_that_is_never_called_is_an_error_on_access(images: Tensor) -> None:
    model = SharedHead()
    with FeatureMaps(model, ["unused", "head"]) as maps:
        model(images)
        assert len(maps["head"]) == 2
        with pytest.raises(ValueError, match="'unused' was not called in the latest forward"):
            maps["unused"]
        with pytest.raises(ValueError, match="'flat' is not captured here; captured: unused, head"):
            maps["flat"]


def test_autocast_and_inference_mode_give_maps_of_their_precision(images: Tensor) -> None:
    model = tiny(5, width=4).eval()
    with FeatureMaps(model, "stem.0") as maps:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(images)
        assert maps.single("stem.0").dtype == torch.bfloat16
        with torch.inference_mode():
            model(images)
        assert maps.single("stem.0").shape == (2, 4, 8, 8)


@pytest.mark.parametrize("compiled_before", [True, False])
def test_a_compiled_wrapper_says_what_to_call(images: Tensor, compiled_before: bool) -> None:
    model = tiny(5, width=4).eval()
    compiled = torch.compile(model, backend="eager")
    if compiled_before:
        compiled(images)
    with FeatureMaps(compiled, "stem") as maps:
        compiled(images)
        with pytest.raises(ValueError, match=r"compiled model; call `maps\.model\(images\)`"):
            maps["stem"]
        maps.model(images)
        torch.testing.assert_close(maps["stem"], model.stem(images))
        compiled(images)  # drops the maps of the earlier images
        with pytest.raises(ValueError, match="hooks do not fire"):
            maps["stem"]
    assert maps.model is model


def test_a_model_compiled_in_place_runs_uncompiled_inside_only(images: Tensor) -> None:
    model = tiny(5, width=4).eval()
    model.compile(backend="eager")
    model(images)
    compiled_call = model._compiled_call_impl
    with FeatureMaps(model, "stem") as maps:
        model(images)
    assert maps.single("stem").shape == (2, 4, 8, 8)
    assert model._compiled_call_impl is compiled_call


def test_eval_mode_gives_every_submodule_its_own_mode_back() -> None:
    model = tiny(5, width=4)
    model.stem.eval()
    before = state_of(model)
    with eval_mode(model):
        assert not any(module.training for module in model.modules())
    assert state_of(model) == before
    with pytest.raises(RuntimeError, match="channels"), eval_mode(model):
        model(torch.zeros(1, 1, 8, 8))
    assert state_of(model) == before


@pytest.mark.parametrize(
    ("maps", "images"),
    [
        ((2, 64, 7, 7), (224, 224)),
        ((2, 64, 3, 4), (96, 128)),
        ((2, 64, 12, 16), (375, 500)),  # rounded up at each of five layers
        ((2, 64, 1, 1), (96, 128)),  # pooled
        ((2, 512, 1, 25), (32, 100)),  # a line of text: its height is used up
        ((2, 64, 64, 64), (64, 2048)),  # a range image: narrower by 32, not lower
        ((2, 64, 7, 7), (480, 640)),  # made square inside
        ((2, 64, 56, 56), (32, 32)),  # enlarged inside
        ((2, 7, 7, 7), (224, 224)),  # as many channels as rows
    ],
)
def test_maps_of_the_images_proportions_pass(maps, images) -> None:
    check_map(torch.zeros(maps), "layer", torch.Size((2, 3, *images)))


@pytest.mark.parametrize(
    ("maps", "images", "message"),
    [
        ((2, 7, 7, 768), (224, 224), r"\(2, 7, 7, 768\) for images of 224×224 .* channels last"),
        ((2, 56, 56, 96), (224, 224), "channels last.*such as 'permute' of torchvision's Swin"),
        ((2, 4, 4, 6), (32, 32), "channels last"),
        ((2, 24, 32, 48), (96, 128), "channels last"),
        ((2, 8, 11, 768), (230, 330), "channels last"),
        (
            (2, 12, 197, 64),
            (224, 224),
            "of the images' proportions; name a module whose output is a",
        ),
        ((2, 64, 7, 50), (224, 224), "of the images' proportions"),
        ((128, 96, 7, 7), (224, 224), r"a batch of 2, expected .* one map per image"),
    ],
)
def test_other_layouts_are_refused(maps, images, message) -> None:
    with pytest.raises(ValueError, match=message):
        check_map(torch.zeros(maps), "layer", torch.Size((2, 3, *images)))


def test_swin_s_stages_are_refused_and_its_permuted_maps_are_not() -> None:
    model = build_model("torchvision:swin_t", 3).eval()
    images = torch.zeros(1, 3, 64, 96)
    with FeatureMaps(model, ["features.7", "permute"]) as maps, torch.no_grad():
        model(images)
    assert maps.single("permute").shape == (1, 768, 2, 3)
    with pytest.raises(ValueError, match=r"'features.7' returned maps \(1, 2, 3, 768\) .*last"):
        maps.single("features.7")


class Backbone(nn.Module):
    """A convolution that may run without gradients, and a head."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first, self.conv = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 4, 1)
        self.head = nn.Linear(4, 5)
        if kind == "frozen":
            self.first.requires_grad_(False)
            self.conv.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        if self.kind == "no_grad":
            with torch.no_grad():
                maps = self.conv(self.first(images))
        elif self.kind in ("reentrant", "checkpointed"):
            again = self.kind == "reentrant"
            maps = checkpoint(self.conv, self.first(images), use_reentrant=again)
        else:
            maps = self.conv(self.first(images))
        return self.head(maps.mean(dim=(2, 3)))


@pytest.mark.parametrize("kind", ["no_grad", "reentrant", "frozen"])
def test_a_map_without_a_gradient_is_no_ground_for_a_loss(images: Tensor, kind: str) -> None:
    with FeatureMaps(Backbone(kind), "conv", keep_gradients=True) as maps:
        maps.model(images)
        with pytest.raises(ValueError, match=r"'conv' carry no gradient.*use_reentrant=False"):
            maps.take("conv")
        assert maps.single("conv").shape == (2, 4, 8, 8)


@pytest.mark.parametrize("kind", ["checkpointed", "plain"])
def test_a_map_with_a_gradient_is_taken_once(images: Tensor, kind: str) -> None:
    with FeatureMaps(Backbone(kind), "conv", keep_gradients=True) as maps:
        for _ in range(2):
            maps.model(images)
            assert maps.take("conv").requires_grad
            with pytest.raises(ValueError, match="was not called"):
                maps.take("conv")
