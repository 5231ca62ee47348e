"""FCOS: raw outputs give torchvision's own losses and boxes; what is refused."""

from functools import partial

import pytest
import torch
from torchvision.models.detection import fcos as torchvision_fcos
from torchvision.models.detection.anchor_utils import AnchorGenerator

from fmce.models.detection import DetectionOutput, detection_output, detections
from fmce.models.fcos import fcos

pytest.importorskip("timm")

small = partial(fcos, "test_resnet", 3, channels=32, convolutions=1, strides=(4, 8, 16))
TARGETS = [
    {"boxes": torch.tensor([[3.0, 5.0, 30.0, 40.0], [8.0, 8.0, 14.0, 20.0]]), "labels": [0, 2]},
    {"boxes": torch.zeros(0, 4), "labels": []},
]


def torchvision_around(model, **options):
    """Return torchvision's detector with our model's pyramid and head, and no change of the frame."""
    model.pyramid.out_channels = 32
    detector = torchvision_fcos.FCOS(
        model.pyramid,
        model.num_classes,
        min_size=64,
        max_size=128,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        anchor_generator=AnchorGenerator(tuple((s,) for s in model.strides), ((1.0,),) * 3),
        head=model.head,
        **options,
    )
    return detector.train(model.training)


def images():
    return torch.randn(2, 3, 64, 128, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = small()
    with torch.no_grad():  # away from the start, where every location says nearly the same
        for p in model.head.parameters():
            p += 0.1 * torch.randn_like(p)
        model.head.classification_head.cls_logits.bias.zero_()
    return model


def test_at_the_start_every_side_of_every_box_has_a_gradient():
    # torchvision's ReLU would end a side's gradient where its distance starts at 0 or below.
    assert small()(images()).distances.min() > 0


def test_raw_outputs_give_torchvisions_own_losses(model):
    targets = [t | {"labels": torch.tensor(t["labels"], dtype=torch.int64)} for t in TARGETS]
    theirs = torchvision_around(model)
    wanted = theirs(list(images()), targets)
    out = model(images())
    half = out.strides[:, None] / 2
    anchors = torch.cat([out.locations - half, out.locations + half], dim=1)
    raw = {
        "cls_logits": out.class_logits,
        "bbox_regression": out.distances / out.strides[:, None],
        "bbox_ctrness": out.centerness_logits[..., None],
    }
    got = theirs.compute_loss(targets, raw, [anchors] * 2, list(out.level_sizes))
    assert wanted.keys() == got.keys()
    assert all(torch.equal(wanted[k], got[k]) for k in wanted)


@pytest.mark.parametrize("threshold", [0.05, 0.4])
def test_raw_outputs_give_torchvisions_own_boxes(model, threshold):
    model.eval()
    theirs = torchvision_around(model, score_thresh=threshold)
    with torch.no_grad():
        wanted = theirs(list(images()))
        got = detections(model(images()), (64, 128), score_threshold=threshold)
    assert sum(len(image["boxes"]) for image in wanted) > 5
    for ours, reference in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours["boxes"], reference["boxes"])
        torch.testing.assert_close(ours["scores"], reference["scores"])
        assert torch.equal(ours["labels"], reference["labels"])


def test_outputs_are_raw_in_train_and_eval_mode(model):
    trained, evaluated = model(images()), model.eval()(images())
    for out in (trained, evaluated):
        assert out.class_logits.shape == (2, 16 * 32 + 8 * 16 + 4 * 8, 3)
        assert out.level_sizes == (512, 128, 32)
        assert (out.distances >= 0).all()


def test_locations_are_cells_times_stride_also_where_the_image_is_no_multiple(model):
    out = model(torch.zeros(1, 3, 45, 70))
    assert out.level_sizes == (12 * 18, 6 * 9, 3 * 5)
    first, last = out.levels()[0].locations, out.levels()[2].locations
    assert first[:2].tolist() == [[0, 0], [4, 0]]
    assert first[-1].tolist() == [68, 44]
    assert last[-1].tolist() == [64, 32]


def test_a_box_is_its_location_minus_and_plus_the_distances():
    out = DetectionOutput(
        torch.zeros(1, 1, 2),
        torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]),
        torch.zeros(1, 1),
        torch.tensor([[10.0, 20.0]]),
        torch.tensor([8.0]),
        (1,),
    )
    assert out.boxes().tolist() == [[[9, 18, 13, 24]]]


def test_levels_cut_every_output_alike(model):
    out = model(images())
    joined = [
        torch.cat(column, dim=1) for column in zip(*(v[:3] for v in out.levels()), strict=True)
    ]
    assert all(torch.equal(a, b) for a, b in zip(joined, out[:3], strict=True))


@pytest.mark.parametrize(("name", "width"), [("resnet18", 512), ("resnet50", 2048)])
def test_paper_sizes_have_five_levels_on_a_resnet(name, width):
    with torch.device("meta"):
        model = fcos(name, 10)
        out = model(torch.zeros(1, 3, 128, 256))
    assert model.pyramid.fpn.inner_blocks[-1][0].in_channels == width
    assert out.level_sizes == (512, 128, 32, 8, 2)
    assert out.class_logits.shape == (1, 682, 10)


def test_as_many_weights_as_torchvisions_detector():
    with torch.device("meta"):
        ours = fcos("resnet50", 91)
        theirs = torchvision_fcos.fcos_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=91
        )
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_detections_are_limited_and_fall_in_score(model):
    (image, _) = detections(model.eval()(images()), (64, 128), score_threshold=0.01, limit=5)
    assert len(image["scores"]) == 5
    assert image["scores"].tolist() == sorted(image["scores"].tolist(), reverse=True)
    assert image["boxes"].min() >= 0
    assert (image["boxes"].max(0).values <= torch.tensor([128, 64, 128, 64])).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strides": (4, 16)}, "twice the one before"),
        ({"strides": (64, 128)}, "has maps of strides"),
        ({"strides": (4, 8, 16, 32, 64)}, "two more"),
        ({"channels": 48}, "multiple of 32"),
        ({"weights": "coco"}, "None or 'imagenet'"),
        ({"num_classes": 0}, "at least 1"),
        ({"backbone": "resnet19"}, "timm model"),
        ({"backbone": "resnet18", "encoder_options": {"width": 2}}, "are for timm"),
        ({"encoder_options": {"colour": 2}}, "takes no option 'colour'"),
        ({"encoder_options": {"channels": 2}}, "gives no feature maps"),
    ],
)
def test_what_cannot_be_built_is_named(change, message):
    arguments = {"backbone": "test_resnet", "num_classes": 3} | change
    with pytest.raises(ValueError, match=message):
        fcos(**arguments)


def test_detectors_of_another_form_are_refused(model):
    out = model(images())
    assert detection_output(out, images(), 3) is out
    with pytest.raises(ValueError, match="got dict"):
        detection_output({"boxes": 1}, images(), 3)
    with pytest.raises(ValueError, match="of shapes"):
        detection_output(out, images(), 4)
