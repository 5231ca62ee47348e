"""Losses of detectors: by hand, by another implementation, and against torchvision's own."""

import math
from typing import NamedTuple

import pytest
import torch
from torchvision.models.detection.fcos import FCOS, FCOSHead

from fmce.losses.detection import assign_boxes, detection_distillation, fcos_losses


class Output(NamedTuple):
    class_logits: torch.Tensor
    distances: torch.Tensor
    centerness_logits: torch.Tensor
    locations: torch.Tensor
    strides: torch.Tensor
    level_sizes: tuple[int, ...]


def grid(height, width, strides):
    places, steps, sizes = [], [], []
    for stride in strides:
        cells = [(x, y) for y in range(0, height, stride) for x in range(0, width, stride)]
        places += cells
        steps += [stride] * len(cells)
        sizes.append(len(cells))
    return torch.tensor(places).float(), torch.tensor(steps).float(), tuple(sizes)


def random_output(seed, batch=2, classes=3, scale=1.0):
    g = torch.Generator().manual_seed(seed)
    locations, strides, sizes = grid(64, 96, (8, 16, 32))
    n = len(locations)
    return Output(
        scale * torch.randn(batch, n, classes, generator=g),
        torch.rand(batch, n, 4, generator=g) * 3 * strides[:, None],
        torch.randn(batch, n, generator=g),
        locations,
        strides,
        sizes,
    )


def one_place(logits, distances, centerness):
    return Output(
        torch.tensor([[logits]]),
        torch.tensor([[distances]]),
        torch.tensor([[centerness]]),
        torch.zeros(1, 2),
        torch.ones(1),
        (1,),
    )


def test_distillation_of_one_place_by_hand():
    # teacher: p = ½, c = ½, so w = ½ and Σw is clamped to 1; its box is 2×2, the student's 4×2 around it.
    teacher = one_place([0.0], [1.0, 1.0, 1.0, 1.0], 0.0)
    student = one_place([math.log(3.0)], [3.0, 1.0, 1.0, 1.0], math.log(3.0))
    losses = detection_distillation(student, teacher)
    bce = -0.5 * math.log(0.75) - 0.5 * math.log(0.25)
    assert losses.classes.item() == pytest.approx(bce)
    assert losses.boxes.item() == pytest.approx(0.5 * (1 - 0.5))
    assert losses.centerness.item() == pytest.approx(0.5 * bce)
    assert losses.total().item() == pytest.approx(1.5 * bce + 0.25)


def by_loops(student, teacher):
    """Sum place by place in float64."""
    sums, weights = [0.0, 0.0, 0.0], 0.0

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    def bce(q, p):
        return -p * math.log(q) - (1 - p) * math.log(1 - q)

    def giou(a, b):
        inter = (min(a[0], b[0]) + min(a[2], b[2])) * (min(a[1], b[1]) + min(a[3], b[3]))
        area = [(v[0] + v[2]) * (v[1] + v[3]) for v in (a, b)]
        hull = (max(a[0], b[0]) + max(a[2], b[2])) * (max(a[1], b[1]) + max(a[3], b[3]))
        union = sum(area) - inter
        return inter / union - (hull - union) / hull

    for i in range(len(student.class_logits)):
        for j in range(len(student.locations)):
            p = [sigmoid(v) for v in teacher.class_logits[i, j].tolist()]
            q = [sigmoid(v) for v in student.class_logits[i, j].tolist()]
            c, d = (sigmoid(o.centerness_logits[i, j].item()) for o in (teacher, student))
            w = math.sqrt(max(p) * c)
            weights += w
            sums[0] += sum(bce(b, a) for a, b in zip(p, q, strict=True))
            pair = (student.distances[i, j].tolist(), teacher.distances[i, j].tolist())
            sums[1] += w * (1 - giou(*pair))
            sums[2] += w * bce(d, c)
    return [s / max(weights, 1) for s in sums]


def test_distillation_agrees_with_loops_over_places():
    student, teacher = random_output(1), random_output(2)
    got = [v.item() for v in detection_distillation(student, teacher)[:3]]
    assert got == pytest.approx(by_loops(student, teacher), rel=1e-4)


