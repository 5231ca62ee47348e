import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fmce.models.build import _with_new_head, build_model, default_layer, feature_shape
from fmce.models.features import FeatureMaps
from fmce.models.tiny import TinyNet

OWN_MODELS = """
from torch import nn
def small(num_classes, width=4, in_channels=3):
    head = nn.LazyLinear(num_classes)
    return nn.Sequential(nn.Conv2d(in_channels, width, 3), nn.Flatten(1), head)
def number(num_classes):
    return num_classes
"""


def on_meta(name: str, num_classes: int = 7) -> nn.Module:
    """Build without memory or initialisation; shapes still work."""
    with torch.device("meta"):
        return build_model(name, num_classes)


@pytest.fixture
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_models_for_test.py").write_text(OWN_MODELS)
    (tmp_path / "broken_models_for_test.py").write_text("import not_there_for_test")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_models_for_test", raising=False)
    return "own_models_for_test"


def test_tiny_takes_options_and_channels() -> None:
    model = build_model("tiny", 4, in_channels=1, options={"width": 8})
    assert isinstance(model, TinyNet)
    assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 4)
    assert model.head.in_features == 32
    assert default_layer(model, "tiny") == "blocks.2"
    assert feature_shape(model, "blocks.2", (1, 16, 16)) == (32, 4, 4)


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("resnet50", "layer4", (2048, 7, 7)),
        ("resnext50_32x4d", "layer4", (2048, 7, 7)),
        ("shufflenet_v2_x1_0", "conv5", (1024, 7, 7)),
        ("mobilenet_v3_small", "features", (576, 7, 7)),
        ("vgg11", "features", (512, 7, 7)),
        ("googlenet", "inception5b", (1024, 7, 7)),
        ("swin_t", "permute", (768, 7, 7)),
    ],
)
def test_torchvision_maps_have_the_known_shape(
    name: str, layer: str, shape: tuple[int, int, int]
) -> None:
    model = on_meta(f"torchvision:{name}")
    assert default_layer(model, f"torchvision:{name}") == layer
    assert feature_shape(model, layer, (3, 224, 224)) == shape


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "resnet18", "regnet_y_400mf"])
def test_the_mean_of_the_default_maps_is_what_the_classifier_sees(name: str) -> None:
    model = build_model(f"torchvision:{name}", 3).eval()
    layer = default_layer(model, f"torchvision:{name}")
    with FeatureMaps(model, layer) as maps, torch.no_grad():
        logits = model(torch.randn(2, 3, 32, 32))
        torch.testing.assert_close(logits, model.fc(maps.single(layer).mean(dim=(2, 3))))


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_models_with_auxiliary_heads_return_plain_logits_in_training(name: str) -> None:
    logits = on_meta(f"torchvision:{name}").train()(torch.zeros(2, 3, 299, 299, device="meta"))
    assert isinstance(logits, Tensor)
    assert logits.shape == (2, 7)


@pytest.mark.parametrize(
    "name", ["resnet18", "vgg11", "squeezenet1_0", "mobilenet_v2", "densenet121", "vit_b_16"]
)
def test_a_new_head_has_the_asked_number_of_classes(name: str) -> None:
    model = on_meta(f"torchvision:{name}", num_classes=1000)
    with torch.device("meta"):
        replaced = _with_new_head(model, 5)
    assert replaced.eval()(torch.zeros(1, 3, 224, 224, device="meta")).shape == (1, 5)


def test_timm_models_build_and_tap_their_last_stage() -> None:
    model = build_model("timm:test_resnet", 4, in_channels=1)
    layer = default_layer(model, "timm:test_resnet")
    assert layer == "layer4"
    assert feature_shape(model, layer, (1, 64, 64)) == (96, 2, 2)
    assert model(torch.zeros(1, 1, 64, 64)).shape == (1, 4)


def test_own_functions_get_classes_options_and_unusual_channels(own_models: str) -> None:
    name = f"{own_models}:small"
    assert feature_shape(build_model(name, 5, options={"width": 6}), "0", (3, 5, 5)) == (6, 3, 3)
    assert build_model(name, 5, in_channels=1)(torch.zeros(2, 1, 5, 5)).shape == (2, 5)


