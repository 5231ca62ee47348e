"""The audit: what tells phases beyond the clock, what only recognises checkpoints, and what cannot be answered."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fmce.cli.main import main
from fmce.digests import read_record
from fmce.maturity.audit import (
    BETWEEN,
    INSIDE,
    KNOWN,
    PERMUTED,
    audit,
    inside_one_phase,
    marker_rows,
)
from fmce.maturity.audit_runs import audit_runs
from fmce.maturity.controls import fitted_predictor, scorer_predictor, true_phases
from fmce.maturity.histories import run_histories
from fmce.maturity.train_classifier import train_classifier
from fmce.maturity.train_fmce_net import train_fmce_net
from fmce.report.run_page import report_page
from fmce.runs.run import Run
from fmce.scoring.history import ModuleHistory
from fmce.scoring.scorer import MaturityScorer


def history(run, *, speed=10.0, length=40, seed=0, noise=0.03, **about):
    """A run whose loss falls exponentially, with a statistic that follows it and one that does not."""
    rng = np.random.default_rng([seed, run])
    epochs = np.arange(1, length + 1)
    losses = 2 * np.exp(-epochs / speed) + 0.02
    following = np.log(losses) + rng.normal(0, noise, length)
    values = {
        "probe_loss": following,
        "nc1": following + rng.normal(0, noise, length),
        "probe_error": following + rng.normal(0, 3 * noise, length),
        "weight_norm": rng.normal(0, 1, length),
        "head_loss": np.log(losses),
    }
    twin = dict.fromkeys(values, 0.7)
    text = {"data": "a", "architecture": "b", "width": "c", "recipe": f"speed {speed}", **about}
    return ModuleHistory(f"run {run}", "block", epochs, values, twin, losses, length, text)


SPEEDS = (4.0, 8.0, 12.0, 6.0, 10.0, 5.0)
FITTED = [history(n, speed=speed) for n, speed in enumerate(SPEEDS)]
UNSEEN = [history(20 + n, speed=speed) for n, speed in enumerate((2.0, 2.5, 3.0, 14.0, 16.0, 18.0))]


def rows_of(found, **fields):
    rows = [row.to_dict() for row in found.rows]
    return [row for row in rows if all(row[k] == v for k, v in fields.items())]


@pytest.fixture(scope="module")
def found():
    scorer = MaturityScorer.fit(FITTED)
    return audit(
        {"score": scorer_predictor(scorer)},
        UNSEEN,
        novelty=lambda h: scorer.novelties(h)[-1],
        reference=FITTED,
    )


def test_a_score_of_the_loss_beats_the_clock_on_other_recipes(found):
    (row,) = rows_of(found, protocol="unseen recipe", predictor="score", truth="raw")
    (clock,) = rows_of(found, protocol="unseen recipe", predictor="epoch number", truth="raw")
    assert row["mae"] < 0.5 < 0.9 < clock["mae"]
    assert row["beats_clock"] == "yes"
    assert row["accuracy"] > 0.6 > clock["accuracy"]
    assert row["rho"] > 0.9
    assert row["worst_rho"] <= row["rho"]
    assert 0.7 < row["coverage"] <= 1
    assert row["runs"] == 6
    assert clock["rho"] == pytest.approx(1)
    assert clock["beats_clock"] is None


def test_a_control_that_knows_nothing_beats_no_clock(found):
    (row,) = rows_of(found, protocol="unseen recipe", predictor="weight norm", truth="raw")
    assert row["beats_clock"] == "no"
    assert abs(row["rho"]) < 0.5
    assert row["coverage"] is None
    (loss,) = rows_of(found, protocol="unseen recipe", predictor="own head's loss", truth="raw")
    assert loss["mae"] < 0.5


def test_permuted_labels_leave_nothing_and_one_phase_next_to_nothing(found):
    (row,) = rows_of(found, protocol=PERMUTED)
    (true,) = rows_of(found, protocol="unseen recipe", predictor="score", truth="raw")
    assert row["mae"] > 2 > 4 * true["mae"]
    assert rows_of(found, protocol=INSIDE)


def test_official_phases_and_epochs_between_markers_are_rows_of_their_own(found):
    assert {row.truth for row in found.rows} == {"raw", "official"}
    (between,) = rows_of(found, protocol=BETWEEN, predictor="score", truth="raw")
    assert between["mae"] < 1
    assert found.unanswered[0] == "unseen seed: no run here tests it"
    assert not any("recipe" in line for line in found.unanswered)


def test_what_recognises_checkpoints_is_right_on_known_runs_alone():
    memory = {
        (h.run, int(epoch)): phase
        for h in FITTED
        for epoch, phase in zip(h.epochs, true_phases(h, "raw"), strict=True)
    }

    def recall(h, _truth):
        rng = np.random.default_rng(0)
        known = [memory.get((h.run, int(e)), rng.uniform(0, 10)) for e in h.epochs]
        return np.array(known), None, None

    found = audit(
        {"memory": recall},
        [*FITTED[:3], *UNSEEN],
        novelty=lambda h: "" if h in FITTED else "recipe",
        reference=FITTED,
    )
    (known,) = rows_of(found, protocol=KNOWN, predictor="memory", truth="raw")
    (new,) = rows_of(found, protocol="unseen recipe", predictor="memory", truth="raw")
    assert (known["mae"], known["accuracy"]) == (0, 1)
    assert new["mae"] > 2
    assert new["beats_clock"] == "no"


def test_a_judged_run_is_left_out_of_its_own_calibration():
    seen = []

    def relabel(h):
        seen.append(h.run)
        return h

    predict = fitted_predictor(["probe_loss"], FITTED, "within_run", relabel)
    predict(FITTED[0], "raw")
    assert "run 0" not in seen
    assert len(seen) == len(FITTED) - 1


def test_two_runs_give_controls_an_order_and_no_scale():
    predictor = {"score": scorer_predictor(MaturityScorer.fit(FITTED))}
    found = audit(predictor, UNSEEN[:2], reference=UNSEEN[:2])
    (clock,) = rows_of(found, protocol="unseen seed", predictor="epoch number", truth="raw")
    (norm,) = rows_of(found, protocol="unseen seed", predictor="weight norm", truth="raw")
    assert (clock["mae"], clock["accuracy"], norm["mae"]) == (None, None, None)
    assert clock["rho"] == pytest.approx(1)
    assert "need three runs" in found.unanswered[-1]
    with pytest.raises(ValueError, match="at least one run"):
        audit({}, [])


def test_markers_are_judged_apart_from_the_epochs_between_them():
    at, between = marker_rows(FITTED[2])
    official = FITTED[2].phases(smoothed=True)
    assert len(at) <= 10
    assert not set(at) & set(between)
    assert official[at[-1]] == 10
    assert (official[between] < 10).all()
    short = inside_one_phase(FITTED[2])
    assert len({int(p) for p in short.phases(smoothed=True)}) == 1


@pytest.fixture(scope="module")
def runs(finished_run, other_run, tmp_path_factory):
    """Two runs long enough for ten phases, of which the first has an FMCE-Net."""
    folder, found = tmp_path_factory.mktemp("audited"), []
    for name, run in (("a", finished_run), ("b", other_run)):
        section = replace(run.config.train, epochs=13)
        found.append(train_classifier(replace(run.config, train=section), folder / name))
    train_fmce_net(found[0], "map")
    return found


def test_the_history_of_a_run_folder_has_each_module_at_each_checkpoint(runs):
    first, *others = run_histories(runs[0], ["blocks.1", "blocks.2"], probe=96)
    assert [first.module, *(h.module for h in others)] == ["blocks.1", "blocks.2"]
    assert first.epochs.tolist() == runs[0].epochs
    assert first.planned == runs[0].config.train.epochs
    assert first.about["data"] == "digits 8px"
    assert first.about["architecture"] == "tiny"
    assert first.values["head_loss"][-1] < first.values["head_loss"][0]
    (again,) = run_histories(runs[0], ["blocks.1"], probe=96)
    assert all(np.array_equal(again.values[k], v, equal_nan=True) for k, v in first.values.items())
    (other,) = run_histories(runs[0], ["blocks.1"], probe=96, view=1)
    assert not np.array_equal(other.values["probe_loss"], first.values["probe_loss"])


def test_run_folders_are_audited_with_their_fmce_nets(runs, tmp_path, capsys):
    MaturityScorer.fit(FITTED).save(tmp_path / "scorer.json")
    names = [str(run.path) for run in runs]
    options = ["--scorer", str(tmp_path / "scorer.json"), "--probe", "96"]
    main(["audit", *names, *options, "--modules", "blocks.2", "--json"])
    found = json.loads(capsys.readouterr().out)
    own = "published FMCE-Net of a"
    mine = [r for r in found["rows"] if r["predictor"] == own]
    assert {r["protocol"] for r in mine} >= {"unseen images", "unseen seed"}
    assert {r["protocol"] for r in found["rows"] if r["predictor"].startswith("maturity")} >= {
        "unseen images",
        "unseen architecture",
    }
    assert "unseen width: no run here tests it" in found["unanswered"]
    assert read_record(runs[0].path / "audit.json") == found | read_record(
        runs[0].path / "audit.json"
    )
    page = report_page(runs[0].path)
    assert "How far maturity scores can be trusted" in page
    assert own in page


def test_runs_without_phases_checkpoints_or_fmce_net_say_so(runs, finished_run, tmp_path):
    with pytest.raises(FileNotFoundError, match="keeps no checkpoint"):
        run_histories(Run(tmp_path, runs[0].config))
    with pytest.raises(ValueError, match="seed0 has no ten phases to judge by: 10 phases need at"):
        audit_runs([finished_run], scorer=MaturityScorer.fit(FITTED))
    found = audit_runs(
        [runs[0]], scorer=MaturityScorer.fit(FITTED), modules=["blocks.2"], split="image", probe=64
    )
    assert any("has none (fmce train-net)" in line for line in found.unanswered)
