import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def results():
    return importlib.import_module("experiments.results_page")


def arm(name, mean_difference, low, high, p):
    return {
        "arm": name,
        "n": 5,
        "mean_baseline": 0.99,
        "mean_difference": mean_difference,
        "interval_low": low,
        "interval_high": high,
        "p_holm": p,
        "verdict": f"verdict of {name}",
    }


def comparison_row(*comparisons):
    result = {
        "raf": 0.9,
        "epochs": 42,
        "seeds": [1, 2, 3, 4, 5],
        "selection": {
            "raf": 0.9,
            "candidates": [{"raf": 0.9, "validation_accuracy": 0.98, "validation_loss": 0.1}],
        },
        "arms": [{"arm": a, "mean": 0.99, "sd": 0.001} for a in ("baseline", "ral")],
        "comparisons": list(comparisons),
        "same_seed": [],
    }
    return {"experiment": "digits", "what": "FMCE-Net++ and controls", "seed": 0, "result": result}


def other_seed_row(accuracy):
    metrics = {"accuracy": accuracy, "mae": 3.5, "confusion": [[1, 1]] * 2}
    numbers = dict.fromkeys(("precision", "recall", "f1", "spearman", "kappa"), None)
    what = "FMCE-Net, split image, on another seed's run"
    return {"experiment": "digits", "what": what, "seed": 0, "result": {**metrics, **numbers}}


def test_committed_page_is_made_from_the_committed_rows(results):
    rows = results.read_rows(ROOT / "results")
    committed = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert results.results_page(rows) == committed, "run: make results"


def test_readme_table_is_made_from_the_committed_rows(results):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert results.with_table(readme, results.read_rows(ROOT / "results")) == readme


def test_page_without_rows_names_each_missing_one_and_its_command(results, tmp_path):
    page = results.results_page(results.read_rows(tmp_path / "nowhere"))
    for what in (
        "original task",
        "FMCE-Net, split map",
        "FMCE-Net++ and controls",
        "step_overhead",
    ):
        assert f"there is no row “{what}”" in page
    assert page.count("Make it with `python -m experiments.digits`") == 3
    assert results.summary([]).count("not measured yet") == 7


def test_no_gain_is_claimed_where_the_interval_holds_zero(results):
    page = results.results_page([comparison_row(arm("ral", 0.001, -0.002, 0.004, 0.4))])
    assert "No gain established" in page
    assert "verdict of ral" in page
    assert "+0.10 | -0.20 … +0.40 | 0.4 |" in page


def test_a_difference_is_stated_where_the_interval_excludes_zero(results):
    page = results.results_page([comparison_row(arm("ral", -0.004, -0.006, -0.002, 0.01))])
    assert "A difference by FMCE-Net++" in page
    assert "No gain established" not in page


def test_a_control_that_differs_is_named(results):
    rows = [
        comparison_row(
            arm("ral", 0.001, -0.002, 0.004, 0.4),
            arm("phase_1", -0.03, -0.04, -0.02, 0.002),
            arm("random_oracle", 0.0, -0.01, 0.01, 1.0),
        )
    ]
    said = results.reading(rows)[1]
    assert "control: oracle pulls to phase 1, not K -3.00 pp" in said
    assert "untrained" not in said


def test_another_seeds_run_counts_as_chance_only_near_it(results):
    # Two phases here, so guessing gives one half and 0.6 is near it.
    assert "Does not carry over" in results.results_page([other_seed_row(0.6)])
    assert "Partly carries over" in results.results_page([other_seed_row(1.0)])


def test_rows_without_a_section_are_listed(results):
    row = {"experiment": "elsewhere", "what": "something new", "date": "2030-01-01", "result": {}}
    assert "| elsewhere | something new | 2030-01-01 |" in results.results_page([row])


def test_every_committed_row_is_covered_by_at_most_the_sections_of_its_experiment(results):
    for row in results.read_rows(ROOT / "results"):
        owners = [one for one in results.all_sections() if one.covers(row)]
        families = {one.__name__.rpartition(".")[2].split("_")[0] for one in owners}
        assert len(families) <= 1


def test_sections_have_different_places(results):
    places = [one.ORDER for one in results.all_sections()]
    assert places == sorted(set(places))


def test_rows_of_the_small_scale_are_not_on_the_page(results):
    rows = results.read_rows(ROOT / "results")
    minutes = [{**row, "scale": "small"} for row in rows if row.get("scale") == "medium"]
    assert minutes
    assert results.results_page([*rows, *minutes]) == results.results_page(rows)


def test_a_readme_without_the_marks_is_refused(results):
    with pytest.raises(ValueError, match="put them back"):
        results.with_table("# fmce\n", [])


def test_a_benchmark_is_listed_with_the_command_that_made_its_row(results):
    given = "OMP_NUM_THREADS=1 python -m benchmarks.step_overhead --repeats 7 --record"
    listed = results.commands([{"benchmark": "step_overhead", "command": given}])
    assert given in listed
    assert not any("step_overhead" in command for command in listed if command != given)
    assert "python -m experiments.distillation_segmentation --real" in listed
    assert "python -m benchmarks.step_overhead --record" in results.commands([])
