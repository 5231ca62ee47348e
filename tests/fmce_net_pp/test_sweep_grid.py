"""The grid of a sweep, written out by hand."""

import shutil
from dataclasses import replace

import pytest

from fmce.config.sweep import SweepConfig
from fmce.fmce_net_pp.sweep.grid import SweepRun, make_groups
from fmce.runs.run import open_run


def grid(oracle, **values):
    return SweepConfig(
        oracles=(str(oracle.path),), **{"rafs": (0.9, 0.5), "seeds": (1, 2), **values}
    )


def test_a_group_has_an_oracle_and_each_arm_at_each_seed(tmp_path):
    config = SweepConfig(rafs=(0.9, 0.5), seeds=(1, 2), controls=("phase_1", "scaled_rate"))
    (group,) = make_groups(config, tmp_path)
    assert group.name == "tiny-digits"
    assert [run.name for run in group.runs] == [
        "oracle",
        "runs/baseline-seed1",
        "runs/baseline-seed2",
        "runs/raf0.9-seed1",
        "runs/raf0.9-seed2",
        "runs/raf0.5-seed1",
        "runs/raf0.5-seed2",
        "runs/phase_1-seed1",
        "runs/phase_1-seed2",
        "runs/scaled_rate-seed1",
        "runs/scaled_rate-seed2",
    ]
    assert group.oracle.config.train.seed == 0


def test_with_a_selection_seed_separate_runs_select_and_the_arm_waits(tmp_path):
    config = SweepConfig(
        rafs=(0.9, 0.5), seeds=(1, 2), controls=("phase_1",), selection_seed=7, same_seed=True
    )
    (group,) = make_groups(config, tmp_path)
    assert [run.name for run in group.runs[1:]] == [
        "runs/baseline-seed1",
        "runs/baseline-seed2",
        "runs/baseline-seed0",
        "runs/raf0.9-seed7",
        "runs/raf0.5-seed7",
        "runs/ral-seed1",
        "runs/ral-seed2",
        "runs/phase_1-seed1",
        "runs/phase_1-seed2",
        "runs/ral-seed0",
    ]
    (alone,) = make_groups(replace(config, rafs=(0.9,)), tmp_path)
    assert alone.candidates == []


def test_every_model_meets_every_data_set_and_setting(tmp_path):
    config = SweepConfig(
        models=("tiny", "torchvision:resnet18"),
        data=("mnist", "cifar10"),
        vary={"train.batch_size": [32, 64], "auxiliary.init": ["scratch", "checkpoint"]},
    )
    groups = make_groups(config, tmp_path)
    assert [group.name for group in groups] == [
        f"{model}-{data}-batch_size={size}"
        for model in ("tiny", "torchvision-resnet18")
        for data in ("mnist", "cifar10")
        for size in (32, 64)
    ]
    assert groups[3].oracle.config.train.batch_size == 64
    assert (groups[3].oracle.config.data.name, groups[3].oracle.config.data.flip) == (
        "cifar10",
        True,
    )
    labels = list(dict.fromkeys(run.arm for run in groups[0].candidates))
    assert labels[:2] == ['raf0.9 init="scratch"', 'raf0.9 init="checkpoint"']
    assert groups[0].candidates[3].name == "runs/raf0.9-init=checkpoint-seed1"


def test_arms_are_the_oracles_run_with_another_seed_and_loss(finished_run, tmp_path):
    config = grid(finished_run, settings=("auxiliary.init=checkpoint",))
    (group,) = make_groups(config, tmp_path)
    base = finished_run.config
    length = finished_run.phases.convergence_epoch
    selected = SweepRun("ral", 1, 0.5)

    def of(arm, seed=2, raf=None):
        return group.config_of(SweepRun(arm, seed, raf), selected)

    recorder = replace(base.recorder, probe_images=0)
    plain = replace(base, train=replace(base.train, seed=2, epochs=length), recorder=recorder)
    assert of("baseline") == plain
    ral = of("ral", raf=0.9)
    assert replace(ral, auxiliary=base.auxiliary) == plain
    assert (ral.auxiliary.kind, ral.auxiliary.raf, ral.auxiliary.init) == ("ral", 0.9, "checkpoint")
    assert of("random_oracle").auxiliary == replace(
        of("ral", raf=0.5).auxiliary, oracle_weights="random"
    )
    assert of("phase_1").auxiliary.target_phase == 1
    assert of("feature_matching").auxiliary.kind == "feature_matching"
    assert of("scaled_rate").train.learning_rate == 0.5 * base.train.learning_rate


