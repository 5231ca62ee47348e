"""Configs: YAML in and out, ranges, unknown keys, settings from the command line."""

import pickle
from dataclasses import FrozenInstanceError, replace

import pytest
import yaml

from fmce.config.distillation import DistillationConfig
from fmce.config.io import (
    defaults_of,
    from_dict,
    from_yaml,
    merge_options,
    to_dict,
    to_yaml,
    with_options,
    with_settings,
)
from fmce.config.presets import PRESETS, preset
from fmce.config.run import AuxiliaryConfig, DataConfig, FMCENetConfig, RunConfig, TrainConfig


def written(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("cls", [RunConfig, DistillationConfig, FMCENetConfig])
def test_the_defaults_of_a_config_are_what_its_yaml_gives_back(cls):
    assert defaults_of(cls) == yaml.safe_load(to_yaml(cls()))


@pytest.mark.parametrize("name", PRESETS)
def test_yaml_gives_back_the_same_config(name, tmp_path):
    config = replace(preset(name), auxiliary=AuxiliaryConfig("ral", "runs/ä", raf=0.9))
    assert from_yaml(RunConfig, written(tmp_path, to_yaml(config))) == config


def test_dict_gives_back_the_same_config():
    assert from_dict(RunConfig, to_dict(preset("paper"))) == preset("paper")


def test_what_yaml_leaves_out_comes_from_the_base(tmp_path):
    path = written(tmp_path, "train: {epochs: 7}\n")
    config = from_yaml(RunConfig, path, base=preset("paper"))
    assert (config.train.epochs, config.train.batch_size) == (7, 256)
    assert config.model == preset("paper").model


def test_an_empty_file_changes_nothing(tmp_path):
    assert from_yaml(RunConfig, written(tmp_path, "# nothing\n")) == RunConfig()


def test_scientific_notation_without_a_point_is_a_number(tmp_path):
    assert yaml.safe_load("1e-3") == "1e-3"  # the trap: YAML 1.1 reads text
    config = from_yaml(RunConfig, written(tmp_path, "train: {learning_rate: 1e-3}"))
    assert config.train.learning_rate == 0.001


def test_whole_numbers_stand_for_real_ones():
    assert from_dict(RunConfig, {"data": {"noise": 1}}).data.noise == 1.0


def test_an_unknown_key_names_near_match_and_choices():
    message = r"'train\.epoch'; did you mean 'epochs'\? Choices: epochs, batch_size, learning_rate"
    with pytest.raises(ValueError, match=message):
        from_dict(RunConfig, {"train": {"epoch": 3}})


def test_an_unknown_section_names_the_sections():
    with pytest.raises(ValueError, match=r"'zzz'\. Choices: data, model, train, phases, fmce_net"):
        from_dict(RunConfig, {"zzz": {}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": {"epochs": "many"}}, "train.epochs: expected a whole number, got 'many'"),
        ({"train": {"epochs": True}}, "train.epochs: expected a whole number, got True"),
        ({"train": {"epochs": 2.5}}, "train.epochs: expected a whole number, got 2.5"),
        ({"model": {"options": 3}}, "model.options: expected a mapping, got 3"),
        ({"train": {"learning_rate": "fast"}}, "expected a number, got 'fast'"),
        ({"train": 3}, "train: expected a mapping, got 3"),
        ({"model": {"name": None}}, "model.name: expected text, got None"),
        ({"data": {"noise": True}}, "data.noise: expected a number, got True"),
        ({"data": {"flip": 1}}, "data.flip: expected true or false, got 1"),
        (
            {"phases": {"num_phases": True}},
            "phases.num_phases: expected a number or a word, got True",
        ),
        ({"phases": {"num_phases": 0}}, "phases.num_phases must be a whole number of at least 1"),
        ({"phases": {"windw": 3}}, "'phases.windw'; did you mean 'window'"),
        ({1: {}}, "expected the name of a field, got 1"),
        ({"train": {"schedule": "line"}}, "expected 'cosine', 'constant' or 'step', got 'line'"),
    ],
)
def test_values_of_a_wrong_kind_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        from_dict(RunConfig, values)


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (DataConfig, {"image_size": 0}, "image_size: expected at least 1, got 0"),
        (DataConfig, {"shift": 16}, "0 to 15 pixels, got 16"),
        (DataConfig, {"noise": -0.1}, "noise: expected at least 0, got -0.1"),
        (DataConfig, {"noise": float("nan")}, "noise: expected a finite number, got nan"),
        (TrainConfig, {"epochs": 0}, "at least 1, got 0"),
        (TrainConfig, {"learning_rate": 0.0}, "learning_rate: expected above 0, got 0.0"),
        (TrainConfig, {"learning_rate": float("inf")}, "expected a finite number, got inf"),
        (TrainConfig, {"seed": -1}, "seed: expected at least 0, got -1"),
        (FMCENetConfig, {"test_fraction": 1.0}, "test_fraction: expected below 1, got 1.0"),
        (
            FMCENetConfig,
            {"storage": "disk"},
            "expected 'recompute', 'memory' or 'stored', got 'disk'",
        ),
        (AuxiliaryConfig, {"kind": "ral"}, "no oracle run is named"),
        (
            AuxiliaryConfig,
            {"kind": "ridge_probe", "oracle": "r"},
            "oracle is r but auxiliary.kind is ridge_probe",
        ),
        (
            AuxiliaryConfig,
            {"kind": "ridge_probe", "init": "checkpoint"},
            "init is checkpoint but auxiliary.kind is ridge_probe",
        ),
        (TrainConfig, {"label_smoothing": 1.0}, "label_smoothing"),
        (TrainConfig, {"weight_average": 1.0}, "weight_average"),
        (
            AuxiliaryConfig,
            {"kind": "ral", "oracle": "r", "raf": 1.5},
            "raf: expected at most 1, got 1.5",
        ),
        (AuxiliaryConfig, {"raf": 0.5}, "nothing to weigh against"),
        (AuxiliaryConfig, {"oracle_every": 0}, "oracle_every: expected at least 1, got 0"),
        (AuxiliaryConfig, {"oracle_batch_fraction": 0}, "oracle_batch_fraction: expected above 0"),
        (AuxiliaryConfig, {"oracle_width": 2.0}, "oracle_width: expected at most 1, got 2.0"),
        (AuxiliaryConfig, {"oracle_every": 4}, "^oracle_every is 4 but auxiliary.kind is none"),
        (
            AuxiliaryConfig,
            {"kind": "feature_matching", "oracle": "r", "oracle_batch_fraction": 0.5},
            "oracle_batch_fraction is 0.5 but auxiliary.kind is feature_matching",
        ),
        (
            AuxiliaryConfig,
            {"oracle_split": "maps"},
            "oracle_split: expected 'map', 'image', 'run' or 'test'",
        ),
    ],
)
def test_values_out_of_range_are_refused(section, values, message):
    with pytest.raises(ValueError, match=message):
        section(**values)


