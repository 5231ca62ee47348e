import json
import os
from pathlib import Path

import pytest

SCRIPTS = ("fmce_table1", "fmce_table2", "fmce_figures", "sensitivity")
SHUFFLENET = "torchvision:shufflenet_v2_x1_0"
CONFIG = {"data": {"image_size": 28}, "phases": {"threshold": 0.02}}


@pytest.fixture
def script():
    """Import one of the scripts by its name."""
    import importlib

    return lambda name: importlib.import_module(f"experiments.{name}")


def row(experiment, data="mnist", model="tiny", **result):
    about = {"scale": "small", "data": data, "model": model, "seed": 0, "config": CONFIG}
    return {"experiment": experiment, "what": "original task", **about, "result": result}


def printed(rows, path, main, capsys):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    main(["--small", "--rows", "--results", str(path)])
    return capsys.readouterr().out


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_shows_the_command_and_ends_well(script, name, capsys):
    with pytest.raises(SystemExit) as end:
        script(name).main(["--help"])
    assert end.value.code == 0
    assert "--out" in capsys.readouterr().out


@pytest.mark.parametrize("name", SCRIPTS[:3])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--small", "--data", "nonsense"], "--data nonsense: expected some of mnist"),
        (["--small", "--model", "vgg"], "--model vgg: expected some of tiny"),
        (["--medium", "--data", "cifar10", "--model", SHUFFLENET], "no case has both"),
        (["--small", "--medium"], "not allowed with"),
        (["--small", "--set", "train.epoch=3"], "train.epoch"),
        (["--small", "--device", "abacus"], "abacus"),
    ],
)
def test_what_cannot_be_run_is_an_error_of_one_line(script, name, arguments, said, capsys):
    with pytest.raises(SystemExit) as end:
        script(name).main(arguments)
    assert end.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_scripts_of_one_process_say_so_under_torchrun(script, capsys, monkeypatch):
    named = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
    for name, value in [*((n, "0") for n in named), ("WORLD_SIZE", "2")]:
        monkeypatch.setenv(name, value)
    for name in ("fmce_figures", "fmce_net_pp_table1", "fmce_net_pp_figures"):
        with pytest.raises(SystemExit):
            script(name).main(["--small"])
        assert "runs in one process; torchrun is for" in capsys.readouterr().err


