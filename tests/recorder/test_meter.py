import shutil

import numpy as np
import pytest
import torch
from torch import nn

from fmce import module_table, train_classifier
from fmce.config.io import with_settings
from fmce.config.presets import preset
from fmce.recorder.meter import ModuleMeter, meter_or_none
from fmce.recorder.module_names import default_modules
from fmce.runs.log import read_metrics
from tests.recorder.loops import Small, digits

SHORT = ["data.image_size=8", "model.options={width: 4}", "train.epochs=4", "data.train_images=200"]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Small(), ["stem", "middle", "late", "head"]),
        (nn.Sequential(Small()), ["0.stem", "0.middle", "0.late", "0.head"]),
        (
            nn.ModuleDict(
                {"a": nn.ModuleList([nn.Linear(1, 1) for _ in "ab"]), "b": nn.Linear(1, 1)}
            ),
            ["a.0", "a.1", "b"],
        ),
        (nn.Sequential(nn.ReLU(), nn.Linear(1, 1)), ["1"]),
    ],
)
def test_default_modules(model, expected):
    assert default_modules(model) == expected


def test_a_model_without_parts_is_refused_where_modules_are_not_named(tmp_path, caplog):
    with pytest.raises(ValueError, match="name its modules yourself"):
        ModuleMeter(tmp_path, nn.Linear(2, 2))
    assert meter_or_none(tmp_path, nn.Linear(2, 2), None) is None
    assert "are not recorded" in caplog.text
    with pytest.raises(ValueError, match="near matches: stem"):
        meter_or_none(tmp_path, Small(), None, ["stm"])


def test_modules_that_the_forward_leaves_out_keep_their_weights(tmp_path):
    class WithSpare(Small):
        def __init__(self):
            super().__init__()
            self.spare = nn.Linear(3, 3)

    meter = ModuleMeter(tmp_path, WithSpare(), None, digits()[0][:16])
    meter.start([])
    found = meter.measure(1)
    assert "outputs" in found["stem"]
    assert "outputs" not in found["spare"]
    assert found["spare"]["parameters"] == 12


def test_fmce_train_records_its_modules_and_changes_no_bit(tmp_path):
    config = with_settings(preset("digits"), SHORT)
    run = train_classifier(config, tmp_path / "a")
    plain = train_classifier(with_settings(config, ["recorder.probe_images=0"]), tmp_path / "b")
    assert run.losses == plain.losses
    weights = [r.model(4).state_dict() for r in (run, plain)]
    assert all(torch.equal(v, weights[1][k]) for k, v in weights[0].items())
    table = module_table(run.path)
    assert [row.name for row in table.rows] == ["stem", "blocks.0", "blocks.1", "blocks.2", "head"]
    assert all(row.clocks for row in table.rows)
    assert not any(row.clocks for row in module_table(plain.path).rows)
    assert not any(row.alarms for row in table.rows)


def test_fmce_train_resumed_has_the_same_modules(tmp_path):
    config = with_settings(preset("digits"), SHORT)
    whole = train_classifier(config, tmp_path / "whole")
    shutil.copytree(whole.path, tmp_path / "cut", dirs_exist_ok=True)
    for name in ("DONE.json", "checkpoints/epoch_0004"):
        path = tmp_path / "cut" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = train_classifier(config, tmp_path / "cut")
    rows = [[row["modules"] for row in read_metrics(r.path)] for r in (whole, again)]
    assert rows[0] == rows[1]
    clocks = [module_table(r.path).rows[1].clocks[0] for r in (whole, again)]
    assert np.array_equal(clocks[0].drifts, clocks[1].drifts)


def test_named_modules_of_a_config_are_recorded_or_refused(tmp_path):
    config = with_settings(preset("digits"), [*SHORT, "train.epochs=1", "recorder.modules=[head]"])
    assert [
        row.name for row in module_table(train_classifier(config, tmp_path / "a").path).rows
    ] == ["head"]
    with pytest.raises(ValueError, match="near matches: head"):
        train_classifier(with_settings(config, ["recorder.modules=[heads]"]), tmp_path / "b")