def test_each_width_of_fmce_net_that_an_arm_needs_is_the_oracles_to_train(tmp_path):
    vary = {"auxiliary.oracle_width": [None, 0.5], "auxiliary.oracle_every": [1, 4]}
    config = SweepConfig(rafs=(0.9,), seeds=(1, 2), vary=vary)
    (group,) = make_groups(config, tmp_path)
    nets = tmp_path / "tiny-digits" / "oracle" / "fmce_net"
    assert group.net_folders == {nets / "map-width0.5": 0.5, nets / "map": 1.0}


def test_feature_matching_has_no_fmce_net_to_make_cheaper(finished_run, tmp_path):
    vary = {"auxiliary.oracle_every": [4], "auxiliary.oracle_batch_fraction": [0.5]}
    (group,) = make_groups(grid(finished_run, vary=vary), tmp_path)
    selected = group.candidates[0]
    ral = group.config_of(selected)
    assert (ral.auxiliary.oracle_every, ral.auxiliary.oracle_batch_fraction) == (4, 0.5)
    matching = group.config_of(SweepRun("feature_matching", 1), selected).auxiliary
    assert (matching.kind, matching.raf, matching.oracle_every) == ("feature_matching", 0.9, 1)


def test_a_given_oracle_serves_its_model_and_data_alone(finished_run, tmp_path):
    config = grid(finished_run, data=("digits", "mnist"))
    digits, mnist = make_groups(config, tmp_path)
    assert digits.oracle.path == finished_run.path
    assert mnist.oracle.path == tmp_path / "tiny-mnist" / "oracle"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": ("mnist",)}, "is no group of this sweep"),
        ({"settings": ("train.batch_size=7",)}, "the sweep's settings are not its own"),
        ({"seeds": (0, 1)}, "seed 0 is the own seed of the oracle"),
        ({"selection_seed": 0}, "seed 0 is the own seed of the oracle"),
        ({"oracle_split": "image"}, "fmce train-net"),
        ({"data": ("digits", "digit")}, "did you mean 'digits'"),
        (
            {"vary": {"auxiliary.target_phase": [3, 4]}},
            "must be in 1…3, the oracle's phases, got 4",
        ),
        ({"vary": {"auxiliary.evry": [1]}}, "unknown config key 'auxiliary.evry'"),
        (
            {"models": ("tiny", "resnet18")},
            "expected a model, got 'resnet18'; near: torchvision:resnet18",
        ),
        ({"models": ("tiny", "torchvision:vit_b_16")}, "name the module to measure"),
    ],
)
def test_what_could_only_fail_later_is_refused(finished_run, tmp_path, values, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        make_groups(grid(finished_run, **values), tmp_path)


def test_an_oracle_without_checkpoint_e_k_cannot_be_matched(own_run, tmp_path):
    last = own_run.phases.convergence_epoch
    shutil.rmtree(own_run.path / "checkpoints" / f"epoch_{last:04d}")
    with pytest.raises(FileNotFoundError, match="which the control feature_matching needs"):
        make_groups(grid(open_run(own_run.path)), tmp_path)
    assert make_groups(grid(own_run, controls=("phase_1",)), tmp_path)


def test_two_groups_do_not_share_a_folder(tmp_path):
    config = SweepConfig(data=("image-folder:a/b", "image-folder:a-b"))
    with pytest.raises(ValueError, match="would share the folder 'tiny-image-folder-a-b'"):
        make_groups(config, tmp_path)


def test_an_own_model_is_built_with_the_class_count_of_its_data(tmp_path, monkeypatch):
    (tmp_path / "choosy.py").write_text(
        "from fmce.models.build import build_model\n"
        "def net(num_classes):\n"
        "    if num_classes != 100:\n"
        "        raise ValueError(f'made for 100 classes, got {num_classes}')\n"
        "    return build_model('tiny', num_classes)\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    out, tapped = tmp_path / "sweep", ("model.layer=blocks.1",)
    own = SweepConfig(models=("choosy:net",), preset="small", settings=tapped)
    make_groups(replace(own, data=("cifar100",)), out)
    # How many classes these have is known only once they are read.
    make_groups(replace(own, data=("image-folder:mine",)), out)
    with pytest.raises(ValueError, match="made for 100 classes, got 10"):
        make_groups(replace(own, data=("cifar10",)), out)
    nowhere = replace(own, models=("choosy:network",), data=("image-folder:mine",))
    with pytest.raises(
        ValueError, match="expected a function, got 'choosy:network'; near: choosy:net"
    ):
        make_groups(nowhere, out)
