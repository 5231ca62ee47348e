"""What a config names runs only if the user named it, or trusts the folder it was read from."""

import shutil
import sys
from contextlib import suppress

import pytest
import yaml

from fmce.cli.main import main
from fmce.config.distillation import DistillationConfig
from fmce.config.io import from_dict, from_yaml, with_settings
from fmce.config.run import RunConfig
from fmce.config.trust import function_names
from fmce.maturity.train_classifier import train_classifier
from fmce.runs.run import open_run

OWN = """
from pathlib import Path

from fmce.models.build import build_model

Path(__file__).with_name("ran").touch()

def net(num_classes, **options):
    return build_model("tiny", num_classes, options=options)
"""
COMMANDS = {
    "fmcs": ["--epoch", "8"],
    "score": ["--epoch", "8"],
    "audit": [],
    "evaluate": [],
    "explain": [],
    "train-net": ["--split", "image"],
    "extract": [],
    "compare": ["--out", "out", "--jobs", "1"],
}


@pytest.fixture
def hostile(finished_run, tmp_path, monkeypatch):
    """A run folder whose config names a function of a module beside it, which can be imported."""
    folder = tmp_path / "stranger"
    shutil.copytree(finished_run.path, folder)
    (folder / "own_code_for_test.py").write_text(OWN)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_code_for_test", raising=False)
    rename(folder, "model", "own_code_for_test:net")
    return folder


def rename(folder, section, name):
    file = folder / "config.yaml"
    values = yaml.safe_load(file.read_text())
    values[section]["name"] = name
    values["model"]["layer"] = "blocks.2"
    file.write_text(yaml.safe_dump(values))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folders_own_function_does_not_run(command, hostile, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, str(hostile), *COMMANDS[command]])
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert f"{hostile / 'config.yaml'} wants to run own_code_for_test:net" in message
    assert "--trust" in message
    assert message.count("\n") == 1
    assert not (hostile / "ran").exists()


@pytest.mark.parametrize(
    ("section", "name"), [("model", "torch.hub:load"), ("data", "os:abort"), ("data", "os:getcwd")]
)
def test_no_function_of_any_module_runs(section, name, hostile, capsys):
    rename(hostile, "model", "tiny")
    rename(hostile, section, name)
    with pytest.raises(SystemExit) as end:
        main(["fmcs", str(hostile), "--epoch", "8"])
    assert end.value.code == 2
    assert f"wants to run {name}" in capsys.readouterr().err


NO_NETWORKS = (
    ("timm:create_model", "expected a timm model, got 'create_model'; near: "),
    ("torchvision:set_image_backend", "expected a torchvision model, got 'set_image_backend'; "),
    ("torchvision:", "expected a model, got 'torchvision:'; near: "),
    ("nothing", "expected a model, got 'nothing'; near: tiny"),
)


@pytest.mark.parametrize("command", ["score", "fmcs", "explain"])
@pytest.mark.parametrize(("name", "message"), NO_NETWORKS)
def test_a_name_that_is_no_network_is_refused_with_its_file(
    command, name, message, hostile, capsys
):
    rename(hostile, "model", name)
    with pytest.raises(SystemExit) as end:
        main([command, str(hostile), *COMMANDS[command]])
    assert end.value.code == 2
    line = capsys.readouterr().err
    assert f"fmce: {hostile / 'config.yaml'}: {message}" in line
    assert line.count("fmce: ") == 1


@pytest.mark.parametrize(
    ("section", "name", "message"),
    [
        ("model", "builtins:dict", "returned a dict, expected an nn.Module; name a function"),
        ("model", "os:getcwd", "could not be built with num_classes=10"),
        ("model", "..up:net", "expected module:function with the full name of a module"),
        ("model", "os.path:nothing_here", "expected a function, got 'os.path:nothing_here'"),
        ("data", "os:getcwd", "os:getcwd returned a str; expected"),
        ("data", "builtins:dict", "builtins:dict: expected a Python function, but no signature"),
    ],
)
def test_a_trusted_function_that_gives_something_else_is_named_with_its_file(
    section, name, message, hostile, capsys
):
    rename(hostile, "model", "tiny")
    rename(hostile, section, name)
    file = hostile / "config.yaml"
    values = yaml.safe_load(file.read_text())
    values["model"]["options"] = {} if section == "model" else values["model"]["options"]
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(SystemExit) as end:
        main(["fmcs", str(hostile), "--epoch", "8", "--trust"])
    assert end.value.code == 2
    line = capsys.readouterr().err
    assert f"fmce: {file}: " in line
    assert message in line


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"model": {"layer": "nowhere"}}, "TinyNet has no submodule 'nowhere'"),
        ({"model": {"layer": "head"}}, "module 'head' returned a 2-d tensor"),
        ({"data": {"train_images": 10**6}}, "expected a subset of 1 to 1257 training images"),
        ({"data": {"image_size": 1}}, "data.shift: expected 0 to 0 pixels"),
    ],
)
def test_a_value_that_cannot_work_is_refused_with_its_file(setting, message, hostile, capsys):
    rename(hostile, "model", "tiny")
    file = hostile / "config.yaml"
    values = yaml.safe_load(file.read_text())
    for section, fields in setting.items():
        values[section] |= fields
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(SystemExit) as end:
        main(["fmcs", str(hostile), "--epoch", "8"])
    assert end.value.code == 2
    assert f"fmce: {file}: {message}" in capsys.readouterr().err


