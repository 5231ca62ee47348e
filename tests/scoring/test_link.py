"""Statistics joined on one scale: what the fit finds where the truth is known."""

import numpy as np
import pytest

from fmce.scoring.link import PROGRESS, fit_link, linked, middles_of
from fmce.scoring.monotone import fit_table
from tests.scoring.runs import history

NAMES = ("useful", "useless")


def run(seed, rises=3.0):
    """Return a run whose phase is the log of the first statistic's fall, and whose second one is noise."""
    rng = np.random.default_rng(seed)
    place = np.linspace(0, 1, 21)
    logs = rises * place
    middles = {"useful": np.exp(-logs) + seed, "useless": rng.normal(0, 1, 21)}
    return middles, 10 * place[1:]


def test_the_middle_of_an_epoch_lies_half_way_to_the_one_before():
    one = history(1, statistics=("probe_loss",))
    found = middles_of(one, ("probe_loss", "missing"))
    values = one.values["probe_loss"]
    assert list(found) == ["probe_loss"]
    assert len(found["probe_loss"]) == len(one.epochs) + 1
    assert found["probe_loss"][0] == pytest.approx((one.twin["probe_loss"] + values[0]) / 2)
    assert found["probe_loss"][2] == pytest.approx((values[0] + values[1]) / 2)


def test_the_fit_finds_a_curved_scale_and_leaves_noise_out():
    pool = [
        ({n: v - (seed if n == "useful" else 0) for n, v in run(seed)[0].items()}, run(seed)[1])
        for seed in range(6)
    ]
    tables = fit_link(pool, NAMES)
    assert set(tables) == {*NAMES, PROGRESS}
    middles, truth = run(9)
    middles["useful"] = middles["useful"] - 9
    answers, spread = linked(tables, middles)
    assert np.abs(answers - truth).mean() < 0.4
    assert np.isfinite(spread).all()
    # Straight in the statistic itself, the first half of the epochs would make up nearly all of the fall.
    straight = (middles["useful"][0] - middles["useful"][1:]) / np.ptp(middles["useful"])
    assert np.abs(10 * straight - truth).mean() > 1.5
    moved = {
        name: np.ptp(
            tables[name](
                np.linspace(*np.quantile(np.concatenate([m[name] for m, _ in pool]), (0.02, 0.98)))
            )
        )
        for name in NAMES
    }
    assert moved["useless"] < moved["useful"] / 2


def test_values_apart_by_rounding_errors_are_one_knot():
    ends = 10 - np.array([0, 1e-15, 4e-15]) * 2
    x = np.concatenate([np.linspace(0, 9, 40), np.repeat(ends, 10)])
    table = fit_table(x, np.arange(len(x)) / 7, np.ones(len(x)))
    assert np.diff(table.x).min() > 0.01
    assert table(ends) == pytest.approx([float(table(10.0))] * 3, abs=1e-9)


def test_tables_continue_straight_beyond_what_was_fitted_on():
    pool = [({"useful": v["useful"] - seed}, t) for seed in range(6) for v, t in [run(seed)]]
    table = fit_link(pool, ("useful",))["useful"]
    low, high = table.x[1], table.x[-2]
    inside = np.diff(table(np.array([high - 0.01, high])))[0]
    outside = np.diff(table(np.array([high + 1, high + 1.01])))[0]
    assert outside == pytest.approx(inside, rel=0.3)
    assert table(np.array([low - 1]))[0] != table(np.array([low]))[0]
