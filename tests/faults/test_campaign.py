"""A short form of the campaign of faults; `make faults` runs all of it."""

import subprocess
import sys
from collections import Counter

import pytest

from tests.faults.__main__ import noted, table, write
from tests.faults.trial import COLUMNS, Ended, verdict

KINDS = ("damages", "hostile", "resources", "fuzzing")


@pytest.mark.slow
def test_a_sample_of_every_kind_but_kills_is_refused_or_recovered(tmp_path):
    words = ["--every", "61", "--inputs", "1000", "--only", *KINDS]
    command = [sys.executable, "-m", "tests.faults", "--state", tmp_path, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    rows = noted(tmp_path)
    tried = Counter(row["kind"] for row in rows)
    assert tried["damages"] >= 15
    assert tried["hostile"] >= 6
    assert not {row["column"] for row in rows} & {"traceback", "used silently"}
    # What is noted is not tried again, and the table is the same.
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.stdout == done.stdout[-len(again.stdout) :]
    assert noted(tmp_path) == rows


def ended(code=0, out="", err=""):
    return Ended(code, out, err, 1.0, 0.0)


@pytest.mark.parametrize(
    ("how", "as_before", "column"),
    [
        (ended(), True, "recovered"),
        (ended(err="warning: a.json is damaged"), False, "recovered"),
        (ended(), False, "used silently"),
        (ended(2, err="fmce: a.json is damaged"), False, "refused and named"),
        (ended(2, err="fmce: something is damaged"), False, "refused unnamed"),
        (ended(1, err="Traceback (most recent call last)"), False, "traceback"),
        (ended(-9), True, "traceback"),
    ],
)
def test_the_column_of_a_try(how, as_before, column):
    assert verdict(how, ["a.json"], as_before) == column


def test_the_table_counts_by_kind_and_goes_into_the_page(tmp_path):
    rows = [
        {"kind": "damages", "name": "a", "column": "recovered"},
        {"kind": "damages", "name": "b", "column": "refused and named"},
        {"kind": "fuzzing", "name": "c", "column": "recovered", "count": 1500},
    ]
    lines = table(rows).splitlines()
    assert lines[0] == "| | tried | " + " | ".join(COLUMNS) + " |"
    assert lines[2] == "| damages | 2 | 1 | 1 | 0 | 0 | 0 |"
    assert lines[3] == "| fuzzing | 1,500 | 1,500 | 0 | 0 | 0 | 0 |"
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- campaign -->\nold\n<!-- /campaign -->\nafter\n")
    write(rows, page)
    text = page.read_text()
    assert "| damages | 2 |" in text
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
