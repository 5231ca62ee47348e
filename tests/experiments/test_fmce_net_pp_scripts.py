import argparse
import importlib
import json

import pytest

SCRIPTS = ("fmce_net_pp_table1", "fmce_net_pp_figures")


@pytest.fixture
def script():
    """Import one of the scripts by its name."""
    return lambda name: importlib.import_module(f"experiments.{name}")


def comparison(arm, difference, p):
    ends = {"interval_low": difference - 0.01, "interval_high": difference + 0.01}
    return {"arm": arm, "mean_difference": difference, **ends, "p_holm": p, "n": 3}


def sweep_row(*comparisons):
    arms = [{"arm": "baseline", "mean": 0.85, "sd": 0.01}]
    arms += [{"arm": c["arm"], "mean": 0.85 + c["mean_difference"], "sd": 0.0} for c in comparisons]
    candidates = [{"raf": 0.9, "validation_accuracy": 0.86}, {"raf": 0.5, "left_out": "failed"}]
    result = {
        "seeds": [1, 2, 3],
        "epochs": 21,
        "selection": {"raf": 0.9, "candidates": candidates},
        "arms": arms,
        "comparisons": list(comparisons),
        "failed": 0,
    }
    about = {"scale": "small", "data": "fashion-mnist", "model": "tiny", "seed": [1, 2, 3]}
    experiment = {"experiment": "fmce_net_pp_table1", "what": "FMCE-Net++ sweep"}
    return {**experiment, **about, "result": result, "config": {"settings": ["train.epochs=30"]}}


class InThisProcess:
    """Does each job as it comes: processes of their own would take most of the test's time to start."""

    def __init__(self):
        self.ended = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, name, function, *args):
        function(*args)
        self.ended.append(name)

    def wait(self):
        from fmce.engine.jobs.job import Finished

        return Finished(self.ended.pop(0))


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_shows_the_command_and_ends_well(script, name, capsys):
    with pytest.raises(SystemExit) as end:
        script(name).main(["--help"])
    assert end.value.code == 0
    assert "--out" in capsys.readouterr().out


