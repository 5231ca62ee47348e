"""Injured modules, stopping, and modules of driving networks: short forms, and their tables."""

import numpy as np
import pytest
import torch

from examples import bev
from experiments import driving_modules, injuries, stopping
from experiments.tables import recorder as tables
from fmce.files import read_json_lines


@pytest.fixture(scope="module")
def injured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("injuries")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("EPOCHS", 4), ("SHORT", 2), ("STALE", 1), ("OLD", 3)):
            patch.setattr(injuries, name, value)
        injuries.main(["--small", "--out", str(folder), "--results", str(folder / "rows.jsonl")])
    return read_json_lines(folder / "rows.jsonl")


@pytest.mark.slow
def test_alarms_name_every_injured_module_first_and_no_healthy_one(injured):
    header, lines = tables.injury_table(injured)
    assert [line[0] for line in lines] == [*injuries.INJURIES, "all"]
    assert {line[header.index("alarms")] for line in lines[:-1]} == {"3 of 3"}
    alarms = [line for line in tables.healthy_table(injured).lines if "older" not in line[0]]
    assert [line[2] for line in alarms] == ["0"] * 4
    assert [line[1] for line in tables.net_table(injured).lines] == ["36 of 36"]
    assert len(tables.measure_table(injured).lines) == len(tables.MEASURES)


@pytest.mark.slow
def test_the_record_shows_where_outputs_first_differ(injured):
    cases = [case for row in injured for case in row["result"]["cases"] if "own drift" in case]
    assert len(cases) == 27
    for case in cases:
        before = case["own drift"][: case["module"]]
        assert max(before, default=0.0) < 1e-6, case["injury"]


def case(module, drift, alarms=(), **fields):
    flat = {"old drift": drift, "change": [0.1] * 3, "rank": [5.0, None, 4.0]}
    flat |= {"epoch": 12, "fall": drift, "own fall": drift}
    return (
        {"injury": "noise", "module": module, "drift": drift, "alarms": list(alarms)}
        | flat
        | fields
    )


def test_a_module_after_the_injured_one_is_not_blamed():
    healthy = [0.1, 0.2, 0.3]
    references = {"12": [case(None, np.array(healthy) + s) for s in (-0.01, 0.0, 0.01)]}
    one = case(1, [0.1, 0.7, 0.9], [1], **{"own drift": [0.0, 0.1, 0.5], "alarms alone": []})
    result = {"cases": [one], "references": references}
    row = {"experiment": "injuries", "what": "net", "result": result, "config": {"epochs": 12}}
    named = dict(
        zip(*(tables.injury_table([row])[0], tables.injury_table([row]).lines[0]), strict=True)
    )
    assert (
        named["alarms"] == named["clocks, own record"] == named["clocks, older record"] == "1 of 1"
    )
    assert named["clocks, other runs"] == named["score, other runs"] == "1 of 1"
    assert named["no record: alarms, else score"] == "1 of 1"
    assert named["these, else the weights most unlike"] == "0 of 1"  # not asked
    one |= {"alarms, peers": [], "unlike peers": [0.5, None, 1.0]}
    header, (line, _) = tables.injury_table([row])
    named = dict(zip(header, line, strict=True))
    assert named["these, else the weights most unlike"] == "1 of 1"
    assert named["alarms beside other runs, no record"] == "0 of 1"
    assert named["score, older record"] == "1 of 1"
    assert named["alarms, clocks, score"] == "1 of 1"
    assert named["alarms, no record"] == named["last module"] == "0 of 1"
    assert tables.oddness(one, result, "drift").argmax() == 2


def test_patience_keeps_the_best_epoch_before_it_ran_out():
    losses = [3.0, 1.0, *([2.0] * 10), 0.5]
    assert stopping.patience_epoch(losses, 10) == 2
    assert stopping.patience_epoch(losses, 11) == 13


def test_a_full_schedule_is_compared_with_its_stops(tmp_path, monkeypatch):
    results = tmp_path / "rows.jsonl"
    monkeypatch.setattr(stopping, "PATIENCE", 1)
    options = ["--small", "--out", str(tmp_path), "--results", str(results)]
    stopping.main(options)
    (row,) = read_json_lines(results)
    result = row["result"]
    assert result["full"] == result["curve"]["score"][-1] == result["shortened"]["12"]
    assert set(result["stops"]) == set(tables.RULES)
    for stop in (result["stops"]["converged"], result["stops"]["patience"]):
        assert str(stop) in result["shortened"]
    assert len(tables.stopping_table([row]).lines) == 4
    stopping.main(options)  # has its row
    assert read_json_lines(results) == [row]


def test_masks_move_with_their_images():
    task = stopping.Task(((None,) * 2,) * 3, torch.nn.Identity, flip=True)
    for seed in range(9):
        draw = torch.Generator().manual_seed(seed)
        x = torch.rand(2, 3, 6, 8)
        moved, mask = task.vary(x, x[:, 0], draw)
        assert torch.equal(moved[:, 0], mask)
        assert torch.equal(moved.flatten(1).sort().values, x.flatten(1).sort().values)
        assert task.vary(x, torch.tensor([1, 2]), draw)[1].tolist() == [1, 2]


def test_the_bird_eye_view_is_recorded_module_by_module(tmp_path):
    results = tmp_path / "rows.jsonl"
    options = ["--small", "--out", str(tmp_path), "--figures", str(tmp_path / "figures")]
    driving_modules.main([*options, "--results", str(results)])
    (row,) = read_json_lines(results)
    assert [one["name"] for one in row["result"]["modules"]] == list(bev.MODULES)
    assert not any(one["alarms"] for one in row["result"]["modules"])
    assert (tmp_path / "figures" / "modules-bev.svg").stat().st_size > 1000
    assert [line[0] for line in tables.module_table([row]).lines] == [
        f"bev: {m}" for m in bev.MODULES
    ]


@pytest.mark.parametrize("main", [stopping.main, driving_modules.main])
def test_an_unknown_name_is_refused(main, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["mnits"])
    assert ended.value.code == 2
    assert "mnits; choose from" in capsys.readouterr().err