def test_no_gradient_reaches_the_teacher_and_a_copy_has_none_in_boxes():
    teacher = random_output(3)
    leaves = [teacher.class_logits, teacher.distances, teacher.centerness_logits]
    mine = [v.clone().requires_grad_() for v in leaves]
    theirs = [v.clone().requires_grad_() for v in leaves]
    losses = detection_distillation(Output(*mine, *teacher[3:]), Output(*theirs, *teacher[3:]))
    losses.total().backward()
    assert all(v.grad is None for v in theirs)
    assert losses.boxes.item() == pytest.approx(0, abs=1e-5)
    # The cross-entropies are at their least, the teacher's own entropy: nothing pulls.
    assert mine[0].grad.abs().max() < 1e-6
    assert mine[2].grad.abs().max() < 1e-6


def test_sum_of_weights_is_the_divisor():
    student, teacher = random_output(4), random_output(5)
    one = detection_distillation(student, teacher)
    twice = detection_distillation(
        Output(*(torch.cat([v, v]) for v in student[:3]), *student[3:]),
        Output(*(torch.cat([v, v]) for v in teacher[:3]), *teacher[3:]),
    )
    assert [v.item() for v in twice[:3]] == pytest.approx([v.item() for v in one[:3]], rel=1e-5)
    assert twice.divisor.item() == pytest.approx(2 * one.divisor.item())


def test_bfloat16_outputs_are_compared_in_float32():
    teacher = random_output(6)
    half = Output(*(v.bfloat16() for v in teacher[:3]), *teacher[3:])
    assert all(v.dtype == torch.float32 for v in detection_distillation(half, half))


def test_other_levels_or_classes_are_refused():
    student = random_output(7)
    with pytest.raises(ValueError, match="same strides"):
        detection_distillation(student, random_output(7, classes=4))
    with pytest.raises(ValueError, match="same strides"):
        detection_distillation(student, student._replace(level_sizes=(96 + 24, 6)))


BOXES = [
    [[10, 8, 30, 40, 0], [12, 10, 20, 22, 2], [0, 0, 96, 64, 1], [70, 30, 71, 32, 1]],
    [],
    [[50, 20, 90, 60, 2], [40, 0, 96, 64, 0]],
]


def torchvision_losses(output, targets):
    half = output.strides[:, None] / 2
    anchors = torch.cat([output.locations - half, output.locations + half], dim=1)
    detector = FCOS.__new__(FCOS)
    torch.nn.Module.__init__(detector)
    detector.center_sampling_radius = 1.5
    detector.head = FCOSHead(32, 1, output.class_logits.shape[2])
    raw = {
        "cls_logits": output.class_logits,
        "bbox_regression": output.distances / output.strides[:, None],
        "bbox_ctrness": output.centerness_logits[..., None],
    }
    return detector.compute_loss(targets, raw, [anchors] * len(targets), list(output.level_sizes))


def padded(rows):
    boxes, labels = torch.zeros(len(rows), 4, 4), torch.full((len(rows), 4), -1)
    for i, image in enumerate(rows):
        for j, (*box, label) in enumerate(image):
            boxes[i, j], labels[i, j] = torch.tensor(box), label
    return boxes, labels


def test_supervised_losses_are_torchvisions():
    output = random_output(8, batch=3)
    targets = [
        {
            "boxes": torch.tensor([r[:4] for r in image]).float().reshape(-1, 4),
            "labels": torch.tensor([r[4] for r in image], dtype=torch.int64),
        }
        for image in BOXES
    ]
    wanted = torchvision_losses(output, targets)
    got = fcos_losses(output, *padded(BOXES))
    assert got.classes.item() == pytest.approx(wanted["classification"].item(), rel=1e-5)
    assert got.boxes.item() == pytest.approx(wanted["bbox_regression"].item(), rel=1e-4)
    assert got.centerness.item() == pytest.approx(wanted["bbox_ctrness"].item(), rel=1e-5)


def test_a_location_takes_the_smallest_box_around_it():
    output = random_output(9, batch=1)
    boxes, labels = padded([[[0, 0, 32, 32, 0], [10, 10, 22, 22, 1]]])
    which = assign_boxes(output, boxes, labels)[0]
    at = [output.locations[i].tolist() for i in (which == 1).nonzero()[:, 0]]
    assert at == [[16, 16]]  # 8, 8 and 24, 24 lie outside; coarser levels want larger boxes
    assert (which == 0).sum() == 8


def test_without_a_box_everything_is_background():
    output = random_output(10)
    losses = fcos_losses(output, torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64))
    assert losses.boxes.item() == losses.centerness.item() == losses.divisor.item() == 0
    assert losses.classes.item() > 0


def test_boxes_of_another_batch_are_refused():
    with pytest.raises(ValueError, match="for 2 images"):
        fcos_losses(random_output(11), torch.zeros(3, 1, 4), torch.zeros(3, 1))
