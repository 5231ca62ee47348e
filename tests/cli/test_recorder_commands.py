"""fmce modules, watch and check on a recorded training."""

import json
import sys
import threading
import time

import pytest

from fmce.cli.main import main
from fmce.cli.watch import lines_of, view_of, watch_run
from tests.recorder.loops import made, recorded


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands") / "run"

    def freeze(epoch, model, _optimizer):
        if epoch == 5:
            model.middle.requires_grad_(False)

    recorded(folder, 12, before=freeze, keep="all")
    return folder


def called(capsys, *arguments):
    main([str(a) for a in arguments])
    return capsys.readouterr().out


def test_modules_prints_a_table_with_alarms_and_draws_a_lane_each(run, capsys):
    out = called(capsys, "modules", run)
    for word in ("stem", "late drift", "frozen", "provisional", "alarm: middle: frozen"):
        assert word in out
    assert (run / "figures/modules.png").stat().st_size > 10_000


def test_prices_of_a_run_of_fmce_train(finished_run, capsys):
    out = called(capsys, "modules", finished_run.path, "--prices")
    assert "frozen up to" in out
    assert "a schedule shortened by the same share costs as little" in out
    found = json.loads(called(capsys, "modules", finished_run.path, "--prices", "--json"))
    savings = [price["saving"] for price in found["prices"]]
    assert [price["name"] for price in found["prices"]] == [m["name"] for m in found["modules"]]
    assert savings == sorted(savings)
    assert 0 < savings[0] < savings[-1] < 0.7


def test_prices_of_an_own_loop_need_its_network_and_inputs(run, capsys):
    names = ("--model", "tests.recorder.loops:Small", "--probe", "tests.recorder.loops:inputs")
    out = called(capsys, "modules", run, "--prices", *names, "--markdown")
    assert "| frozen up to | saves of a step | of which this module |" in out
    assert "| middle |" in out
    for arguments, message in (
        (["--prices"], "name its network and inputs: --prices --model module:function"),
        (["--prices", *names[:2]], "needs both --model and --probe"),
        (list(names), "belong to --prices"),
    ):
        with pytest.raises(SystemExit) as end:
            called(capsys, "modules", run, *arguments)
        assert end.value.code == 2
        assert message in capsys.readouterr().err


def test_modules_as_markdown_and_json(run, capsys, tmp_path):
    out = called(capsys, "modules", run, "--markdown", "--figure", tmp_path / "m.svg")
    lines = out.splitlines()
    assert lines[0].startswith("| module | parameters |")
    assert lines[1].startswith("| :-- | --: |")
    assert (tmp_path / "m.svg").exists()
    found = json.loads(called(capsys, "modules", run, "--json"))
    assert [row["name"] for row in found["modules"]] == ["stem", "middle", "late", "head"]
    assert found["modules"][1]["alarms"][0]["since"] == 5
    assert len(found["modules"][0]["clocks"][0]["drifts"]) == 13


def test_watch_once_speaks_in_the_words_of_the_verdict(run, capsys):
    out = called(capsys, "watch", run, "--once")
    for word in ("epoch 12", "CQI", "verdict:", "advice:", "E_K:", "calm", "alarm: middle: frozen"):
        assert word in out


def test_watch_begins_before_the_training_and_ends_with_it(run, tmp_path, capsys):
    folder = tmp_path / "later"
    assert lines_of(view_of(folder)) == [f"{folder}: no epoch yet"]
    watching = threading.Thread(target=watch_run, args=(folder, 0.05), daemon=True)
    watching.start()
    folder.mkdir()
    for name in ("config.yaml", "metrics.jsonl"):
        (folder / name).write_bytes((run / name).read_bytes())
    time.sleep(0.3)
    assert watching.is_alive()
    (folder / "DONE.json").write_text('{"epochs": 12}')
    watching.join(timeout=20)
    assert not watching.is_alive()
    assert "epoch 12" in capsys.readouterr().out


def test_bad_folders_are_refused(tmp_path, capsys):
    for arguments in (["modules", tmp_path / "none"], ["watch", tmp_path / "none", "--once"]):
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        assert end.value.code == 2
    assert capsys.readouterr().err.count("fmce:") == 2


def test_check_names_what_is_odd(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "net_of_mine.py").write_text(
        "from tests.recorder.loops import Small as build, digits\n"
        "def probe():\n    return digits()[0][:64]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("net_of_mine", None)
    checkpoint = run / "checkpoints/epoch_0007"
    common = [checkpoint, "--model", "net_of_mine:build", "--run", run]
    out = called(capsys, "check", *common, "--probe", "net_of_mine:probe")
    assert "alarm" not in out.replace("alarms", "")
    found = json.loads(called(capsys, "check", *common, "--json"))
    assert set(found["epochs"].values()) == {7}
    assert "| late |" in called(capsys, "check", *common, "--markdown")
    peers = []
    for seed in (1, 2, 3, 4):
        recorded(tmp_path / str(seed), 7, *made(seed), keep="all")
        peers.append(tmp_path / str(seed) / "checkpoints/epoch_0007")
    out = called(capsys, "check", *common[:3], "--peers", *peers)
    assert "unlike peers" in out
    assert "alarm:" not in out
    with pytest.raises(SystemExit):
        main(["check", str(checkpoint), "--model", "net_of_mine:nothing"])
    assert "net_of_mine" in capsys.readouterr().err