def test_trust_runs_it(hostile, capsys):
    main(["fmcs", str(hostile), "--epoch", "8", "--trust"])
    assert (hostile / "ran").exists()
    assert "phase" in capsys.readouterr().out


def test_the_same_name_given_again_is_trusted_and_another_is_not(hostile, tmp_path, finished_run):
    plain = finished_run.config
    own = with_settings(plain, ["train.epochs=1", "train.seed=5", "model.layer=blocks.2"])
    own = with_settings(own, [f"auxiliary={{kind: ral, oracle: {hostile}, raf: 0.9}}"])
    with pytest.raises(ValueError, match="wants to run own_code_for_test:net"):
        train_classifier(own, tmp_path / "other")
    assert not (hostile / "ran").exists()
    train_classifier(with_settings(own, ["model.name=own_code_for_test:net"]), tmp_path / "same")
    assert (hostile / "ran").exists()


def test_in_python_names_can_be_trusted_one_by_one(hostile):
    with pytest.raises(ValueError, match="own_code_for_test:net"):
        open_run(hostile, trust=["own_code_for_test:other"])
    assert open_run(hostile, trust=["own_code_for_test:net"]).epochs


def test_a_report_and_the_phases_of_a_strangers_folder_need_no_trust(hostile):
    main(["report", str(hostile)])
    main(["phases", str(hostile)])
    assert not (hostile / "ran").exists()


@pytest.mark.parametrize("command", ["phases", "modules"])
def test_no_figure_is_drawn_through_a_link_out_of_the_folder(command, hostile, tmp_path, capsys):
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.rmtree(hostile / "figures", ignore_errors=True)
    (hostile / "figures").symlink_to(outside)
    with pytest.raises(SystemExit) as end:
        main([command, str(hostile)])
    assert end.value.code == 2
    line = capsys.readouterr().err
    assert f"{hostile / 'figures'} is a link out of the folder" in line
    assert "--figure FILE" in line
    assert not any(outside.iterdir())
    main([command, str(hostile), "--figure", str(tmp_path / "mine.png")])
    assert (tmp_path / "mine.png").exists()


def test_the_current_folder_is_not_searched_for_modules(fmce_command, tmp_path):
    (tmp_path / "evil_for_test.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    words = ["train", "--out", "run", "--model", "evil_for_test:make"]
    done = fmce_command(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert "cannot import module 'evil_for_test'" in done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("task", "name", "found"),
    [
        ("segment", "pspnet:resnet18", []),
        ("segment", "timm:create_model", ["timm:create_model"]),
        ("detect", "torchvision:set_image_backend", ["torchvision:set_image_backend"]),
        ("classify", "fcos:make", ["fcos:make"]),
        ("classify", "torchvision:resnet18", []),
    ],
)
def test_what_builds_a_network_for_one_task_is_code_for_another(task, name, found):
    config = DistillationConfig(task=task)
    values = {"student": {"name": name}}
    assert [
        n for n in function_names(from_dict(type(config), values, base=config)) if n == name
    ] == found


@pytest.mark.parametrize(
    "value", ["!!python/object/apply:os.getcwd []", "2020-01-01", ".inf", "!!binary aGk="]
)
def test_options_are_plain_data(value, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(f"model:\n  options: {{width: [{value}]}}\n")
    with pytest.raises(ValueError, match=r"YAML|model.options: expected"):
        from_yaml(RunConfig, file)


@pytest.mark.parametrize("name", ["checkpoints", "explain", "fmce_net/image"])
def test_a_link_out_of_the_folder_needs_trust(name, own_run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link = own_run.path / name
    shutil.rmtree(link, ignore_errors=True)
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"{link} is a link out of the folder"):
        open_run(own_run.path)
    assert open_run(own_run.path, trust=True).path == own_run.path


def test_links_within_the_folder_and_of_the_folder_itself_do_not(own_run, tmp_path):
    (tmp_path / "latest").symlink_to(own_run.path)
    (own_run.path / "best").symlink_to(own_run.path / "checkpoints")
    assert open_run(tmp_path / "latest").epochs == own_run.epochs


WRITTEN = ["report.html", "phases.json", "evaluation.json", "metrics.jsonl", "DONE.json", ".lock"]


@pytest.mark.parametrize("name", WRITTEN)
def test_a_link_in_a_files_place_is_replaced_or_refused_and_never_followed(name, own_run, tmp_path):
    target = tmp_path / "precious"
    target.write_text("precious")
    (own_run.path / name).unlink(missing_ok=True)
    (own_run.path / name).symlink_to(target)
    for words in (["report"], ["phases"], ["evaluate"]):
        with suppress(SystemExit):
            main([*words, str(own_run.path)])
    with suppress(ValueError, OSError):
        train_classifier(own_run.config, own_run.path)
    assert target.read_text() == "precious"
