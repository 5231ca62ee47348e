"""docs/results.md and the README's table are made from the committed rows, and no finding quotes another number."""

import copy
import re

import pytest

from experiments import results_page
from experiments.paper_runs import MEDIUM
from experiments.paper_tables import gains, paper_table
from experiments.results_page import PAGES, README, RESULTS, unfounded_numbers, with_tables

MARK, END = "<!-- table: ", "<!-- end of table -->"
TABLE = "## One\n<!-- table: a.b -->\n| {} |\n<!-- end of table -->\n"


@pytest.fixture(scope="module")
def rows():
    return results_page.shown_rows()


@pytest.fixture(scope="module")
def page():
    return RESULTS.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_committed_tables_are_made_from_the_committed_rows(path, rows):
    text = path.read_text(encoding="utf-8")
    assert "<!-- table: " in text
    assert with_tables(text, rows) == text, "run: make results"


def test_every_number_of_the_findings_stands_in_a_table_of_its_section(page):
    assert unfounded_numbers(page) == []
    findings = re.findall(r"^- \*\*.*$", page, re.M)
    assert len(findings) > 25


def test_every_committed_row_is_shown(rows):
    """Without a row, the pages would be others."""
    page = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    tables = [match[0] for match in re.finditer(f"{MARK}.*?{END}", page, re.S)]
    assert len(tables) > 50
    for number, row in enumerate(rows):
        others = rows[:number] + rows[number + 1 :]
        shown = next((table for table in tables if differs(table, others)), None)
        assert shown is not None, row
        # The next row is mostly shown in the same table.
        tables = [shown, *(table for table in tables if table is not shown)]


def differs(table, rows):
    try:
        return with_tables(table, rows) != table
    except (LookupError, ValueError):  # it cannot be made without the row
        return True


@pytest.mark.parametrize(
    ("wanted", "keys", "changed", "quote"),
    [
        ({"experiment": "digits"}, ("result", "smoothing_distance"), 5.5, "3.8"),
        ({"experiment": "fmce_table1"}, ("result", "epochs"), 40, "22 of 30"),
        ({"experiment": "fmce_table2"}, ("result", "held_out"), {"accuracy": 0.5}, "99.78 %"),
        ({"experiment": "fmce_figures"}, ("result", "per_phase", 9, "gini"), 0.7, "0.525"),
        ({"experiment": "ral_variants"}, ("result", "raf"), 0.25, "0.5"),
        ({"experiment": "distillation_detection"}, ("result", "gap_closed"), 0.5, "0.23"),
        ({"benchmark": "map_memory"}, ("stream_peak_rss_mb", 0), 500.0, "734"),
    ],
)
def test_a_row_that_changes_is_noticed_in_the_finding(page, rows, wanted, keys, changed, quote):
    rows = copy.deepcopy(rows)
    row = next(r for r in rows if all(r.get(k) == v for k, v in wanted.items()))
    for key in keys[:-1]:
        row = row[key]
    row[keys[-1]] = changed
    said = unfounded_numbers(with_tables(page, rows))
    assert any(f"“{quote}”" in line for line in said)


def test_a_claim_on_function_matching_follows_its_interval(page):
    claims = re.findall(
        r"^- \*\*([\w ]+): .*function matching on .*interval (\S+) … (\S+),", page, re.M
    )
    assert len(claims) == 7
    for claim, low, high in claims:
        supported = "Reproduces in kind" if float(low) > 0 else "No gain established"
        assert float(high) > 0
        assert claim == supported


@pytest.mark.parametrize(
    ("finding", "unfounded"),
    [
        ("- Right in 97.8 cases.", []),
        ("- Right in 97.9 cases.", ["97.9"]),
        ("- Half of `97.9`, CIFAR-10 and a 95 % interval at p < 0.05.", []),
        ("- Of 10,000, 3 of 5 and -0.5 pp.", ["10,000", "3 of 5", "-0.5"]),
        ("Not a finding: 12.", []),
    ],
)
def test_numbers_that_no_table_has_are_named(finding, unfounded):
    said = unfounded_numbers(f"{TABLE.format('97.8')}\n{finding}\n")
    assert [re.search("“(.*)”", line)[1] for line in said] == unfounded


def test_percent_and_fraction_are_the_same_number():
    assert unfounded_numbers(f"{TABLE.format('0.9685')}\n- Right for 96.85 %.\n") == []
    assert unfounded_numbers(f"{TABLE.format('96.85')}\n- Right for 96.85 %.\n") != []


def test_a_number_of_another_section_founds_nothing():
    (said,) = unfounded_numbers(f"{TABLE.format(5)}\n## Two\n- It is 5.\n{TABLE.format(6)[7:]}")
    assert said.startswith("Two: “5”")


def test_an_empty_place_is_filled_and_nothing_behind_it_is_lost(rows):
    place = "<!-- table: digits.readme_table -->\n<!-- end of table -->\n"
    once = with_tables(place, rows)
    assert "| test accuracy" in once
    assert with_tables(f"{place}\ntext\n\n{place}", rows) == f"{once}\ntext\n\n{once}"


def test_a_table_that_no_function_makes_is_refused(rows):
    with pytest.raises(AttributeError, match="no_such_table"):
        with_tables(TABLE.format(1).replace("a.b", "fmce.no_such_table"), rows)


def test_rows_of_the_small_scale_are_not_shown(rows):
    assert not [row for row in rows if row.get("scale") == "small"]


def test_every_medium_case_has_its_rows(rows):
    there = {(row["experiment"], row["case"]) for row in rows if "case" in row}
    for case in MEDIUM:
        assert ("fmce_table1", case.name) in there
        assert not case.phases or ("fmce_table2", case.name) in there


def test_each_benchmark_row_says_how_it_was_measured(rows):
    for row in rows:
        if "benchmark" in row:
            assert re.match(
                r"(OMP_NUM_THREADS=\d+ )?python -m benchmarks\.[a-z_.]+ ", row["command"]
            )


def test_what_cannot_be_reproduced_quotes_the_published_table(page):
    section = page.split("## What cannot be reproduced")[1].split("\n## ")[0]
    every = [gain for row in gains() for gain in row]
    above = f"{sum(gain > 0 for gain in every)} of the {len(every)} published settings"
    rows = paper_table("fmce_net_pp_table_1")["rows"]
    (hundred,) = (means for _, data, means, _ in rows if data == "CIFAR-100")
    for quote in (above, f"{hundred[0]:.2f} %", f"{hundred[-1]:.2f} %"):
        assert quote in section
    assert "25 of 39 settings" in README.read_text(encoding="utf-8")
