"""The results page's section on detection by function matching, from rows of known numbers."""

import importlib

import pytest


@pytest.fixture
def page():
    return importlib.import_module("experiments.sections.distillation_detection")


def row(low=0.05, gap=0.5):
    def arm(name, mean):
        agreement = {"validation": 0.5, "held_out_frames": None}
        return {"arm": name, "mean": mean, "sd": 0.01, "agreement": agreement}

    return {
        "experiment": "distillation_detection",
        "what": "detection by function matching on built-in scenes",
        "date": "2026-01-01",
        "environment": {"torch": "2", "gpu": None, "cores": 2},
        "config": {
            "teacher": {"name": "fcos:resnet18", "options": {"channels": 64}},
            "student": {"name": "fcos:resnet18", "options": {"channels": 32}},
            "data": {"height": 48, "width": 96},
            "teacher_steps": {"steps": 7},
            "student_steps": {"batch_size": 8},
            "seeds": [1, 2],
        },
        "result": {
            "score_name": "ap",
            "teacher": {"ap": 0.3, "boxes": 99},
            "images": {"labelled": 10, "unlabelled": 20, "validation": 30},
            "steps": 5,
            "arms": [arm("supervised", 0.1), arm("distilled", 0.15), arm("function_matching", 0.2)],
            "gap_closed": gap,
            "comparisons": [
                {
                    "arm": "function_matching",
                    "mean_difference": 0.1,
                    "confidence": 0.95,
                    "interval_low": low,
                    "interval_high": 0.15,
                    "n": 2,
                }
            ],
        },
    }


def test_our_ap_stands_beside_the_slides(page):
    text = "\n\n".join(page.section([row()]))
    assert "| large (teacher), supervised | 31.4 | 30.00 |" in text
    assert "| compact, function matching | 31.2 | 20.00 ± 1.00 |" in text
    assert "| share of the gap closed | 0.89 | 0.50 |" in text
    assert "10 labelled images, 20 more" in text
    assert "50.00 % | – |" in text
    assert "KITTI" in text  # its row is missing, and named


@pytest.mark.parametrize(
    ("low", "gap", "words"),
    [
        (0.05, 0.5, "Reproduces in kind"),
        (-0.05, 0.5, "No gain established"),
        (0.05, None, "no gap to close"),
    ],
)
def test_the_verdict_follows_the_interval(page, low, gap, words):
    (said,) = page.reading([row(low, gap)])
    assert words in said


def test_without_rows_what_is_missing_is_named(page):
    assert page.reading([]) == []
    assert "--small" in "\n".join(page.section([]))
