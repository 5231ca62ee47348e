"""AP against pycocotools and a small evaluator of its own: crowds, inclusive boxes, empty images."""

import contextlib
import io
import math

import numpy as np
import pytest
import torch

from fmce.metrics.detection import (
    DetectionAgreement,
    class_kl_sum,
    detection_scores,
    teacher_as_truth,
)

pytest.importorskip("faster_coco_eval")
NAMES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)


def truth(*rows):
    """Boxes x1, y1, x2, y2, label, ignored."""
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
    return {
        "boxes": table[:, :4],
        "labels": table[:, 4].long(),
        "ignored": table[:, 5].bool(),
    }


def predicted(*rows):
    """Boxes x1, y1, x2, y2, label, score."""
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
    return {"boxes": table[:, :4], "labels": table[:, 4].long(), "scores": table[:, 5]}


def random_set(seed, images=30, classes=3):
    """Truth with crowds and empty images; predictions near it, doubled, shifted and made up."""
    rng = np.random.default_rng(seed)
    wanted, got = [], []
    for _ in range(images):
        rows, found = [], []
        for _ in range(rng.integers(0, 6)):
            x, y = rng.uniform(0, 400, 2)
            w, h = np.exp(rng.uniform(np.log(6), np.log(250), 2))
            label = rng.integers(classes)
            rows.append((x, y, x + w, y + h, label, rng.random() < 0.2))
            for _ in range(rng.integers(0, 3)):
                dx, dy, dw, dh = rng.normal(0, 0.08, 4) * [w, h, w, h]
                other = label if rng.random() < 0.9 else rng.integers(classes)
                box = (x + dx, y + dy, x + dx + max(1, w + dw), y + dy + max(1, h + dh))
                found.append((*box, other, round(rng.random(), 4)))
        for _ in range(rng.integers(0, 3)):
            x, y = rng.uniform(0, 400, 2)
            found.append((x, y, x + 40, y + 30, rng.integers(classes), round(rng.random(), 4)))
        wanted.append(truth(*rows))
        got.append(predicted(*found))
    return wanted, got


