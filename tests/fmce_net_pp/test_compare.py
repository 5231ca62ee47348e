"""`fmce compare`: paired arms, controls, and a choice of RAF that never sees the test images."""

import json
import shutil
from dataclasses import replace

import pytest

from fmce.cli.main import main
from fmce.fmce_net_pp.arms import CONTROLS, check_is_that_arm
from fmce.fmce_net_pp.compare import Comparison, compare, print_comparison
from fmce.maturity.train_classifier import train_classifier
from fmce.metrics.statistics import holm, paired_comparison
from fmce.runs.run import open_run
from tests.conftest import NEWER, without


@pytest.fixture(scope="module")
def oracle(finished_run):
    return str(finished_run.path)


def runs_of(out):
    return {p.name: open_run(p) for p in sorted((out / "runs").iterdir())}


def test_each_arm_and_seed_has_one_row(compared):
    _, _, result = compared
    arms = ("baseline", "ral", *CONTROLS)
    expected = [(a, s) for s in (1, 2) for a in arms] + [("baseline", 0), ("ral", 0)]
    assert [(row["arm"], row["seed"]) for row in result["rows"]] == expected
    assert [a["arm"] for a in result["arms"]] == list(arms)


def test_rows_hold_what_the_runs_say(compared):
    _, out, result = compared
    for row in result["rows"]:
        run = open_run(out / "runs" / f"{row['arm']}-seed{row['seed']}")
        assert row["test_accuracy"] == run.done["test_accuracy"]
        assert row["validation_accuracy"] == run.curve[-1]["validation_accuracy"]
        assert run.config.train.seed == row["seed"]
        assert run.config.train.epochs == result["epochs"]


def test_arms_last_as_long_as_the_oracle_took_to_converge(compared, finished_run):
    _, _, result = compared
    assert result["epochs"] == finished_run.phases.convergence_epoch


def test_raf_is_chosen_on_validation_by_runs_that_never_read_the_test(compared):
    plan, out, result = compared
    best = max(result["selection"], key=lambda r: (r["validation_accuracy"], -r["validation_loss"]))
    assert [r["raf"] for r in result["selection"]] == [0.9, 0.5]
    assert result["raf"] == best["raf"]
    for folder in (out / "selection").iterdir():
        run = open_run(folder)
        assert run.config.train.seed == plan.selection_seed
        assert "test_accuracy" not in run.done


def test_arms_differ_from_the_baseline_in_what_their_name_says(compared):
    _, out, result = compared
    runs = {name.removesuffix("-seed1"): run.config for name, run in runs_of(out).items()}
    base, raf = runs["baseline"], result["raf"]
    assert base.auxiliary.kind == "none"
    assert runs["ral"].auxiliary.raf == raf
    assert runs["random_oracle"].auxiliary.oracle_weights == "random"
    assert runs["phase_1"].auxiliary.target_phase == 1
    assert runs["feature_matching"].auxiliary.kind == "feature_matching"
    assert runs["scaled_rate"].train.learning_rate == raf * base.train.learning_rate
    for arm in ("ral", *CONTROLS):
        changed = replace(runs[arm], auxiliary=base.auxiliary)
        rate = base.train.learning_rate
        assert replace(changed, train=replace(changed.train, learning_rate=rate)) == base


def test_comparisons_are_paired_by_seed_without_the_oracles_own(compared):
    _, _, result = compared
    of = {
        arm["arm"]: [
            r["test_accuracy"] for r in result["rows"] if r["arm"] == arm["arm"] and r["seed"] != 0
        ]
        for arm in result["arms"]
    }
    results = [paired_comparison(of["baseline"], of[c["arm"]]) for c in result["comparisons"]]
    for got, expected in zip(result["comparisons"], results, strict=True):
        assert got["mean_difference"] == pytest.approx(expected.mean_difference)
        assert got["n"] == 2
    adjusted = holm([r.p_value for r in results])
    assert [c["p_holm"] for c in result["comparisons"]] == pytest.approx(adjusted.tolist())


def test_the_oracles_own_seed_is_reported_apart(compared):
    _, _, result = compared
    assert [(r["arm"], r["seed"]) for r in result["same_seed"]] == [("baseline", 0), ("ral", 0)]
    assert result["seeds"] == [1, 2]


def test_a_second_call_trains_nothing(compared):
    plan, out, result = compared
    before = {p: p.stat().st_mtime_ns for p in out.rglob("epoch_*/*")}
    assert compare(plan, out, jobs=2, quiet=True) == result
    assert {p: p.stat().st_mtime_ns for p in out.rglob("epoch_*/*")} == before
    assert json.loads((out / "compare.json").read_text()) == result


def test_another_plan_in_the_same_folder_is_refused(compared):
    plan, out, _ = compared
    with pytest.raises(FileExistsError, match="holds a run of another config"):
        compare(replace(plan, seeds=(1, 3)), out, quiet=True)


