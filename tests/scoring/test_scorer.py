"""The scorer: what it gives on unseen runs, what its interval covers, and the file that it is kept in."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from fmce.files import read_json
from fmce.scoring.history import ModuleHistory
from fmce.scoring.intervals import Offsets
from fmce.scoring.scorer import MaturityScorer
from fmce.scoring.tables import JOINT_FITS, STATISTICS
from tests.scoring.runs import histories, history

WIDTHS = (("run", 0.1), ("data", 0.3), ("architecture", 0.2), ("earlier module", 0.5))


@pytest.fixture(scope="module")
def scorer():
    return MaturityScorer.fit(histories(), card={"command": "made up"})


def test_an_unseen_run_is_scored_near_its_true_phases(scorer):
    unseen = history(100)
    scores = scorer.score(unseen)
    assert np.abs(scores.values - unseen.phases()).mean() < 0.7
    assert spearmanr(scores.values, unseen.phases()).statistic > 0.97
    assert scores.values[-1] > 9.3
    assert (scores.low <= scores.values).all()
    assert (scores.values <= scores.high).all()
    assert not scores.extrapolated


def test_statistics_beyond_all_that_were_fitted_on_still_order_a_run(scorer):
    unseen = history(101)
    far = replace(unseen, values={n: 4 * v for n, v in unseen.values.items()})
    truth = unseen.phases()
    scores = scorer.score(far).values
    assert spearmanr(scores, truth).statistic > 0.97
    assert np.abs(scores - truth).mean() < 1.5


def test_modules_before_the_last_have_tables_and_an_interval_of_their_own():
    early = [
        replace(one, module="stem", about={**one.about, "place": "earlier"})
        for one in histories(12, noise=0.2)
    ]
    last = [replace(one, about={**one.about, "place": "last"}) for one in histories()]
    both = MaturityScorer.fit([*early, *last])
    unseen = history(110, noise=0.2)
    as_last, as_earlier = (
        both.score(replace(unseen, about={**unseen.about, "place": place}))
        for place in ("last", "earlier")
    )
    assert "earlier module" in as_earlier.novel
    assert "earlier module" not in as_last.novel
    assert not np.allclose(as_last.values, as_earlier.values)
    assert (as_earlier.high - as_earlier.low).mean() > (as_last.high - as_last.low).mean()


def test_statistics_that_never_move_cannot_be_fitted_on():
    still = [
        replace(one, values={"probe_loss": np.zeros_like(one.values["probe_loss"])})
        for one in histories(4)
    ]
    with pytest.raises(ValueError, match="expected statistics that move in some run"):
        MaturityScorer.fit(still)


def test_intervals_cover_about_nine_in_ten_true_phases_of_unseen_runs(scorer):
    inside = []
    for seed in range(200, 230):
        unseen = history(seed)
        scores, truth = scorer.score(unseen), unseen.phases()
        inside += list((scores.low <= truth) & (truth <= scores.high))
    assert 0.85 <= np.mean(inside) <= 1.0


def test_a_snapshot_needs_one_checkpoint_and_orders_them(scorer):
    unseen = history(102)
    whole = scorer.score(unseen, "snapshot").values
    for n in (0, 5, len(whole) - 1):
        one = replace(
            unseen,
            epochs=unseen.epochs[n : n + 1],
            values={name: v[n : n + 1] for name, v in unseen.values.items()},
        )
        assert scorer.score(one, "snapshot").values[0] == pytest.approx(whole[n])
    assert spearmanr(whole, unseen.phases()).statistic > 0.97


def test_what_is_new_decides_the_interval_and_is_named(scorer):
    known = replace(history(3), planned=None)
    new = replace(known, about={"data": "another set", "architecture": "net 3"})
    assert scorer.score(known).novel == ()
    assert scorer.score(new).novel == ("data",)
    width = [np.mean(scorer.score(h).high - scorer.score(h).low) for h in (known, new)]
    assert width[1] != width[0] > 0
    assert scorer.novelties(replace(known, run="other", about={})) == (
        *("run", "data", "architecture"),
    )


def test_the_interval_is_that_of_the_hardest_thing_that_is_new(scorer):
    one = history(3)
    wide = {
        name: Offsets(np.array([0.0, 10.0]), *np.full((2, 2), [[-w], [w]])) for name, w in WIDTHS
    }
    scorer = replace(scorer, offsets=dict.fromkeys(scorer.offsets, wide))

    def width(*new, place="last"):
        about = {**one.about, "place": place} | {n: "another" for n in new if n != "run"}
        run = "another" if "run" in new else one.run
        scores = scorer.score(replace(one, run=run, about=about))
        middle = len(scores.values) // 2
        return scores.high[middle] - scores.low[middle]

    assert width() == width("run") == pytest.approx(0.2)
    assert width("run", "data") == pytest.approx(0.6)
    assert width("data", "architecture") == pytest.approx(0.4)
    assert width(place="earlier") == pytest.approx(1.0)
    # A scorer that was never asked about another architecture gives the widest that it knows of last modules.
    known = {n: o for n, o in wide.items() if n != "architecture"}
    scorer = replace(scorer, offsets=dict.fromkeys(scorer.offsets, known))
    assert width("architecture") == pytest.approx(0.6)


def test_the_score_is_the_mean_of_three_joint_fits_and_does_without_some():
    names = STATISTICS["within_run/class"]
    pool = [history(seed, statistics=names) for seed in range(8)]
    scorer = MaturityScorer.fit(pool, statistics={"within_run/class": names})
    tables = scorer.tables["within_run/class"]
    unseen = history(100, statistics=names)
    whole = scorer.score(unseen).values
    each = []
    for number, fit in enumerate(JOINT_FITS):
        own = {n: t for n, t in tables.items() if n.startswith(f"{number}/")}
        assert set(own) == {f"{number}/{name}" for name in (*fit, "progress")}
        alone = replace(scorer, tables={"within_run/class": own})
        each.append(alone.score(unseen).values)
    assert np.ptp(each, 0).max() > 0.01
    inner = slice(2, -3)  # smoothing and clipping apart
    assert np.allclose(np.mean(each, 0)[inner], whole[inner], atol=0.02)
    for name in ("fisher", "probe_error", "nc1_projected"):  # in one or two of the fits
        lonely = replace(unseen, values={name: unseen.values[name]})
        assert spearmanr(scorer.score(lonely).values, unseen.phases()).statistic > 0.9


def test_a_statistic_that_never_moves_leaves_a_joint_fit():
    pool = [history(seed) for seed in range(6)]
    still = [
        replace(one, values={**one.values, "residual_90": np.ones(len(one.epochs))}) for one in pool
    ]
    names = ("probe_margin", "probe_loss", "fisher", "residual_90")
    scorer = MaturityScorer.fit(still, statistics={"within_run/class": names})
    assert not any("residual_90" in name for name in scorer.tables["within_run/class"])
    assert scorer.score(history(100)).values[-1] > 9


def test_statistics_of_ones_own_are_fitted_together_whatever_their_names():
    pool = [
        replace(one, values={"a/b": one.values["probe_loss"], "c": one.values["fisher"]})
        for one in histories(6)
    ]
    twins = [replace(one, twin={"a/b": 0.0, "c": 0.0}) for one in pool]
    chosen = {"within_run/class": ("a/b", "c"), "snapshot/class": ("a/b", "c")}
    scorer = MaturityScorer.fit(twins, statistics=chosen)
    assert set(scorer.tables["within_run/class"]) == {"0/a/b", "0/c", "0/progress"}
    for form in ("within_run", "snapshot"):
        scores = scorer.score(twins[0], form)
        assert spearmanr(scores.values, twins[0].phases()).statistic > 0.9


def test_a_training_that_goes_on_is_scaled_by_the_share_it_has_reached(scorer):
    unseen = history(103)
    half = int(unseen.epochs[np.abs(unseen.epochs - 20).argmin()])
    seen = unseen.until(half)
    truth = unseen.phases()[list(unseen.epochs).index(half)]
    scores = scorer.score(seen)
    assert scores.extrapolated
    assert abs(scores.values[-1] - truth) < 1.5
    assert scores.low[-1] <= truth <= scores.high[-1]
    # Taken as over, its newest epoch is the end.
    over = scorer.score(seen, finished=True)
    assert not over.extrapolated
    assert over.values[-1] > 9.3
    unknown = scorer.score(replace(seen, planned=None), finished=False)
    assert unknown.extrapolated
    assert 0 <= unknown.low[-1] <= unknown.values[-1] <= unknown.high[-1] <= 10


def test_a_statistic_that_is_undefined_or_missing_is_left_out(scorer):
    unseen = history(104)
    holes = {n: v.copy() for n, v in unseen.values.items()}
    holes["probe_loss"][:] = np.nan
    del holes["fisher"]
    scores = scorer.score(replace(unseen, values=holes))
    assert np.isfinite(scores.values).all()
    holes["probe_margin"][3] = np.nan
    gap = scorer.score(replace(unseen, values=holes), "snapshot")
    assert np.isnan(gap.values[3])
    assert gap.to_dict()["values"][3] is None
    assert np.isfinite(gap.values[4])


def test_a_module_that_never_moved_has_no_score_within_its_run(scorer):
    unseen = history(105)
    still = {n: np.full_like(v, 0.0) for n, v in unseen.values.items()}
    assert np.isnan(scorer.score(replace(unseen, values=still)).values).all()


def test_a_file_gives_the_scores_that_were_saved(scorer, tmp_path):
    scorer.save(tmp_path / "mine.json")
    again = MaturityScorer.load(tmp_path / "mine.json")
    for form in ("within_run", "snapshot"):
        before, after = (one.score(history(106), form) for one in (scorer, again))
        for name in ("values", "low", "high"):
            assert getattr(after, name) == pytest.approx(getattr(before, name), abs=0.01)
    assert again.card["command"] == "made up"
    assert again.card["modules"] == 12
    seen = history(107).until(20)
    assert again.score(seen).values == pytest.approx(scorer.score(seen).values, abs=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.pop("tables"), "lacks tables"),
        (lambda f: f.update(format=99), "has format 99, expected 1"),
        (lambda f: f["tables"]["snapshot/class"]["probe_loss"][0].pop(), "unequal length"),
        (lambda f: f["offsets"].pop("snapshot/class"), "tables without offsets"),
        (lambda f: f.update(tables=[]), "a scorer"),
    ],
)
def test_a_damaged_file_is_refused(scorer, tmp_path, change, message):
    path = tmp_path / "mine.json"
    scorer.save(path)
    fields = read_json(path)
    del fields["sha256_of_the_rest"]
    change(fields)
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=message) as caught:
        MaturityScorer.load(path)
    assert str(path) in str(caught.value)


def test_a_changed_byte_and_a_missing_file_are_errors(scorer, tmp_path):
    path = tmp_path / "mine.json"
    scorer.save(path)
    path.write_text(path.read_text().replace('"made up"', '"made so"'))
    with pytest.raises(ValueError, match="damaged or was edited"):
        MaturityScorer.load(path)
    with pytest.raises(FileNotFoundError):
        MaturityScorer.load(tmp_path / "none.json")


def test_errors_name_what_is_missing(scorer):
    with pytest.raises(ValueError, match="at least 3 runs, got 2: run 0, run 1"):
        MaturityScorer.fit(histories(2))
    with pytest.raises(ValueError, match="has no within_run/free; it has within_run/class"):
        scorer.score(history(1), labels="free")
    other = ModuleHistory("run", "neck", [1, 2], {"mine": [0, 1]}, {"mine": 0})
    with pytest.raises(
        ValueError, match=r"run, neck: expected statistics .*probe_margin.*, got mine"
    ):
        scorer.score(other)


def test_a_scorer_without_labels_is_fitted_where_such_statistics_are_known():
    free = MaturityScorer.fit(histories(6, statistics=("tail_3", "effective_rank")))
    assert set(free.tables) == {"within_run/free", "snapshot/free"}
    assert free.score(history(9, statistics=("tail_3",)), labels="free").values[-1] > 9


def test_few_epochs_are_too_few_for_an_interval():
    short = [replace(h.until(2), planned=None) for h in histories(3)]
    with pytest.raises(ValueError, match=r"needs? |phases"):
        MaturityScorer.fit(short)
