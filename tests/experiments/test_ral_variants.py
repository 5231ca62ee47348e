"""The cheaper forms of FMCE-Net++: how arms are compared, and how the benchmark counts."""

import importlib

import pytest
import torch

from fmce.feature_maps.extractor import map_extractor


@pytest.fixture
def variants():
    return importlib.import_module("experiments.ral_variants")


@pytest.fixture
def bench():
    return importlib.import_module("benchmarks.ral_step")


def rows_of(variants, accuracy, pull):
    """Three seeds of every arm; `accuracy` and `pull` map an arm to its three values, others are alike."""
    return [
        {
            "arm": arm,
            "seed": seed,
            "test_accuracy": accuracy.get(arm, (0.97, 0.98, 0.99))[seed - 1],
            "test_loss": 0.1,
            "pull": pull.get(arm, (1.0, 1.2, 1.1))[seed - 1],
            "epoch_seconds": 1.0,
        }
        for seed in (1, 2, 3)
        for arm in (variants.BASELINE, *variants.FORMS)
    ]


def test_forms_are_compared_with_the_published_one_seed_by_seed(variants):
    # every 4 − published: −0.01, −0.02, −0.03, so the mean is −0.02 and the interval ± 4.3027 · 0.01/√3.
    result = variants.compared(rows_of(variants, {"every 4": (0.96, 0.96, 0.96)}, {}))
    (one,) = (c for c in result["accuracy_over_published"] if c["arm"] == "every 4")
    assert one["mean_difference"] == pytest.approx(-0.02)
    assert one["interval_low"] == pytest.approx(-0.02 - 4.30265 * 0.01 / 3**0.5, rel=1e-4)
    names = [c["arm"] for c in result["pull_over_published"]]
    assert names == [variants.BASELINE, *list(variants.FORMS)[1:]]
    published = next(arm for arm in result["arms"] if arm["arm"] == "published")
    assert published["pull"] == pytest.approx(1.1)


def test_arms_of_a_seed_differ_in_nothing_but_the_oracles_use(variants, finished_run):
    plain, cheap = (
        variants.arm(name, finished_run, 0.5, 4)
        for name in (variants.BASELINE, "width 0.25, every 4")
    )
    assert plain.train == cheap.train
    assert plain.train.epochs == finished_run.phases.convergence_epoch
    assert (cheap.auxiliary.oracle_every, cheap.auxiliary.oracle_width) == (4, 0.25)
    assert plain.auxiliary.kind == "none"


def test_the_pull_is_the_oracles_cross_entropy_to_the_last_phase_on_test_images(
    variants, finished_run
):
    from fmce.engine.runtime import make_runtime

    runtime = make_runtime("cpu")
    run, data = finished_run, finished_run.setup.data.test
    with torch.no_grad():
        maps = map_extractor(run, run.epochs[-1], runtime)(run.setup.transform(data.images))
        last = run.fmce_net("map")(maps).softmax(1)[:, -1]
    assert variants.pull(run, run, runtime) == pytest.approx(-last.log().mean().item(), rel=1e-4)


def test_operations_of_shufflenets_step_are_those_of_its_layers(bench):
    from fmce.engine.runtime import make_runtime

    shufflenet = bench.Bench("torchvision:shufflenet_v2_x1_0", 1, make_runtime("cpu"))
    oracle = shufflenet.oracle()
    # Of 7×7 and 3×3 outputs, 36 and 4 are computed; two 3×3 convolutions, one linear layer; ×2 operations.
    by_hand = 2 * (1024 * 512 * 9 * 36 + 512 * 256 * 9 * 4 + 256 * 10)
    assert bench.counted(oracle, (1024, 7, 7)) == by_hand
    plain = 3 * bench.counted(shufflenet.model, (3, 224, 224))
    # torchvision's own table has 0.145 billion multiply-adds, for 1000 classes instead of 10.
    assert plain / 6 == pytest.approx(0.145e9, rel=0.02)
    form = bench.LossVariant(oracle_every=4, oracle_batch_fraction=0.5)
    assert shufflenet.operations(form, oracle) == pytest.approx(1 + 2 * by_hand / 8 / plain)


def test_both_sides_of_the_benchmark_train_the_network(bench):
    from fmce.engine.runtime import make_runtime

    one = bench.Bench("tiny", 2, make_runtime("cpu"))
    form, before = bench.LossVariant(oracle_every=2, width=0.25), one.model.head.weight.clone()
    one.with_oracle(form, one.oracle(form.width), 2)
    between = one.model.head.weight.clone()
    one.plain(2)
    assert not torch.equal(before, between)
    assert not torch.equal(between, one.model.head.weight)