def test_a_verdict_in_words_is_printed(compared, capsys):
    _, _, result = compared
    print_comparison(result)
    out = capsys.readouterr().out
    verdict = next(c["verdict"] for c in result["comparisons"] if c["arm"] == "ral")
    assert f"FMCE-Net++ against its baseline: {verdict}" in out
    assert "RAF, chosen on validation images" in out


@pytest.mark.parametrize("seeds", [{"seeds": (0, 1)}, {"selection_seed": 0}])
def test_the_oracles_own_seed_is_refused_as_an_arms(oracle, tmp_path, seeds):
    with pytest.raises(ValueError, match=r"seed 0 is the oracle's own.*--same-seed adds that pair"):
        compare(Comparison(oracle, **seeds), tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"rafs": ()}, "RAF candidates must be in"),
        ({"rafs": (1.0,)}, "1 is the baseline itself"),
        ({"seeds": (1,)}, "at least two different seeds"),
        ({"seeds": (1, 1)}, "at least two different seeds"),
        ({"selection_seed": 1}, "must not be among the arms'"),
        ({"settings": ("train.batch_size=8",)}, "the arms differ in the loss alone"),
        ({"settings": ("auxiliary.raf=0.2",)}, "auxiliary.raf is set by the comparison itself"),
    ],
)
def test_plans_that_compare_nothing_are_refused(plan, message):
    with pytest.raises(ValueError, match=message):
        Comparison("runs/x", **plan)


def test_settings_of_the_auxiliary_loss_are_fmce_net_pps_alone(oracle, tmp_path, capsys):
    words = ["compare", oracle, "--out", tmp_path / "out", "--raf", "0.8", "--seeds", "1", "2"]
    words += [
        "--no-controls",
        "--set",
        "auxiliary.oracle_every=2",
        "--set",
        "auxiliary.oracle_batch_fraction=0.5",
    ]
    assert main([str(word) for word in words]) is None
    for name, run in runs_of(tmp_path / "out").items():
        form = (run.config.auxiliary.oracle_every, run.config.auxiliary.oracle_batch_fraction)
        assert form == ((2, 0.5) if name.startswith("ral") else (1, 1.0))
    result = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert result["settings"] == ["auxiliary.oracle_every=2", "auxiliary.oracle_batch_fraction=0.5"]
    assert "FMCE-Net++ against its baseline" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "error", "message"),
    [
        ("auxiliary.oracle_evry=2", ValueError, "did you mean 'oracle_every'"),
        ("auxiliary.target_phase=4", ValueError, "must be in 1…3, the oracle's phases, got 4"),
        ("auxiliary.oracle_width=0.5", FileNotFoundError, "--split map --set width=0.5"),
    ],
)
def test_a_form_that_cannot_be_trained_is_refused(oracle, tmp_path, setting, error, message):
    with pytest.raises(error, match=message):
        compare(Comparison(oracle, settings=(setting,)), tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_a_comparison_of_an_earlier_version_is_taken_up(compared, tmp_path):
    plan, out, result = compared
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    without(copy / "config.yaml", "settings")
    for file in copy.glob("*/*/config.yaml"):
        without(file, *NEWER)
    assert compare(plan, copy, jobs=2, quiet=True) == result


def test_a_folder_that_holds_something_else_is_refused(own_run, tmp_path):
    plan = Comparison(str(own_run.path), rafs=(0.8,), seeds=(1, 2), controls=False, length="full")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"is not a run folder but holds 'notes\.txt'"):
        compare(plan, tmp_path / "out", quiet=True)


def test_a_finished_arm_of_another_config_is_not_paired(compared, tmp_path):
    plan, out, _ = compared
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    config = copy / "runs" / "baseline-seed1" / "config.yaml"
    config.write_text(config.read_text().replace("  epochs: ", "  epochs: 1", 1))
    with pytest.raises(ValueError, match="trained with another config, oracle or precision"):
        compare(plan, copy, jobs=2, quiet=True)


def test_a_finished_arm_keeps_the_precision_of_the_oracles_run(finished_run, tmp_path):
    half = replace(finished_run.config.runtime, precision="bfloat16")
    config = replace(finished_run.config, runtime=half)
    config = replace(config, train=replace(config.train, seed=1, epochs=1))
    run = train_classifier(config, tmp_path / "arm")
    check_is_that_arm(run.path, config, "float32")
    plain = replace(config, runtime=finished_run.config.runtime)
    with pytest.raises(ValueError, match="another config, oracle or precision"):
        check_is_that_arm(run.path, plain, "float32")


def test_every_arm_says_how_long_its_epochs_take_beside_the_baselines(compared):
    _, _, result = compared
    times = {arm["arm"]: arm["time_over_baseline"] for arm in result["arms"]}
    assert times["baseline"] == 1
    assert all(time > 0 for time in times.values())
