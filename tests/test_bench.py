"""`make bench`: its lines measure and check both sides, and one whose peer is not installed takes no other with it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import bench
from benchmarks.table.functions import curve, one_pass
from benchmarks.table.lines import Effort, Line, in_turns

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_table_has_figures_goals_and_what_could_not_be_measured():
    command = [sys.executable, "-m", "benchmarks.bench", "--quick", "--only", "find_phases", "mIoU"]
    page = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout
    assert "one pass in Python and NumPy" in page
    assert "≤ 1.5" in page
    assert "scalabel" in page


def test_goals_are_met_from_either_side():
    def line(limit, kind="at most"):
        return Line("what", "peer", lambda _effort: {}, limit, kind, why={"": "for a reason"})

    assert line(1.0).meets(1.0)
    assert not line(1.0).meets(1.01)
    assert line(0.9, "at least").meets(0.95)
    assert line(None).meets(5.0) is None
    assert bench.cell(line(1.0), "one", 2.0)[-1] == "missed: for a reason"
    assert bench.cell(line(1.0), "one", 0.5)[-1] == "met"
    row = bench.row(line(1.0), {"one": 2.0}, quick=True)
    assert row["met"] == [False]
    assert json.dumps(row)


def test_a_line_that_fails_is_reported_and_no_more():
    def without_peer(_effort):
        raise ModuleNotFoundError("No module named 'peer'", name="peer")

    def broken(_effort):
        raise ValueError("both must agree")

    for run, expected in ((without_peer, "no peer here"), (broken, "ValueError: both must agree")):
        found, problem = bench.measured(Line("what", "peer", run, 1.0), Effort(quick=True))
        assert found == {}
        assert problem.startswith(expected)


def test_sides_take_turns_and_the_first_turn_does_not_count():
    seen = []
    times = in_turns([lambda: seen.append("a"), lambda: seen.append("b")], 3)
    assert seen == ["a", "b"] * 4
    assert [len(kept) for kept in times] == [3, 3]


def test_the_reference_finds_the_markers_of_a_curve_that_halves():
    losses = curve(4000)
    assert one_pass(losses)[-1] <= 4000
    assert all(a < b for a, b in zip(one_pass(losses), one_pass(losses)[1:], strict=False))