def by_pycocotools(wanted, got, classes):
    coco, evaluate = (
        pytest.importorskip("pycocotools.coco"),
        pytest.importorskip("pycocotools.cocoeval"),
    )

    def rows(image):
        box = image["boxes"].numpy()
        return np.concatenate([box[:, :2], box[:, 2:] - box[:, :2]], 1).tolist()

    annotations, results = [], []
    for i, (t, p) in enumerate(zip(wanted, got, strict=True)):
        for box, label, crowd in zip(rows(t), t["labels"], t["ignored"], strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": int(label),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(crowd),
                }
            )
        for box, label, score in zip(rows(p), p["labels"], p["scores"], strict=True):
            results.append(
                {"image_id": i, "category_id": int(label), "bbox": box, "score": float(score)}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        api = coco.COCO()
        api.dataset = {
            "images": [{"id": i} for i in range(len(wanted))],
            "categories": [{"id": c} for c in range(classes)],
            "annotations": annotations,
        }
        api.createIndex()
        evaluation = evaluate.COCOeval(api, api.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("seed", [0, 1])
def test_the_twelve_numbers_are_pycocotools(seed):
    wanted, got = random_set(seed)
    ours = detection_scores(wanted, got, 3)
    reference = by_pycocotools(wanted, got, 3)
    assert [ours.values[name] for name in NAMES] == pytest.approx(list(reference), abs=1e-9)
    assert 0.05 < ours.ap < 0.95


def iou(a, b, *, crowd):
    across = min(a[2], b[2]) - max(a[0], b[0])
    down = min(a[3], b[3]) - max(a[1], b[1])
    inside = max(0, across) * max(0, down)
    size = (a[2] - a[0]) * (a[3] - a[1])
    other = (b[2] - b[0]) * (b[3] - b[1])
    return inside / (size if crowd else size + other - inside)


def own_ap(wanted, got, label, threshold):
    """Match the highest scores first, ignored regions last and as often as they are met."""
    outcomes, boxes = [], 0
    for t, p in zip(wanted, got, strict=True):
        mine = [
            (b.tolist(), bool(c))
            for b, k, c in zip(t["boxes"], t["labels"], t["ignored"], strict=True)
            if k == label
        ]
        boxes += sum(not c for _, c in mine)
        taken = set()
        order = sorted(
            (
                (-float(s), b.tolist())
                for b, k, s in zip(p["boxes"], p["labels"], p["scores"], strict=True)
                if k == label
            ),
            key=lambda row: row[0],
        )
        for score, box in order:
            free = [
                (iou(box, b, crowd=False), j)
                for j, (b, c) in enumerate(mine)
                if not c and j not in taken
            ]
            best = max(free, default=(0, None))
            if best[0] >= threshold:
                taken.add(best[1])
                outcomes.append((score, True))
            elif not any(c and iou(box, b, crowd=True) >= threshold for b, c in mine):
                outcomes.append((score, False))
    outcomes.sort(key=lambda row: row[0])
    hits = np.cumsum([hit for _, hit in outcomes])
    recall, precision = hits / boxes, hits / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    return np.mean([precision[i] if i < len(precision) else 0 for i in at])


def test_ap_of_each_class_is_that_of_a_small_evaluator():
    wanted, got = random_set(2)
    ours = detection_scores(wanted, got, 3)
    thresholds = np.linspace(0.5, 0.95, 10)
    for label in range(3):
        expected = np.mean([own_ap(wanted, got, label, t) for t in thresholds])
        assert ours.by_class[label] == pytest.approx(expected, abs=1e-6)
    assert ours.ap == pytest.approx(np.mean(ours.by_class))


def test_a_prediction_in_an_ignored_region_is_no_mistake():
    wanted = [truth((0, 0, 50, 50, 0, 1), (60, 60, 80, 80, 0, 0))]
    right = (60, 60, 80, 80, 0, 0.5)
    assert detection_scores(wanted, [predicted((5, 5, 15, 15, 0, 0.9), right)], 1).ap == 1
    assert detection_scores(wanted, [predicted((85, 5, 95, 15, 0, 0.9), right)], 1).ap == 0.5
    assert detection_scores(wanted, [predicted(right)], 1).boxes == 1


def test_inclusive_boxes_count_their_last_pixel():
    # Inclusive 10 … 19 is 10 pixels wide; against 10 … 14 the overlap is exactly ½.
    wanted = [truth((10, 10, 20, 20, 0, 0))]
    half = [predicted((10, 10, 15, 20, 0, 0.9))]
    assert detection_scores(wanted, half, 1).values["ap50"] == 1
    exclusive = [truth((10, 10, 19, 19, 0, 0))]
    narrower = [predicted((10, 10, 14, 19, 0, 0.9))]
    assert detection_scores(exclusive, narrower, 1).values["ap50"] == 0


def test_empty_images_lower_precision_only_by_what_is_found_there():
    wanted = [truth((0, 0, 10, 10, 0, 0)), truth()]
    hit = predicted((0, 0, 10, 10, 0, 0.5))
    assert detection_scores(wanted, [hit, predicted()], 1).ap == 1
    assert detection_scores(wanted, [hit, predicted((0, 0, 10, 10, 0, 0.9))], 1).ap == 0.5


def test_without_predictions_ap_is_zero_and_without_truth_undefined():
    box = truth((0, 0, 10, 10, 0, 0))
    assert detection_scores([box], [predicted()], 2).ap == 0
    assert math.isnan(detection_scores([box], [predicted()], 2).by_class[1])
    empty = detection_scores([truth()], [predicted((0, 0, 9, 9, 0, 0.5))], 1)
    assert math.isnan(empty.ap)
    assert empty.to_dict(["car"])["ap"] is None
    assert empty.to_dict(["car"])["ap_by_class"] == {"car": None}


@pytest.mark.parametrize(
    ("wanted", "got", "message"),
    [
        ([truth()], [], "1 images with truth and 0"),
        ([truth((0, 0, 5, 5, 3, 0))], [predicted()], "labels 0 … 2, got 3"),
        ([truth((9, 0, 5, 5, 0, 0))], [predicted()], "x1 ≤ x2"),
    ],
)
def test_wrong_boxes_are_named(wanted, got, message):
    with pytest.raises(ValueError, match=message):
        detection_scores(wanted, got, 3)


def test_class_kl_by_hand():
    p, q = 0.2, 0.7
    logits = [torch.tensor([[math.log(v / (1 - v)), 0.0]]) for v in (q, p)]
    wanted = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert class_kl_sum(*logits).item() == pytest.approx(wanted, rel=1e-5)


def test_agreement_takes_the_teachers_sure_boxes_as_truth():
    teacher = predicted((0, 0, 10, 10, 0, 0.9), (20, 20, 40, 40, 1, 0.31), (5, 5, 9, 9, 0, 0.29))
    assert len(teacher_as_truth(teacher)["labels"]) == 2
    agreement = DetectionAgreement(2)
    student = predicted((0, 0, 10, 10, 0, 0.5), (20, 20, 40, 40, 1, 0.2))
    logits = torch.zeros(1, 7, 2)
    agreement.update([student], [teacher], logits, logits)
    result = agreement.compute()
    assert result["ap_to_teacher"] == 1
    assert result["teacher_boxes"] == 2
    assert result["mean_kl"] == 0
    assert result["positions"] == 7
