"""What maturity is good for: the experiments in short form, and their tables on rows made by hand."""

import pytest

from experiments import freezing, oracle_forms, parallel, retraining, selection
from experiments.tables import audit as audit_tables
from experiments.tables import fmce_net_pp, uses
from fmce.files import read_json_lines
from fmce.scoring.class_statistics import CLASS_STATISTICS


def double(number):
    return 2 * number


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_jobs_end_with_their_names_and_none_begins_after_the_time(processes):
    jobs = {n: (n,) for n in range(4)}
    assert dict(parallel.run_jobs(double, jobs, processes)) == {n: 2 * n for n in range(4)}
    assert dict(parallel.run_jobs(double, jobs, processes, until=0.0)) == {}


def arm(accuracy, cost=1.0):
    return {"test_accuracy": accuracy, "cost": cost}


def test_freezing_is_compared_with_a_schedule_of_the_same_cost():
    rows = []
    for seed, lift in enumerate((0.0, 0.01, 0.03)):
        arms = {name: arm(0.8 + lift) for name in uses.FREEZING}
        arms |= {"clock": arm(0.7 + lift, 0.6), "shortened": arm(0.75 + lift, 0.6)}
        row = {"experiment": "freezing", "what": "digits", "seed": seed, "result": {"arms": arms}}
        rows.append(row)
    table = uses.freezing_table(rows)
    lines = {line[0]: line[1:] for line in table.lines}
    assert lines["digits: frozen by the clock"] == ["3", "60.00 %", "71.33 %", "-10.00", "-5.00"]
    assert lines["digits: full schedule"][-2:] == ["–", "–"]
    assert lines["digits: frozen by the score"][-1] == "+0.00"


def test_costs_and_epochs_of_freezing_are_those_worked_out_by_hand():
    assert freezing.cost_of([], [0.5], 4) == 1
    assert freezing.cost_of([1, 2], [0.25, 0.5], 4) == pytest.approx((1 + 0.75 + 0.5 + 0.5) / 4)
    plans = freezing.at_the_same_cost(
        {"clock": {"cost": 0.5, "savings": [0.2, 0.6]}, "score": {"cost": 1.1}},
        {"freeze": [3, 4]},
        10,
    )
    assert {plan.arm: plan.epochs for plan in plans} == {
        "shortened": 5,
        "shortened as score": 10,
        "time-linear": 10,
        "depth order": 10,
    }
    assert plans[-1].freeze == [3, 4]
    assert (
        freezing.at_the_same_cost(
            {"clock": {"cost": 0.5, "savings": [0.2]}, "score": {"cost": 1}}, None, 10
        )[-1].arm
        == "time-linear"
    )


def test_rules_name_modules_and_the_best_in_hindsight_misses_nothing():
    names = ["stem", "body", "head"]
    one = {
        "before": 0.3,
        "retrained": {"stem": 0.5, "body": 0.6, "head": 0.4, "all": 0.55},
        "score": [0.1, 0.2, 0.9],
        "gradient": [0.9, 0.1, 0.2],
    }
    row = {"experiment": "retraining", "result": {"shifts": {"noise": one}}}
    assert [named(one, names) for named in uses.RULES.values()] == [
        *("head", "body", "stem", "stem", "head", "all", "body")
    ]
    assert uses.retraining_table([row]).lines[-1][3:] == [
        *("40.00 %", "60.00 %", "50.00 %", "50.00 %", "40.00 %", "55.00 %", "60.00 %")
    ]
    assert uses.naming_table([row]).lines == [
        ["score", "0 of 1", "+20.00"],
        ["score, maps alone", "1 of 1", "+0.00"],
        ["gradient", "0 of 1", "+10.00"],
        ["first module", "0 of 1", "+10.00"],
        ["last module", "0 of 1", "+20.00"],
    ]


class ByProbe:
    """A scorer that answers with the probe's error alone."""

    def score(self, history, form):
        assert form == "snapshot"
        values = -history.values["probe_mse"]
        return type("Scores", (), {"values": values})


def test_a_choice_misses_what_the_best_candidate_has_more(tmp_path):
    runs = {}
    for n, name in enumerate(selection.RECIPES):
        candidates = [
            {
                "epoch": epoch,
                "test": 0.5 + 0.01 * epoch - 0.1 * n,
                "values": dict.fromkeys(CLASS_STATISTICS, -0.1 * epoch + n)
                | {"effective_rank": -float(epoch)},
            }
            for epoch in (2, 4)
        ]
        twin = dict.fromkeys((*CLASS_STATISTICS, "effective_rank"), 1.0)
        runs[name] = {"losses": [1.0, 0.9, 0.8, 0.7], "twin": twin, "candidates": candidates}
    found = selection.judged(runs, "digits", ByProbe())
    assert found["best"] == pytest.approx(0.54)
    assert found["regret"]["highest score"] == pytest.approx(0)
    assert found["regret"]["highest effective rank"] == pytest.approx(0.02)
    assert found["regret"]["last checkpoint of any run"] == pytest.approx(0.15)
    row = {"experiment": "selection", "what": "digits", "result": found}
    lines = dict(uses.selection_table([row]).lines)
    assert lines["highest effective rank"] == "2.00 (2.00)"
    assert uses.selection_table([]).lines == []