def test_own_functions_that_fit_badly_are_refused(own_models: str) -> None:
    with pytest.raises(ValueError, match=r"returned a int, expected an nn\.Module"):
        build_model(f"{own_models}:number", 5)
    with pytest.raises(ValueError, match="could not be built with num_classes=5, depth=2"):
        build_model(f"{own_models}:small", 5, options={"depth": 2})
    with pytest.raises(ValueError, match=f"near: {own_models}:small"):
        build_model(f"{own_models}:smal", 5)
    with pytest.raises(ModuleNotFoundError, match="not_there_for_test"):
        build_model("broken_models_for_test:small", 5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tinny", "expected a model, got 'tinny'; near: tiny"),
        ("resnet50", "near: .*torchvision:resnet50"),
        ("zzzzzz", "expected a model, got .zzzzzz.; choose from tiny, torchvision:NAME"),
        ("..up:net", "expected module:function with the full name of a module, got ..up:net"),
        (":net", "expected module:function with the full name of a module, got :net"),
        ("torchvision:resnet51", "expected a torchvision model, got 'resnet51'; near: .*resnet50"),
        ("timm:resnet51", "expected a timm model, got 'resnet51'; near: .*resnet50"),
        ("no_such_package_here:net", "cannot import module 'no_such_package_here'.*PYTHONPATH"),
    ],
)
def test_unknown_names_give_near_ones_or_the_forms(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(name, 10)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("tiny", "DEFAULT", "'tiny' has no pretrained weights"),
        (
            "torchvision:resnet18",
            "DEFALT",
            "expected the name of weights, got 'DEFALT'; near: DEFAULT",
        ),
        ("timm:test_resnet", "DEFAULT", "None or 'pretrained', got 'DEFAULT'"),
    ],
)
def test_weights_that_do_not_exist_are_refused(name: str, weights: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(name, 10, weights=weights)


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        build_model("tiny", 0)
    with pytest.raises(ValueError, match="options holds 'num_classes'"):
        build_model("tiny", 2, options={"num_classes": 3})
    with pytest.raises(ValueError, match="3 channels, got 1; replicate grey"):
        build_model("torchvision:resnet18", 10, in_channels=1)


def test_an_unknown_family_asks_for_the_tap_and_lists_modules(own_models: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    with pytest.raises(ValueError, match=r"name the module to measure \(layer\).*such as: 0, 2"):
        default_layer(model, f"{own_models}:small")
    with pytest.raises(ValueError, match="'torchvision:vit_b_16' is not known"):
        default_layer(on_meta("torchvision:vit_b_16"), "torchvision:vit_b_16")
    swin = on_meta("timm:swin_tiny_patch4_window7_224")
    with pytest.raises(ValueError, match="is not known"):  # its maps have channels last
        default_layer(swin, "timm:swin_tiny_patch4_window7_224")


def test_feature_shape_leaves_the_model_as_found() -> None:
    model = build_model("tiny", 4)
    model.get_submodule("stem").eval()
    modes = [module.training for module in model.modules()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    feature_shape(model, "blocks.2", (3, 16, 16), device="cpu")
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(buffers[name], b) for name, b in model.named_buffers())
    with pytest.raises(ValueError, match=r"'head' returned a 2-d tensor"):
        feature_shape(model, "head", (3, 16, 16))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("torchvision:resnet18", {"weights": "DEFAULT"}),
        ("torchvision:resnet18", {"width": 3}),
        ("timm:test_resnet", {"checkpoint_path": "weights.pth"}),
        ("timm:test_resnet", {"pretrained_cfg": {"file": "weights.pth"}}),
        ("timm:test_resnet", {"pretrained_cfg_overlay": {"url": "http://localhost/weights.pth"}}),
        ("timm:efficientvit_b0", {"cache_dir": "here"}),
    ],
)
def test_options_load_no_weights_and_are_the_constructors(name: str, options: dict) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    with pytest.raises(ValueError, match=f"'{name}' takes no option '{next(iter(options))}'"):
        build_model(name, 3, options=options)


def test_asking_for_a_constructor_draws_no_random_numbers() -> None:
    pytest.importorskip("timm")
    torch.manual_seed(1)
    plain = build_model("timm:efficientvit_b0", 3).state_dict()
    torch.manual_seed(1)
    other = build_model("timm:efficientvit_b0", 3, options={"drop_rate": 0.5}).state_dict()
    assert all(torch.equal(plain[key], other[key]) for key in plain)