def test_figures_without_a_sweep_say_which_script_makes_it(script, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        script("fmce_net_pp_figures").main(["--small", "--out", str(tmp_path)])
    assert end.value.code == 2
    assert "run fmce_net_pp_table1 first" in capsys.readouterr().err


def test_recorded_arms_are_printed_beside_the_published_ones_of_their_raf(script, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    rows = [sweep_row(comparison("raf0.9", -0.02, 0.3), comparison("phase_1", 0.0, 1.0))]
    path.write_text(json.dumps(rows[0]) + "\n", encoding="utf-8")
    script("fmce_net_pp_table1").main(["--small", "--rows", "--results", str(path)])
    text = capsys.readouterr().out
    plain = next(line for line in text.splitlines() if "plain training" in line)
    assert "85.00 ± 1.00" in plain
    assert "93.31 ± 0.06" in plain  # ResNet-50 at RAF 1
    treated = next(line for line in text.splitlines() if "83.00 ± 0.00" in line)
    assert "-2.00" in treated
    assert "90.24 ± 0.05" in treated  # ShuffleNet v2 at RAF 0.9
    assert "0.9: 86.00 %, –; 0.5: –, –" in " ".join(text.split())


def test_another_group_than_the_one_that_small_sweeps_is_refused(script, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        script("fmce_net_pp_table1").main(
            ["--small", "--data", "cifar10", "--out", str(tmp_path / "out")]
        )
    assert "--small sweeps tiny on fashion-mnist alone" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_data_set_that_the_papers_table_lacks_is_refused(script, capsys):
    with pytest.raises(SystemExit, match="2"):
        script("fmce_net_pp_table1").main(["--device", "cpu", "--data", "mini-imagenet"])
    assert "the paper's table has no row of mini-imagenet" in capsys.readouterr().err


def test_a_group_whose_oracle_failed_leaves_the_recorded_row_as_it_is(script, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    options = argparse.Namespace(results=path, scale="small")
    group = argparse.Namespace(group="tiny-fashion-mnist", arms=[])
    row = json.dumps(sweep_row(comparison("raf0.9", 0.0, 1.0))) + "\n"
    path.write_text(row, encoding="utf-8")
    table = script("fmce_net_pp_table1")
    table.record_group(options, table.SweepConfig(), group, failed=1)
    assert path.read_text(encoding="utf-8") == row
    assert "not recorded: tiny-fashion-mnist" in capsys.readouterr().out


def test_rows_are_those_of_the_data_sets_asked_for(script, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(sweep_row(comparison("raf0.9", 0.0, 1.0))) + "\n", encoding="utf-8")
    about = ["--small", "--rows", "--results", str(path)]
    figures = script("fmce_net_pp_figures")
    figures.main(about)
    assert "no row of fmce_net_pp_figures" in capsys.readouterr().out
    script("fmce_net_pp_table1").main([*about, "--data", "fashion-mnist"])
    assert "plain training" in capsys.readouterr().out


def test_the_papers_grid_is_its_networks_and_sets_at_five_seeds(script):
    table = script("fmce_net_pp_table1")
    parser = script("paper_runs").paper_parser("Doc.\n\nMore.", "rows.jsonl")
    options = script("paper_runs").parse(parser, ["--device", "cpu"])
    cases = table.swept_cases(options)
    grids = [table.sweep_config(options, case) for case in cases]
    asked = {(model, data) for grid in grids for model in grid.models for data in grid.data}
    assert len(asked) == len(cases) == 6
    published = script("paper_tables").paper_table("fmce_net_pp_table_1")["raf"]
    for grid in grids:
        assert len(grid.seeds) == 5
        assert set(grid.rafs) == set(published) - {0, 1}


def test_rows_of_the_papers_grid_may_be_asked_for_one_after_another(
    script, tmp_path, monkeypatch, capsys
):
    """What a sweep does with its folder, without its trainings: the second row must not meet the first's."""
    from fmce.config.io import to_yaml
    from fmce.fmce_net_pp.sweep.results import SweepResult
    from fmce.runs.log import lock_run

    table = script("fmce_net_pp_table1")

    def claim(config, out, **_):
        with lock_run(out, to_yaml(config)):
            return SweepResult([], {"a/training": "why"})

    monkeypatch.setattr(table, "sweep", claim)
    for data in ("cifar10", "mnist"):
        words = ["--device", "cpu", "--model", "torchvision:shufflenet_v2_x1_0", "--data", data]
        words += ["--out", str(tmp_path), "--results", str(tmp_path / "rows.jsonl")]
        with pytest.raises(ValueError, match=f"{data}-shufflenet_v2_x1_0: failed trainings: a/tr"):
            table.main(words)
    assert len(list(tmp_path.glob("sweeps/paper/*/config.yaml"))) == 2


def test_figures_are_drawn_from_a_finished_sweep(script, finished_run, tmp_path, capsys):
    from fmce.config.sweep import SweepConfig
    from fmce.fmce_net_pp.sweep.run import sweep

    config = SweepConfig(
        data=("digits",),
        rafs=(0.5,),
        seeds=(1, 2),
        controls=(),
        oracles=(str(finished_run.path),),
    )
    sweep(config, tmp_path / "sweeps" / "small", workers=InThisProcess())
    arguments = ["--small", "--out", str(tmp_path), "--results", str(tmp_path / "rows.jsonl")]
    script("fmce_net_pp_figures").main([*arguments, "--images", "10", "--shown", "2"])
    kinds = sorted(p.name.rpartition("-")[2] for p in (tmp_path / "figures").iterdir())
    assert kinds == ["cam.png", "epochs.png", "rafs.png"]
    row = json.loads((tmp_path / "rows.jsonl").read_text(encoding="utf-8"))
    assert row["result"]["arms"] == ["plain training", "RAF 0.5"]
    assert all(0 <= numbers["gini"] <= 1 for numbers in row["result"]["per_arm"])
    assert "digits, tiny: RAF 0.5" in capsys.readouterr().out
