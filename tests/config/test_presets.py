"""From preset, data set, file and settings to one config."""

import doctest

import pytest

from fmce.config import presets as settings_module
from fmce.config.presets import PRESETS, config_for, make_config
from fmce.config.run import RunConfig
from fmce.data.classification.catalog import SPECS


@pytest.mark.parametrize(
    ("data", "size", "flip", "epochs", "threshold"),
    [
        ("mnist", 224, False, 100, 1e-4),
        ("fashion-mnist", 224, True, 100, 1e-4),
        ("cifar10", 224, True, 150, 1e-4),
        ("cifar100", 224, True, 150, 1e-3),
        ("mini-imagenet", 224, True, 250, 1e-3),
    ],
)
def test_the_paper_preset_follows_the_papers_rows(data, size, flip, epochs, threshold):
    config = make_config("paper", data)
    assert (config.data.name, config.data.image_size, config.data.flip) == (data, size, flip)
    assert (config.train.epochs, config.train.batch_size) == (epochs, 256)
    assert config.phases.threshold == threshold


@pytest.mark.parametrize(("data", "size"), [("mnist", 28), ("cifar10", 32), ("image-folder:x", 84)])
def test_the_small_preset_keeps_the_images_own_size(data, size):
    config = make_config(data=data)
    assert (config.data.image_size, config.model.name) == (size, "tiny")
    assert config.data.flip == (data != "mnist")


def test_digits_keep_their_preset():
    assert make_config() == make_config("small", "digits") == make_config("digits") == RunConfig()
    assert make_config("paper", "digits") == make_config("paper") == PRESETS["paper"]


def test_the_digits_preset_is_for_digits_alone():
    with pytest.raises(
        ValueError, match="made for the digits, got data 'mnist'; use small or paper"
    ):
        make_config("digits", "mnist")


@pytest.mark.parametrize("data", [*SPECS, "image-folder:mine", "my.module:function"])
@pytest.mark.parametrize("preset", ["small", "paper"])
def test_every_preset_fits_every_data_set(preset, data):
    assert config_for(preset, data).data.name == data


def test_a_file_wins_over_the_table_and_a_setting_over_both(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("data: {name: cifar10, flip: false, shift: 1}\ntrain: {epochs: 7}\n")
    config = make_config(file=path, settings=["data.shift=2"])
    assert config.data.name == "cifar10"
    assert (config.data.image_size, config.data.flip, config.data.shift) == (32, False, 2)
    assert config.train.epochs == 7


def test_the_data_set_may_be_named_in_three_places(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("data: {name: cifar10}\n")
    assert make_config("paper", "mnist", file=path).data.name == "mnist"
    chosen = make_config("paper", "mnist", file=path, settings=["data.name=fashion-mnist"])
    assert (chosen.data.name, chosen.data.flip) == ("fashion-mnist", True)
    assert make_config(settings=["data={name: cifar10}"]) == make_config(data="cifar10")


def test_unknown_data_sets_are_refused_before_anything_is_read():
    with pytest.raises(ValueError, match="unknown data set 'minst'; did you mean 'mnist'"):
        make_config(data="minst")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("runtime.precision=float16", "expected 'float32' or 'bfloat16', got 'float16'"),
        ("runtime.compile=2", "runtime.compile: expected true or false, got 2"),
        ("data.train_images=0", "data.train_images: expected at least 1, got 0"),
    ],
)
def test_new_values_are_checked(setting, message):
    with pytest.raises(ValueError, match=message):
        make_config(settings=[setting])


def test_examples_of_settings_hold():
    assert doctest.testmod(settings_module).failed == 0
