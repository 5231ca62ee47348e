"""What is made of the rows on FMCE-Net++'s cost, and how its benchmark counts."""

import importlib

import pytest
import torch

from fmce.feature_maps.extractor import map_extractor


@pytest.fixture
def section():
    return importlib.import_module("experiments.sections.ral_cost")


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


def experiment_row(variants, accuracy, pull):
    compared = variants.compared(rows_of(variants, accuracy, pull))
    oracle = {"parameters": 14000, "held_out": 0.97, "test_images": 0.96}
    result = {"raf": 0.5, "epochs": 42, "seeds": [1, 2, 3], "oracles": {"1.0": oracle}, **compared}
    return {"experiment": "ral_variants", "what": "digits, RAF 0.5", "result": result}


def benchmark_row(times):
    forms = {n: {"step_over_plain": t, "operations_over_plain": 1.8} for n, t in times.items()}
    return {
        "benchmark": "ral_step",
        "model": "torchvision:shufflenet_v2_x1_0",
        "precision": "float32",
        "clock": "wall",
        "batch_size": 8,
        "image_size": 224,
        "oracle_after_over_before": 0.9,
        "device": "cpu",
        "environment": {"gpu": None},
        "forms": forms,
    }


def test_a_processors_time_is_its_own_on_a_machine_with_a_gpu_too(section):
    row = benchmark_row({"published": 1.5}) | {"environment": {"gpu": "H100"}}
    assert "shufflenet_v2_x1_0 (CPU, batch 8)" in section.reading([row])[0]
    assert "(H100, batch 8)" in section.reading([row | {"device": "cuda"}])[0]


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


def test_the_page_names_forms_that_differ_and_what_could_go_unseen(section, variants):
    accuracy = {"every 4": (0.94, 0.9501, 0.96), "width 0.25": (0.97, 0.97, 0.99)}
    row = experiment_row(variants, accuracy, {})
    (said,) = section.reading([row])
    assert "In test accuracy these differ (every 4) from the published form" in said
    # width 0.25 − published: 0, −0.01, 0: ± 4.3027 · 0.57735/√3 pp, the widest.
    assert "a difference below 1.43 pp could go unseen" in said
    # Means − published: −3, −0.33 pp, and those of the forms that are alike.
    assert "means lie -3.00 to " in said
    assert "In the pull on the maps no difference is established." in said
    page = "\n".join(section.section([row]))
    assert "| every 4 | 95.00 ± 1.00 | -3.00 (" in page


def test_forms_within_the_aim_are_named_or_the_cheapest(section):
    (said,) = section.reading([benchmark_row({"published": 1.5, "every 4": 1.1, "other": 1.2})])
    assert "1.50 times the plain one in its published form; at most 1.10 are every 4." in said
    (said,) = section.reading([benchmark_row({"published": 1.5, "every 4": 1.2})])
    assert "none is at most 1.10, the cheapest, every 4, takes 1.20" in said


def test_without_rows_the_page_says_what_makes_them(section):
    page = "\n".join(section.section([]))
    assert "python -m benchmarks.ral_step --record" in page
    assert "python -m experiments.ral_variants" in page
    assert section.reading([]) == []


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
