"""`fmce compare`: paired arms, controls, and a choice of RAF that never sees the test images."""

import math
import shutil
from dataclasses import replace

import pytest

from fmce.cli.main import main
from fmce.config.io import to_yaml
from fmce.config.run import AuxiliaryConfig
from fmce.config.sweep import CONTROLS, CompareConfig
from fmce.digests import read_record, read_sealed
from fmce.engine.jobs.local import LocalWorkers
from fmce.fmce_net_pp.arms import check_trained_as
from fmce.fmce_net_pp.compare import compare
from fmce.fmce_net_pp.sweep.status import sweep_status
from fmce.maturity.train_classifier import train_classifier
from fmce.metrics.statistics import holm, paired_comparison
from fmce.runs.log import lock_run, read_done
from fmce.runs.run import open_run
from tests.conftest import NEWER, without


@pytest.fixture(scope="module")
def oracle(finished_run):
    return str(finished_run.path)


def runs_of(out):
    return {p.name: open_run(p) for p in sorted((out / "runs").iterdir())}


def again(config, out):
    return compare(config, out, workers=LocalWorkers(2))


def test_each_arm_and_seed_has_one_row(compared):
    _, _, result = compared
    arms = ("baseline", "ral", *CONTROLS)
    expected = {(a, s) for s in (1, 2) for a in arms} | {("baseline", 0), ("ral", 0)}
    selection = {("raf0.9", 100), ("raf0.5", 100)}
    rows = [(row["arm"], row["seed"]) for row in result.rows]
    assert len(rows) == len(set(rows))
    assert set(rows) == {("oracle", 0)} | expected | selection
    assert [a["arm"] for a in result.arms] == list(arms)


def test_rows_hold_what_the_runs_say(compared):
    _, out, result = compared
    for row in result.rows[1:]:
        run = open_run(out / "runs" / f"{row['arm']}-seed{row['seed']}")
        assert row["test_accuracy"] == run.done.get("test_accuracy")
        assert row["validation_accuracy"] == run.curve[-1]["validation_accuracy"]
        assert run.config.train.seed == row["seed"]
        assert run.config.train.epochs == result.epochs
        assert row["status"] == "done"


def test_the_test_accuracy_read_after_selection_is_that_of_a_training_that_reads_it_itself(
    compared, tmp_path
):
    _, out, _ = compared
    run = open_run(out / "runs" / "ral-seed1")
    alone = train_classifier(run.config, tmp_path / "alone")
    names = ("test_accuracy", "test_loss")
    assert [run.done[n] for n in names] == [alone.done[n] for n in names]


def test_arms_last_as_long_as_the_oracle_took_to_converge(compared, finished_run):
    _, _, result = compared
    assert result.epochs == finished_run.phases.convergence_epoch


def test_raf_is_selected_on_validation_by_runs_that_never_read_the_test(compared):
    config, out, result = compared
    candidates = result.selection["candidates"]
    best = max(candidates, key=lambda r: (r["validation_accuracy"], -r["validation_loss"]))
    assert [r["raf"] for r in candidates] == [0.9, 0.5]
    assert (result.selection["raf"], result.selected) == (best["raf"], "ral")
    for raf in (0.9, 0.5):
        run = open_run(out / "runs" / f"raf{raf}-seed{config.selection_seed}")
        assert run.config.train.seed == config.selection_seed
        assert run.config.auxiliary.raf == raf
        assert "test_accuracy" not in run.done


def test_arms_differ_from_the_baseline_in_what_their_name_says(compared):
    _, out, result = compared
    runs = {name.removesuffix("-seed1"): run.config for name, run in runs_of(out).items()}
    base, raf = runs["baseline"], result.selection["raf"]
    assert base.auxiliary.kind == "none"
    assert runs["ral"].auxiliary.raf == raf
    assert runs["random_oracle"].auxiliary.oracle_weights == "random"
    assert runs["phase_1"].auxiliary.target_phase == 1
    assert runs["feature_matching"].auxiliary.kind == "feature_matching"
    assert runs["scaled_rate"].train.learning_rate == raf * base.train.learning_rate
    assert runs["ridge_probe"].auxiliary == AuxiliaryConfig("ridge_probe", raf=raf)
    changes = {"scaled_rate": "learning_rate", "label_smoothing": "", "weight_average": ""}
    for arm in ("ral", *CONTROLS):
        changed = replace(runs[arm], auxiliary=base.auxiliary)
        assert (runs[arm].auxiliary == base.auxiliary) == (arm in changes)
        if arm in changes:
            name = changes[arm] or arm
            assert getattr(changed.train, name) != getattr(base.train, name)
            own = {name: getattr(base.train, name)}
            changed = replace(changed, train=replace(changed.train, **own))
        assert changed == base


def test_comparisons_are_paired_by_seed_without_the_oracles_own(compared):
    _, _, result = compared
    of = {
        arm["arm"]: [
            r["test_accuracy"] for r in result.rows if r["arm"] == arm["arm"] and r["seed"] != 0
        ]
        for arm in result.arms
    }
    results = [paired_comparison(of["baseline"], of[c["arm"]]) for c in result.comparisons]
    for got, expected in zip(result.comparisons, results, strict=True):
        assert got["mean_difference"] == pytest.approx(expected.mean_difference)
        assert got["n"] == 2
    adjusted = holm([r.p_value for r in results])
    for got, p in zip(result.comparisons, adjusted.tolist(), strict=True):
        # Undefined where an arm scores like its baseline at every seed.
        assert got["p_holm"] == (None if math.isnan(p) else pytest.approx(p))
    over = {c["arm"]: c["mean_difference"] for c in result.over_controls}
    mean = {arm: sum(v) / 2 for arm, v in of.items()}
    assert over == pytest.approx({c: mean["ral"] - mean[c] for c in CONTROLS})


