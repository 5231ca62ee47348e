"""The section on function matching claims a gain, a loss or neither by the interval, not by the mean."""

import importlib

import pytest


def row(low, high, what="CamVid"):
    means = {"supervised": 0.40, "distilled": 0.38, "function_matching": 0.43}
    alike = {"validation": 0.8, "held_out_frames": 0.7}
    comparison = {
        "arm": "function_matching",
        "n": 3,
        "confidence": 0.95,
        "mean_difference": (low + high) / 2,
        "interval_low": low,
        "interval_high": high,
    }
    net = {"name": "pspnet:test_resnet", "options": {}}
    return {
        "experiment": "distillation_segmentation",
        "what": f"function matching on {what}",
        "date": "2026-01-01",
        "environment": {"torch": "2", "gpu": None, "cores": 2},
        "config": {
            "teacher": net,
            "student": net,
            "data": {"height": 72, "width": 96},
            "student_steps": {"batch_size": 16},
            "seeds": [1, 2, 3],
        },
        "result": {
            "score_name": "miou",
            "teacher": {"miou": 0.44},
            "arms": [
                {"arm": a, "mean": m, "sd": 0.01, "agreement": alike} for a, m in means.items()
            ],
            "gap_closed": 0.75,
            "comparisons": [comparison],
            "images": {"labelled": 91, "unlabelled": 549, "validation": 101},
            "steps": 800,
        },
    }


@pytest.fixture
def function_matching():
    return importlib.import_module("experiments.sections.distillation")


@pytest.mark.parametrize(
    ("low", "high", "claim"),
    [
        (0.01, 0.05, "Reproduces in kind"),
        (-0.01, 0.07, "No gain established"),
        (-0.05, -0.01, "Does not reproduce"),
    ],
)
def test_the_claim_follows_the_interval(function_matching, low, high, claim):
    (said,) = function_matching.reading([row(low, high)])
    assert said.startswith(f"**{claim}: function matching on CamVid.**")


def test_the_slides_gap_is_theirs_and_ours_stands_beside_it(function_matching):
    # (64.74 − 61.48) / (64.83 − 61.48)
    assert function_matching.gap(function_matching.slides()) == pytest.approx(3.26 / 3.35)
    page = "\n".join(function_matching.section([row(0.01, 0.05)]))
    assert "| compact, function matching | 64.74 | 43.00 ± 1.00 |" in page
    assert "| share of the gap closed | 0.97 | 0.75 |" in page
    assert "no row “function matching on CIFAR-10”" in page
