"""PSPNet: layout against parameter counts done by hand, sizes, the output type, refusals."""

import doctest

import pytest
import torch
from torch import Tensor, nn

from fmce.models import pspnet as module
from fmce.models.pspnet import (
    PyramidPooling,
    SegmentationOutput,
    head_channels,
    pspnet,
    segmentation_output,
)

pytest.importorskip("timm")

# Parameters of torchvision-style ResNets without their last linear layer, from He et al.'s layout.
RESNET18_ENCODER = 11_689_512 - (512 * 1000 + 1000)
RESNET101_ENCODER = 44_549_160 - (2048 * 1000 + 1000)


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _conv_bn(in_channels: int, out_channels: int, kernel: int) -> int:
    return in_channels * out_channels * kernel**2 + 2 * out_channels


def test_resnet18_pspnet_has_the_parameters_worked_out_by_hand():
    main = 4 * _conv_bn(512, 128, 1) + _conv_bn(512 + 4 * 128, 128, 3) + (128 * 19 + 19)
    auxiliary = _conv_bn(256, 64, 3) + (64 * 19 + 19)
    assert _parameters(pspnet("resnet18", 19)) == RESNET18_ENCODER + main + auxiliary
    assert _parameters(pspnet("resnet18", 19, auxiliary=False)) == RESNET18_ENCODER + main


def test_resnet101_pspnet_has_the_parameters_worked_out_by_hand():
    main = 4 * _conv_bn(2048, 512, 1) + _conv_bn(2048 + 4 * 512, 512, 3) + (512 * 19 + 19)
    auxiliary = _conv_bn(1024, 256, 3) + (256 * 19 + 19)
    with torch.device("meta"):
        model = pspnet("resnet101", 19)
    assert _parameters(model) == RESNET101_ENCODER + main + auxiliary


def test_heads_have_a_quarter_of_the_stage_and_at_least_32_channels():
    assert [head_channels(c) for c in (2048, 1024, 512, 192, 96)] == [512, 256, 128, 48, 32]


def test_the_encoder_keeps_an_eighth_of_the_image():
    maps = pspnet("test_resnet", 5).eval().encoder(torch.zeros(1, 3, 64, 96))
    assert [tuple(m.shape[2:]) for m in maps[-2:]] == [(8, 12), (8, 12)]


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (37, 50)])
def test_logits_have_the_images_size_also_where_8_does_not_divide_it(size):
    model = pspnet("test_resnet", 5)
    output = model(torch.randn(2, 3, *size))
    assert output.logits.shape == output.auxiliary_logits.shape == (2, 5, *size)


def test_train_and_eval_return_one_type_and_eval_skips_the_auxiliary_head():
    model = pspnet("test_resnet", 4)
    images = torch.randn(2, 3, 32, 32)
    assert isinstance(model(images), SegmentationOutput)
    output = model.eval()(images)
    assert isinstance(output, SegmentationOutput)
    assert output.auxiliary_logits is None


def test_without_auxiliary_head_train_mode_returns_no_auxiliary_logits():
    assert pspnet("test_resnet", 4, auxiliary=False)(torch.randn(2, 3, 32, 32))[1] is None


def test_every_parameter_gets_a_gradient_from_the_two_outputs():
    model = pspnet("test_resnet", 4, dropout=0.0)
    output = model(torch.randn(2, 3, 48, 48))
    (output.logits.square().mean() + output.auxiliary_logits.square().mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_training_batch_of_one_is_refused_with_a_remedy_and_eval_takes_it():
    model = pspnet("test_resnet", 4)
    with pytest.raises(ValueError, match=r"batch of one image.*drop_last=True"):
        model(torch.randn(1, 3, 32, 32))
    assert model.eval()(torch.randn(1, 3, 32, 32)).logits.shape == (1, 4, 32, 32)


def test_pyramid_pooling_of_a_constant_map_is_constant():
    pyramid = PyramidPooling(8).eval()
    pooled = pyramid(torch.full((1, 8, 7, 9), 3.0))
    assert pooled.shape == (1, 16, 7, 9)
    torch.testing.assert_close(pooled, pooled[..., :1, :1].expand_as(pooled))


def test_the_coarsest_pyramid_level_is_the_mean_over_the_map():
    pyramid = PyramidPooling(4, bins=(1,)).eval()
    maps = torch.randn(2, 4, 5, 6)
    conv = pyramid.reduce[0][0].weight[:, :, 0, 0]
    expected = torch.relu(maps.mean((2, 3)) @ conv.T / (1 + 1e-5) ** 0.5)
    torch.testing.assert_close(pyramid(maps)[:, 4:, 2, 3], expected)


def test_an_image_of_a_batch_does_not_change_another_ones_logits_in_eval():
    model = pspnet("test_resnet", 4).eval()
    images = torch.randn(2, 3, 40, 40)
    torch.testing.assert_close(
        model(images).logits[:1], model(images[:1]).logits, rtol=1e-4, atol=1e-5
    )


def test_the_model_exports_and_the_exported_program_gives_the_same_logits():
    model = pspnet("test_resnet", 4).eval()
    images = torch.randn(1, 3, 40, 56)
    exported = torch.export.export(model, (images,)).module()
    torch.testing.assert_close(exported(images).logits, model(images).logits)


def test_a_state_dict_loads_strictly_into_a_second_model():
    first, second = pspnet("test_resnet", 4).eval(), pspnet("test_resnet", 4).eval()
    second.load_state_dict(first.state_dict(), strict=True)
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(first(images).logits, second(images).logits)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder": "resnet1"}, "name of a timm model"),
        ({"encoder": "vit_tiny_patch16_224"}, "output_stride=8|stride 16"),
        ({"num_classes": 1}, "num_classes"),
        ({"weights": "cityscapes"}, "'imagenet'"),
        ({"output_stride": 4}, "output_stride"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        pspnet(**{"encoder": "test_resnet", "num_classes": 4, **arguments})


def test_tensors_and_torchvision_mappings_become_the_one_output_type():
    images, logits = torch.zeros(2, 3, 8, 8), torch.zeros(2, 5, 8, 8)
    assert segmentation_output(logits, images).logits is logits
    both = segmentation_output({"out": logits, "aux": logits + 1}, images)
    assert isinstance(both.auxiliary_logits, Tensor)
    assert segmentation_output(both, images) is both


def test_models_that_return_something_else_are_refused():
    images = torch.zeros(2, 3, 8, 8)
    with pytest.raises(ValueError, match="got list"):
        segmentation_output([torch.zeros(2, 5, 8, 8)], images)
    with pytest.raises(ValueError, match="upsample"):
        segmentation_output(torch.zeros(2, 5, 4, 4), images)


def test_the_docstrings_examples_hold():
    assert doctest.testmod(module).failed == 0