def test_the_oracles_own_seed_is_reported_apart(compared):
    _, out, result = compared
    assert [(r["arm"], r["seed"]) for r in result.same_seed] == [("baseline", 0), ("ral", 0)]
    assert open_run(out / "runs" / "ral-seed0").config.auxiliary.same_seed
    assert result.seeds == [1, 2]


def test_a_second_call_trains_nothing(compared):
    config, out, result = compared
    before = {p: p.stat().st_mtime_ns for p in out.rglob("epoch_*/*")}
    assert again(config, out) == result
    assert {p: p.stat().st_mtime_ns for p in out.rglob("epoch_*/*")} == before
    assert read_record(out / "compare.json") == result.to_dict()


def test_another_config_in_the_same_folder_is_refused(compared):
    config, out, _ = compared
    with pytest.raises(FileExistsError, match="is the config of another run"):
        again(replace(config, seeds=(1, 3)), out)


def test_the_status_of_a_comparison_is_read_from_its_folder(compared):
    _, out, result = compared
    status = sweep_status(out)
    assert status["counts"] == {"done": 7 + 2 * (1 + len(CONTROLS))}
    assert f"RAF {result.selection['raf']} selected" in status["notes"][0]


@pytest.mark.parametrize("seeds", [{"seeds": (0, 1)}, {"selection_seed": 0}])
def test_the_oracles_own_seed_is_refused_as_an_arms(oracle, tmp_path, seeds):
    with pytest.raises(ValueError, match=r"seed 0 is the own seed.*--same-seed adds that pair"):
        compare(CompareConfig(oracle=oracle, **seeds), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rafs": ()}, "rafs: expected 1 or more values"),
        ({"rafs": (1.0,)}, "expected below 1, got 1.0"),
        ({"seeds": (1,)}, "seeds: expected 2 or more values"),
        ({"seeds": (1, 1)}, "seeds: expected different values"),
        ({"selection_seed": 1}, "a seed that is not among the arms'"),
        ({"selection_seed": -1}, "expected at least 0"),
        ({"settings": ("train.batch_size=8",)}, "the arms differ in the loss alone"),
        ({"settings": ("auxiliary.raf=0.2",)}, "auxiliary.raf is set by the experiment itself"),
    ],
)
def test_configs_that_compare_nothing_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        CompareConfig(oracle="runs/x", **values)


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
    assert len(runs_of(tmp_path / "out")) == 4  # one candidate needs no training to be selected
    for name, run in runs_of(tmp_path / "out").items():
        form = (run.config.auxiliary.oracle_every, run.config.auxiliary.oracle_batch_fraction)
        assert form == ((2, 0.5) if name.startswith("ral") else (1, 1.0))
    result = read_record(tmp_path / "out" / "compare.json")
    assert result["selection"] == {"arm": "raf0.8", "raf": 0.8, "variant": [], "candidates": []}
    assert "ral against the baseline" in capsys.readouterr().out


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
        compare(CompareConfig(oracle=oracle, settings=(setting,)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_comparison_of_an_earlier_version_is_taken_up(compared, tmp_path):
    config, out, result = compared
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    without(copy / "config.yaml", "settings")
    for file in copy.glob("*/*/config.yaml"):
        without(file, *NEWER)
    assert again(config, copy).arms == result.arms


def test_a_folder_that_holds_something_else_is_refused(own_run, tmp_path):
    config = CompareConfig(oracle=str(own_run.path), rafs=(0.8,), seeds=(1, 2), controls=())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(
        FileExistsError, match=r"config\.yaml is missing, but .* holds 'notes\.txt'"
    ):
        again(config, tmp_path / "out")


def test_a_finished_arm_of_another_config_is_not_paired(compared, tmp_path):
    config, out, _ = compared
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    file = copy / "runs" / "baseline-seed1" / "config.yaml"
    file.write_text(read_sealed(file).replace("  epochs: ", "  epochs: 1", 1))
    with pytest.raises(ValueError, match="trained with another config, oracle or precision"):
        again(config, copy)


def test_a_finished_arm_keeps_the_precision_of_the_oracles_run(finished_run, tmp_path):
    half = replace(finished_run.config.runtime, precision="bfloat16")
    config = replace(finished_run.config, runtime=half)
    config = replace(config, train=replace(config.train, seed=1, epochs=1))
    run = train_classifier(config, tmp_path / "arm")
    check_trained_as(run.path, config, "float32")
    plain = replace(config, runtime=finished_run.config.runtime)
    with pytest.raises(ValueError, match="another config, oracle or precision"):
        check_trained_as(run.path, plain, "float32")


def test_every_arm_says_how_long_its_epochs_take_beside_the_baselines(compared):
    _, _, result = compared
    times = {arm["arm"]: arm["time_over_baseline"] for arm in result.arms}
    assert times["baseline"] == 1
    assert all(time > 0 for time in times.values())


def test_a_training_that_fails_is_reported_once_the_others_are_finished(oracle, tmp_path):
    out = tmp_path / "out"
    config = CompareConfig(oracle=oracle, rafs=(0.8,), seeds=(1, 2), controls=())
    bad = out / "runs" / "baseline-seed2"
    with lock_run(out, to_yaml(config)):
        bad.mkdir(parents=True)
    (bad / "notes.txt").write_text("no run's file")
    with pytest.raises(ValueError, match=r"1 of 5 trainings failed, first runs/baseline-seed2:"):
        again(config, out)
    assert read_done(out / "runs" / "ral-seed2") is not None
    (bad / "notes.txt").unlink()
    assert again(config, out).against_baseline["n"] == 2
