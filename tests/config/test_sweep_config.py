"""A sweep's grid: what may be asked for, and what varies with what."""

import pytest

from fmce.config.io import from_dict, to_dict
from fmce.config.sweep import SweepConfig, make_sweep_config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rafs": ()}, "rafs: expected 1 or more values"),
        ({"rafs": (0.9, 0.9)}, "rafs: expected different values"),
        ({"rafs": (1.0,)}, "expected below 1, got 1.0"),
        ({"models": ()}, "models: expected 1 or more values"),
        ({"data": ("mnist", "mnist")}, "data: expected different values"),
        ({"seeds": (1,)}, "seeds: expected 2 or more values"),
        ({"seeds": (1, -2)}, "expected at least 0, got -2"),
        ({"selection_seed": 1}, "selection_seed: expected a seed that is not among the arms'"),
        ({"oracle_seed": -1}, "oracle_seed: expected at least 0"),
        ({"controls": ("none",)}, "expected 'random_oracle', .* got 'none'"),
        ({"length": "half"}, "length: expected 'convergence' or 'full'"),
        ({"oracle_split": "half"}, "oracle_split: expected 'map', "),
        ({"vary": {"train.batch_size": 32}}, "vary.train.batch_size: expected a list, got 32"),
        ({"vary": {"train.batch_size": []}}, "vary.train.batch_size: expected 1 or more values"),
        ({"vary": {"batch_size": [32]}}, "section.field, such as train.batch_size"),
        ({"vary": {"auxiliary.raf": [0.5]}}, "use 'rafs' instead"),
        ({"settings": ("train.seed=4",)}, "use 'seeds' instead"),
        ({"settings": ("data.name=mnist",)}, "use 'data' instead"),
    ],
)
def test_a_grid_that_cannot_be_trained_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        SweepConfig(**values)


def test_fields_of_the_auxiliary_loss_vary_fmce_net_pp_and_others_make_groups():
    vary = {"auxiliary.target_phase": [1, None], "train.batch_size": [32, 64], "data.noise": [0.1]}
    config = SweepConfig(vary=vary)
    assert config.variants == [("auxiliary.target_phase=1",), ("auxiliary.target_phase=null",)]
    assert config.group_settings == [
        ("train.batch_size=32", "data.noise=0.1"),
        ("train.batch_size=64", "data.noise=0.1"),
    ]


def test_without_anything_that_varies_there_is_one_group_and_the_published_form():
    assert (SweepConfig().variants, SweepConfig().group_settings) == ([()], [()])


def test_a_grid_survives_the_way_through_a_file():
    config = SweepConfig(models=("tiny", "timm:resnet18"), vary={"data.noise": [0.1, 0.2]})
    assert from_dict(SweepConfig, to_dict(config)) == config
    read = from_dict(SweepConfig, {"rafs": [0.9, 0.5], "seeds": [3, 4], "controls": ["phase_1"]})
    assert read == SweepConfig(rafs=(0.9, 0.5), seeds=(3, 4), controls=("phase_1",))


def test_one_value_where_a_grid_has_a_list_is_said_as_that():
    with pytest.raises(ValueError, match="seeds: expected a list, got 3"):
        make_sweep_config(None, {"seeds": 3})