def test_a_contradiction_between_fields_names_the_section():
    with pytest.raises(ValueError, match=r"^auxiliary\.raf is 0\.5 but auxiliary\.kind is none"):
        from_dict(RunConfig, {"auxiliary": {"raf": 0.5}})


def test_errors_are_one_line():
    for broken in (lambda: TrainConfig(epochs=0), lambda: from_dict(RunConfig, {"data": 3})):
        with pytest.raises(ValueError, match="expected") as caught:
            broken()
        assert "\n" not in str(caught.value)


def test_configs_pass_between_processes():
    config = preset("paper")
    assert pickle.loads(pickle.dumps(config)) == config


def test_configs_are_frozen():
    with pytest.raises(FrozenInstanceError):
        RunConfig().train.epochs = 3


def test_settings_reach_every_section_and_the_last_one_holds():
    settings = ["train.epochs=3", "train.epochs=5", "data.flip=true", "phases.threshold=1e-2"]
    config = with_settings(RunConfig(), [*settings, "model.options={width: 8}", "model.layer=null"])
    assert (config.train.epochs, config.data.flip, config.phases.threshold) == (5, True, 0.01)
    assert (config.model.options, config.model.layer) == ({"width": 8}, None)


def test_a_section_set_as_a_whole_keeps_the_fields_set_before():
    settings = ["data.root=X", "data.folders=[a]", "student.options={width: 4}"]
    settings += ["data={name: folder, folders: [b]}", "student={name: mine, options: {depth: 2}}"]
    config = with_settings(DistillationConfig(), settings)
    assert (config.data.root, config.data.name, config.data.folders) == ("X", "folder", ("b",))
    assert (config.student.name, config.student.options) == ("mine", {"depth": 2})


