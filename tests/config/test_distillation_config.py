"""The config of a distillation: ranges, and what its fields require of each other."""

import pytest

from fmce.config.distillation import (
    DISTILLATION_DEFAULTS,
    DISTILLATION_PRESETS,
    DistillationConfig,
    distillation_preset,
)
from fmce.config.io import from_dict, to_dict, with_settings


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.height=4", "data.height: expected at least 8, got 4"),
        ("data.labelled=0", "data.labelled: expected at least 1, got 0"),
        ("data.storage=disk", "data.storage: expected 'auto', 'memory' or 'files', got 'disk'"),
        ("data.max_damaged=2", "data.max_damaged: expected at most 1, got 2"),
        ("data.record_frames=1", "data.record_frames: expected true or false, got 1"),
        ("data.std=[0.5, 0.5, 0]", r"data.std\[2\]: expected above 0, got 0"),
        ("teacher_steps.batch_size=1", "teacher_steps.batch_size: expected at least 2, got 1"),
        (
            "student_steps.interval=7",
            r"student_steps.interval: must divide steps \(1500\)",
        ),
        ("augmentation.zoom=0.5", "augmentation.zoom: expected at least 1, got 0.5"),
        ("augmentation.brightness=1", "augmentation.brightness: expected below 1, got 1"),
        ("temperature=0", "temperature: expected above 0, got 0"),
        ("arms=[]", "arms: expected 1 or more values, got"),
        ("arms=[teacher]", r"arms\[0\]: expected 'supervised', 'distilled' or 'function_matching'"),
        ("seeds=[1, 1]", r"seeds: expected different values, got \[1, 1\]"),
        ("seeds=3", "seeds: expected a list, got 3"),
        ("teacher_checkpoint=nowhere", "teacher_checkpoint nowhere does not exist"),
        ("zoom=2", "'zoom'; did you mean 'augmentation.zoom'"),
    ],
)
def test_values_out_of_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        with_settings(DistillationConfig(), [setting])


def test_a_detector_is_distilled_at_temperature_1():
    with pytest.raises(ValueError, match="temperature: expected 1 for detection, got 2"):
        with_settings(distillation_preset("scenes-detect"), ["temperature=2"])


@pytest.mark.parametrize("name", DISTILLATION_PRESETS)
def test_presets_survive_the_way_through_a_dict(name):
    assert from_dict(DistillationConfig, to_dict(distillation_preset(name))) == distillation_preset(
        name
    )


def test_every_task_has_a_preset_of_its_own():
    for task, name in DISTILLATION_DEFAULTS.items():
        assert distillation_preset(name).task == task


def test_an_unknown_preset_names_the_known():
    with pytest.raises(
        ValueError, match="unknown preset 'camvd'; choose from scenes, scenes-detect"
    ):
        distillation_preset("camvd")
