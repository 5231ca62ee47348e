"""What is known of a model before its first epoch."""

import doctest
import re

import pytest
import torch
from torch import nn

from fmce.models import checks, compiled
from fmce.models.build import build_model
from fmce.models.checks import check_channels_last, check_classifier

CPU = torch.device("cpu")


def test_narrow_strided_convolutions_are_refused_in_channels_last_on_the_cpu():
    narrow = build_model("tiny", 10, options={"width": 4})
    with pytest.raises(ValueError, match=r"blocks\.1\.shortcut\.0 is a strided 1×1 convolution"):
        check_channels_last(narrow, CPU)
    check_channels_last(narrow, torch.device("cuda"))


@pytest.mark.parametrize("name", ["tiny", "torchvision:resnet18", "torchvision:shufflenet_v2_x1_0"])
def test_the_papers_networks_and_tiny_are_accepted(name):
    with torch.device("meta"):
        check_channels_last(build_model(name, 10), CPU)


@pytest.mark.parametrize("name", ["torchvision:alexnet", "timm:vit_tiny_patch16_224"])
def test_images_of_a_size_that_a_model_cannot_take_are_refused(name):
    with torch.device("meta"):
        model = build_model(name, 10)
    with pytest.raises(ValueError, match=r"cannot take images of 16×16 pixels .* data\.image_size"):
        check_classifier(model, 16, 10)


@pytest.mark.parametrize("outputs", [9, 11])
def test_a_model_without_one_logit_a_class_is_refused(outputs):
    model = build_model("tiny", outputs, options={"width": 4})
    message = rf"expected logits of shape \(1, 10\) for one image, .*got \(1, {outputs}\)"
    with pytest.raises(ValueError, match=message):
        check_classifier(model, 16, 10)


def test_a_model_that_gives_no_logits_alone_is_refused():
    class Two(nn.Identity):
        def forward(self, images):
            return images, images

    with pytest.raises(ValueError, match="got tuple from Two; let its builder"):
        check_classifier(Two(), 16, 10)


def _frozen():
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 10)).requires_grad_(False)


def _in_half():
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 10)).half()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (_frozen, "no weight that trains"),
        (_in_half, r"weights in float32, got torch.float16 .*runtime.precision"),
    ],
)
def test_a_model_whose_weights_cannot_be_trained_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        check_classifier(build(), 4, 10)


def _pooled_norm():
    """A network whose second norm layer sees 1×1 maps."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.AdaptiveAvgPool2d(1),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(4, 10),
    )


@pytest.mark.parametrize(("images", "size"), [(33, 32), (65, 16), (7, 1)])
def test_a_last_batch_of_one_image_is_refused_where_a_norm_gets_one_value(images, size):
    message = r"'3' normalises over the batch .*set train.batch_size to another size, such as (\d+)"
    with pytest.raises(ValueError, match=message) as refused:
        check_classifier(_pooled_norm(), 8, 10, (images, size))
    better = int(re.search(r"such as (\d+)", str(refused.value))[1])
    assert images % better != 1


def test_a_last_batch_of_one_image_does_elsewhere():
    check_classifier(_pooled_norm(), 8, 10, (34, 32))
    check_classifier(_pooled_norm(), 8, 10, (32, 32))
    check_classifier(
        nn.Sequential(*list(_pooled_norm())[:3], *list(_pooled_norm())[4:]), 8, 10, (33, 32)
    )
    frozen = _pooled_norm()
    frozen[3].eval()
    check_classifier(frozen, 8, 10, (33, 32))
    assert not any(m._forward_pre_hooks for m in frozen.modules())


def test_checking_leaves_the_model_and_random_draws_as_they_were():
    model = build_model("tiny", 10, options={"width": 4})
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.random.get_rng_state()
    check_classifier(nn.Sequential(model, nn.Dropout()), 16, 10)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training


@pytest.mark.parametrize("module", [checks, compiled])
def test_examples_of_checks_hold(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("broken", [True, False])
def test_logits_that_are_not_finite_are_refused_before_any_training(broken):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5))
    if broken:
        nn.init.constant_(model[1].bias, float("nan"))
    else:
        model.append(nn.Softmax(1)).register_forward_hook(lambda _m, _i, y: y / 0)
    message = "first 1.bias: load others" if broken else "check its forward"
    with pytest.raises(
        ValueError, match=f"NaN or infinite logits before any training; .*{message}"
    ):
        check_classifier(model, 8, 5)