def test_other_oracles_stand_beside_plain_training_and_fmce_net_pp():
    arms = {
        "baseline": 0.5,
        "ral": 0.52,
        "label_smoothing": 0.53,
    }
    rows = [
        {
            "experiment": "oracle_forms",
            "data": "cifar100",
            "seed": seed,
            "result": {
                "arms": {
                    name: {
                        "test_accuracy": value + 0.01 * seed * (name != "baseline"),
                        "test_loss": 2.0,
                        "train_accuracy": 1.0,
                        "epoch_seconds": 1.0,
                    }
                    for name, value in arms.items()
                }
            },
        }
        for seed in (1, 2, 3)
    ]
    table = fmce_net_pp.forms_table(rows, "cifar100")
    lines = {line[0]: line[1:] for line in table.lines}
    assert lines["FMCE-Net++, RAF 0.9"][1] == "+4.00"
    smoothed = lines["control: plain, targets smoothed by 0.1"]
    assert (smoothed[1], smoothed[4], smoothed[5]) == ("+5.00", "-1.00", "100.00 %")
    assert "CIFAR-100, 3 seeds" in fmce_net_pp.oracle_forms_tables(rows)


def test_an_audit_is_a_cell_per_protocol_with_a_mark_where_the_clock_is_beaten():
    row = {
        "protocol": "unseen data",
        "predictor": "maturity score",
        "truth": "raw",
        "runs": 6,
        "accuracy": 0.5,
        "mae": 0.4,
        "rho": 0.99,
        "worst_rho": 0.95,
        "coverage": 0.9,
        "beats_clock": "yes",
    }
    clock = row | {"predictor": "epoch number", "mae": None, "coverage": None, "beats_clock": None}
    rows = [{"experiment": "audit", "what": "within_run", "result": {"rows": [row, clock]}}]
    header, lines = audit_tables.raw_table(rows)
    assert header[1] == "unseen data (6 runs)"
    assert lines == [
        ["maturity score", "0.40 ✓; 0.990 (0.950)"],
        ["epoch number", "–; 0.990 (0.950)"],
    ]
    assert audit_tables.official_table(rows).lines == []
    assert audit_tables.coverage_table(rows).lines == [
        ["within_run: unseen data", "6", "50 %", "90 %"]
    ]


@pytest.mark.slow
def test_freezing_in_short(tmp_path):
    options = ["--small", "--out", str(tmp_path / "runs"), "--results", str(tmp_path / "rows")]
    freezing.main(options)
    rows = read_json_lines(tmp_path / "rows")
    assert [row["seed"] for row in rows] == [1, 2]
    arms = rows[0]["result"]["arms"]
    assert set(arms) == {*freezing.FIRST, *freezing.SECOND}
    assert arms["full"]["cost"] == 1
    assert arms["full"]["freeze"] == []
    assert len(uses.freezing_table(rows).lines) == len(uses.FREEZING)
    before = (tmp_path / "rows").read_text()
    freezing.main(options)
    assert (tmp_path / "rows").read_text() == before


@pytest.mark.slow
def test_every_arm_is_trained_beside_an_oracle_of_its_own(tmp_path, monkeypatch):
    settings = {"digits": oracle_forms.SETTINGS["fashion-mnist"]}
    monkeypatch.setattr(oracle_forms, "SETTINGS", settings)
    options = ["--small", "--out", str(tmp_path / "runs"), "--results", str(tmp_path / "rows")]
    monkeypatch.setattr(oracle_forms, "pack", lambda *_: None)
    oracle_forms.main(options)
    rows = read_json_lines(tmp_path / "rows")
    assert [set(row["result"]["arms"]) for row in rows] == [set(oracle_forms.ARMS)] * 2
    assert all("root" not in str(row["result"]) for row in rows)


def test_a_module_that_is_back_at_its_start_has_fallen_completely():
    from experiments.injuries import fall

    trained, start = (dict.fromkeys(CLASS_STATISTICS, v) for v in (-3.0, 0.0))
    assert fall(start, [trained], start) == pytest.approx(1)
    assert fall(trained, [trained], start) == 0
    undefined = dict.fromkeys(CLASS_STATISTICS, float("nan"))
    assert fall(undefined, [trained], start) == 1
    noisy = [dict.fromkeys(CLASS_STATISTICS, v) for v in (-4.0, -2.0)]
    assert 0 < fall(start, noisy, start) <= 1


def test_retraining_leaves_all_but_the_named_module_as_it_was():
    import torch

    images, targets = torch.randn(40, 3, 16, 16), torch.arange(40) % 10
    model = retraining.fitted(None, (images, targets), seed=1, epochs=1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    after = retraining.fitted(model, (images, targets), 1, 1, "blocks.1").state_dict()
    changed = {
        k.split(".")[0] + "." + k.split(".")[1]
        for k in after
        if not torch.equal(after[k], before[k])
    }
    assert changed == {"blocks.1"}
    gradients = retraining.relative_gradients(model, (images, targets))
    assert len(gradients) == len(retraining.MODULES)
    assert min(gradients) > 0
