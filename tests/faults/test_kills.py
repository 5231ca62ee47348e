"""Two real kills of each kind of training; `make faults` runs more."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.faults.kills import campaign, differences, kinds


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", range(4), ids=["plain", "FMCE-Net++", "FMCE-Net", "matched student"]
)
def test_a_killed_training_ends_as_an_uninterrupted_one(number, finished_run, tmp_path):
    if number == 3:
        pytest.importorskip("timm")
    kind = kinds(finished_run.path)[number]
    assert len(campaign(kind, 2, tmp_path)) == 2


@pytest.fixture
def copied(finished_run, tmp_path):
    shutil.copytree(finished_run.path, tmp_path / "copy")
    return tmp_path / "copy"


def test_the_campaign_finds_no_difference_to_a_copy(finished_run, copied):
    assert differences(copied, finished_run.path) == []


def test_the_campaign_sees_one_changed_bit_of_a_weight(finished_run, copied):
    file = copied / "checkpoints" / "epoch_0008" / "model.safetensors"
    weights = load_file(file)
    weights["head.bias"][3] = np.nextafter(weights["head.bias"][3], np.float32(9))
    save_file(weights, file)
    found = differences(copied, finished_run.path)
    assert found == ["weights of epoch_0008 differ: ['head.bias']"]


def test_the_campaign_sees_a_changed_line_but_not_another_time(finished_run, copied):
    rows = finished_run.curve
    rows[2]["time_seconds"] += 1
    (copied / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert differences(copied, finished_run.path) == []
    (copied / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]))
    assert differences(copied, finished_run.path) == ["metrics.jsonl differs"]


def test_the_campaign_sees_missing_results_and_checkpoints(finished_run, copied):
    (copied / "DONE.json").unlink()
    shutil.rmtree(copied / "checkpoints" / "epoch_0002")
    found = differences(copied, finished_run.path)
    assert found[0] == "DONE.json differs"
    assert found[1].startswith("checkpoints of")
