"""What `fmce compare` and `fmce sweep` print."""

from fmce.cli.show_fmce_net_pp import arm_cells, show_comparison
from fmce.fmce_net_pp.statistics import arm_summaries


def test_a_verdict_in_words_is_printed(compared, capsys):
    _, _, result = compared
    show_comparison(result)
    out = capsys.readouterr().out
    assert f"ral against the baseline: {result.against_baseline['verdict']}" in out
    assert "RAF, selected on validation images" in out
    assert f"at the oracle's own seed: ral {100 * result.same_seed[1]['test_accuracy']:.2f}" in out


def test_a_mean_over_fewer_seeds_says_of_how_many():
    rows = [
        {"arm": arm, "seed": seed, "test_accuracy": value, "epoch_seconds": 2.0}
        for arm, values in {"baseline": [0.8, 0.9, 0.7], "ral": [0.8, 0.9]}.items()
        for seed, value in enumerate(values, start=1)
    ]
    baseline, ral = arm_summaries(rows)
    assert (baseline["n"], ral["n"]) == (3, 2)
    assert arm_cells(baseline, None, 3)[1] == "80.00 ± 10.00 %"
    assert arm_cells(ral, None, 3)[1] == "85.00 ± 7.07 % (2 of 3 seeds)"