def test_the_papers_scale_is_not_begun_by_mistake_on_a_processor(script, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        script("fmce_table1").main([])
    assert "take --small" in capsys.readouterr().err


def test_the_papers_cases_have_its_epochs_and_thresholds(script):
    runs, tables = script("paper_runs"), script("paper_tables")
    for case in runs.PAPER:
        published = tables.published_markers(case.data, case.model)[:1]
        config = case.config(0)
        assert (config.data.image_size, config.train.batch_size) == (224, 256)
        for row in published:
            assert (config.train.epochs, config.phases.threshold) == (row["epochs"], row["mu_cqi"])


@pytest.mark.parametrize(("scale", "images"), [("small", 1000), ("medium", 10_000)])
def test_small_and_medium_cases_train_on_balanced_subsets_at_the_sets_own_size(
    script, scale, images
):
    every = script("paper_runs").CASES[scale]
    cases = [c for c in every if c.phases and c.model == "tiny" and not c.label]
    sizes = {c.data: c.config(0).data.image_size for c in cases}
    assert sizes == {"mnist": 28, "fashion-mnist": 28, "cifar10": 32}
    assert {c.config(0).data.train_images for c in cases} == {images}
    assert len({c.name for c in every}) == len(every)


def test_a_threshold_relative_to_the_fall_of_the_loss_is_printed_as_such(script, tmp_path, capsys):
    one = row("fmce_table1", test_accuracy=0.5, train_images=9, epochs=3, markers=[1, 2, 3])
    phases = {**CONFIG["phases"], "relative_threshold": 0.065}
    one = {**one, "config": {**CONFIG, "phases": phases}}
    text = printed([one], tmp_path / "rows.jsonl", script("fmce_table1").main, capsys)
    assert "0.065 of the fall" in " ".join(text.split())


def test_recorded_markers_are_printed_under_the_published_rows_of_their_set(
    script, tmp_path, capsys
):
    ours = {"test_accuracy": 0.98, "train_images": 10000, "epochs": 30, "markers": [3, 4, 6]}
    unconverged = {**ours, "markers": None}
    rows = [row("fmce_table1", **ours), row("fmce_table1", data="fashion-mnist", **unconverged)]
    text = printed(rows, tmp_path / "rows.jsonl", script("fmce_table1").main, capsys)
    lines = [line for line in text.splitlines() if ":" in line]
    assert "7, 13, 20, 29, 40, 50, 60, 65, 70, 74 " in text
    assert " 3, 4, 6 " in text
    assert "98.00 %" in text
    assert sum("paper: MNIST" in line for line in lines) == 2
    assert "CIFAR" not in text
    (fashion,) = [line for line in lines if "here: FashionMNIST" in line]
    assert "none" in fashion


def test_recorded_fmce_nets_are_printed_by_split_beside_the_published_ones(
    script, tmp_path, capsys
):
    names = ("accuracy", "precision", "recall", "f1", "mae", "spearman")
    metrics = dict.fromkeys(names, 0.5)
    result = {"split": "image", "held_out": {**metrics, "accuracy": 0.8125}, "test_images": metrics}
    rows = [row("fmce_table2", **result), row("fmce_table1", **result)]
    text = printed(rows, tmp_path / "rows.jsonl", script("fmce_table2").main, capsys)
    assert "split image: held out" in text
    assert "0.8125" in text
    assert "paper: MNIST-S" in text
    assert "0.9942" in text
    assert text.count("here:") == 2


@pytest.mark.skipif("FMCE_DATA" not in os.environ, reason="needs FMCE_DATA with MNIST")
def test_table_1_runs_on_real_images_records_its_row_and_goes_on(script, tmp_path, capsys):
    settings = ("data.train_images=200", "data.image_size=8", "data.shift=1", "train.epochs=5")
    settings += ("model.options={width: 2}", "phases.num_phases=3", "phases.if_not_converged=last")
    settings += ("phases.threshold=0.01", "phases.smoothing=none", "train.learning_rate=1e-2")
    settings += ("phases.relative_threshold=null", "runtime.channels_last=false")
    arguments = ["--small", "--data", "mnist", "--model", "tiny", "--out", str(tmp_path / "runs")]
    arguments += ["--results", str(tmp_path / "rows.jsonl")]
    arguments += [text for setting in settings for text in ("--set", setting)]
    main = script("fmce_table1").main
    main(arguments)
    (recorded,) = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    result = json.loads(recorded)["result"]
    assert result["train_images"] == 200
    assert len(result["markers"]) == 3
    assert "here: MNIST, tiny, 8 px, 200 images" in capsys.readouterr().out
    before = {p: p.stat().st_mtime_ns for p in Path(tmp_path, "runs").rglob("*.safetensors")}
    main(arguments)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert len((tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()) == 1


@pytest.mark.parametrize("name", SCRIPTS[:3])
def test_a_case_without_its_images_keeps_no_other_from_being_done(
    script, name, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("FMCE_DATA", str(tmp_path / "nothing"))
    arguments = ["--small", "--data", "mnist", "cifar10", "--model", "tiny"]
    arguments += ["--out", str(tmp_path / "runs"), "--results", str(tmp_path / "rows.jsonl")]
    with pytest.raises(ValueError, match=r"2 not done: mnist: .*; cifar10: "):
        script(name).main(arguments)
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[1].strip() for line in said if "not done" in line] == [
        "mnist",
        "cifar10",
    ]


def test_each_variant_of_the_settings_is_tried_on_the_curve(script, finished_run):
    found = script("sensitivity").variants(finished_run)
    names = [one["setting"] for one in found]
    assert len(set(names)) == len(names)
    used = found[0]
    assert used["setting"] == "as used"
    assert used["markers"] == list(finished_run.phases.markers)
    three = [one for one in found if one["setting"] == "K = 15"]
    assert three[0]["markers"] is None  # eight epochs have no fifteen phases
    assert "15 phases need" in three[0]["because"]


def test_grad_cams_numbers_are_printed_phase_by_phase(script, tmp_path, capsys):
    means = {"gini": 0.25, "area_above_half_max": 0.5, "centroid_drift": None, "overlap": None}
    later = {"gini": 0.75, "area_above_half_max": 0.125, "centroid_drift": 0.1, "overlap": 0.5}
    result = {"images": 10, "epochs": [3, 9], "per_phase": [means, later]}
    text = printed(
        [row("fmce_figures", **result)],
        tmp_path / "rows.jsonl",
        script("fmce_figures").main,
        capsys,
    )
    first, last = (
        line.split()[-5:] for line in text.splitlines() if "phase " in line and "28 px" in line
    )
    assert first == ["3", "0.250", "0.500", "–", "–"]
    assert last == ["9", "0.750", "0.125", "0.100", "0.500"]
