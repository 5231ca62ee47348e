"""The function-matching scripts refuse what they would otherwise ignore, before any work."""

import importlib

import pytest


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        ("distillation_segmentation", "--real --imagenet", "--imagenet is for --full"),
        ("distillation_segmentation", "--small --own-frames", "--own-frames are for --real"),
        ("distillation_detection", "--small --imagenet", "--imagenet and --folders are for --full"),
        ("distillation_detection", "--real --folders a", "--imagenet and --folders are for --full"),
        ("distillation_segmentation", "--real", "expected a folder of data sets in FMCE_DATA"),
        ("distillation_detection", "--real", "expected a folder of data sets in FMCE_DATA"),
    ],
)
def test_options_that_do_not_go_together_end_the_program(
    script, options, message, monkeypatch, capsys, tmp_path
):
    monkeypatch.setenv("FMCE_DATA", str(tmp_path / "missing"))
    main = importlib.import_module(f"experiments.{script}").main
    with pytest.raises(SystemExit, match="2"):
        main([*options.split(), "--out", str(tmp_path / "out")])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_recorded_configs_name_folders_as_in_fmce_data(monkeypatch, tmp_path):
    from experiments.distillation_runs import without_places

    monkeypatch.setenv("FMCE_DATA", str(tmp_path))
    folders = [str(tmp_path / "camvid/train"), "/elsewhere/clip-frames"]
    data = {"root": str(tmp_path / "kitti101"), "folders": folders}
    kept = without_places({"data": data, "teacher_checkpoint": "/runs/teacher", "task": "detect"})
    assert kept["data"] == {"root": "kitti101", "folders": ["camvid/train", "clip-frames"]}
    assert kept["teacher_checkpoint"] == "the main experiment's"