def test_the_value_of_an_option_is_not_read_as_yaml():
    options = {"data.root": "1e-3", "model.name": "null", "auxiliary.oracle": None}
    assert merge_options(RunConfig, options, []) == {
        "data": {"root": "1e-3"},
        "model": {"name": "null"},
    }


def test_options_and_settings_add_up():
    config = with_options(RunConfig(), {"train.epochs": 5}, ["train={seed: 2}", "data.flip=true"])
    assert (config.train.epochs, config.train.seed, config.data.flip) == (5, 2, True)


@pytest.mark.parametrize("setting", ["train.epochs=4", "train={epochs: 4}", "train=4"])
def test_an_option_and_a_setting_that_contradict_it_are_refused(setting):
    with pytest.raises(ValueError, match=r"^conflicting values for train\.epochs: given as an opt"):
        with_options(RunConfig(), {"train.epochs": 5}, [setting])
    assert with_options(RunConfig(), {"train.epochs": 5}, ["train.epochs=5"]).train.epochs == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.epochs"], "expected section.field=value, got 'train.epochs'"),
        (["=3"], "expected section.field=value"),
        (["train.epochs=["], "'train.epochs=\\[': the value is not valid YAML"),
        (["train=3", "train.epochs=4"], "'train' was already set to 3 as a whole"),
        (["train.epochs=0"], "train.epochs: expected at least 1, got 0"),
        (["model.nam=tiny"], "did you mean 'name'"),
        (["epochs=3"], "'epochs'; did you mean 'train.epochs' or 'fmce_net.epochs'\\?"),
        (["split_seed=3"], "unknown config key 'split_seed'; did you mean 'data.split_seed'\\?"),
    ],
)
def test_settings_that_cannot_be_read_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        with_settings(RunConfig(), settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [("train: [", "is not valid YAML"), ("- 1\n- 2\n", "expected a mapping .* got list")],
)
def test_files_that_are_no_config_are_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        from_yaml(RunConfig, written(tmp_path, text))


def test_unknown_presets_name_the_known():
    with pytest.raises(ValueError, match="unknown preset 'cifar'; choose from digits, paper"):
        preset("cifar")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("data.noise=.inf", "a finite number"),
        ("train.learning_rate=1e300", r"at most 1e\+30"),
        ("train.seed=99999999999999999999", "at most 4294967295"),
        ("train.epochs=99999999999999999999", "at most 4294967295"),
        ("data.image_size=99999", "at most 16384"),
    ],
)
def test_values_that_cannot_work_are_refused(setting, expected):
    name = setting.partition("=")[0]
    with pytest.raises(ValueError, match=f"{name}: expected {expected}, got"):
        with_settings(RunConfig(), [setting])


@pytest.mark.parametrize(
    "setting", ["augmentation.zoom=.inf", "augmentation.zoom=1e9", "temperature=.inf"]
)
def test_infinite_zoom_and_temperature_are_refused(setting):
    with pytest.raises(ValueError, match=f"{setting.partition('=')[0]}: expected"):
        with_settings(DistillationConfig(), [setting])
