"""The `fmce` command: help, exit codes, one line for a user's mistake."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fmce
from fmce.cli.main import COMMANDS, main
from fmce.config.distillation import DISTILLATION_PRESETS


def fmce_exit(arguments):
    """Run the command line in this process and return its exit code."""
    try:
        main([str(a) for a in arguments])
    except SystemExit as end:
        return end.code or 0
    return 0


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


def test_commands_are_listed_in_the_order_of_use(wide, capsys):
    order = "demo train phases modules watch check extract train-net evaluate fmcs score audit explain compare"
    order += " sweep distill predict frames export report"
    assert list(COMMANDS) == order.split()
    fmce_exit(["--help"])
    assert re.findall(r"• (\S+) ", capsys.readouterr().out) == order.split()


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from fmce.cli.main import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'pydantic', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_page_and_its_example_uses_flags_that_exist(command, wide, capsys):
    assert fmce_exit([command, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 55
    assert max(map(len, lines)) <= 100
    (example,) = [line for line in lines if line.startswith(f"Example: fmce {command} ")]
    listed = "\n".join(line for line in lines if line != example)
    assert all(flag in listed for flag in re.findall(r"--[a-z-]+", example))


def test_the_help_of_distill_names_every_preset(wide, capsys):
    fmce_exit(["distill", "--help"])
    words = set(re.split(r"[\s,()]+", capsys.readouterr().out))
    assert set(DISTILLATION_PRESETS) <= words


def test_help_of_the_whole_lists_every_command(wide, capsys):
    for arguments in ([], ["--help"]):
        assert fmce_exit(arguments) == 0
        out = capsys.readouterr().out
        # A line, an empty one and an example for each command, few of which wrap.
        assert len(out.splitlines()) <= 15 + 3 * len(COMMANDS)
        assert all(re.search(rf"• {command} ", out) for command in COMMANDS)


def test_the_version_is_the_packages(capsys):
    assert fmce_exit(["--version"]) == 0
    assert capsys.readouterr().out == f"fmce {fmce.__version__}\n"


@pytest.mark.parametrize("arguments", [["nosuch"], ["train"], ["train", "--out", "x", "--nosuch"]])
def test_arguments_that_do_not_parse_exit_with_2(arguments, capsys):
    assert fmce_exit(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("fmcs NOWHERE --epoch 1", "no run folder .*; make one with: fmce train"),
        ("fmcs RUN", "either --epoch N or --checkpoint FOLDER"),
        ("fmcs RUN --epoch 99", "available epochs: 1, 2"),
        ("fmcs RUN --epoch 1 --split image", "run: fmce train-net .* --split image"),
        ("train --out OUT --preset cifar", "unknown preset 'cifar'; choose from digits, paper"),
        (
            "train --out OUT --config NOWHERE",
            ": expected config sections in YAML, got: No such file",
        ),
        (
            "train --out OUT --config HOME",
            ": expected config sections in YAML, got: Is a directory",
        ),
        ("train --out OUT --model tyni", "expected a model, got 'tyni'; near: tiny"),
        ("train --out OUT --model torchvision:resnet5", "near: .*resnet50"),
        ("train --out OUT --epochs 0", "train.epochs: expected at least 1, got 0"),
        ("train --out OUT --seed -1", "train.seed: expected at least 0, got -1"),
        ("train --out OUT --raf 0.5", "name an oracle run"),
        ("train --out OUT --oracle RUN --raf 2", "auxiliary.raf: expected at most 1, got 2"),
        ("train --out OUT --oracle RUN", "--oracle needs --raf"),
        ("train --out OUT --oracle NOWHERE --raf 0.5", "no run folder"),
        ("train --out OUT --set data.name=digit", "did you mean 'digits'. choose from digits"),
        ("train --out OUT --set train.epoch=3", "did you mean 'epochs'"),
        ("train --out OUT --set train.epochs", "expected section.field=value"),
        ("train --out OUT --set train.epochs=[", "not valid YAML"),
        ("train --out OUT --set auxiliary.init=checkpoint", "there is no run to start from"),
        (
            "train --out OUT --epochs 1 --set train.epochs=2",
            "conflicting values for train.epochs: given as an option and via --set; remove one",
        ),
        (
            "train --out OUT --data digits --set data.name=mnist",
            "conflicting values for data.name",
        ),
        ("train --out OUT --layer blocks.9 --epochs 1", "has no submodule 'blocks.9'"),
        ("train --out OUT --device tpu", "use auto, cpu, cuda or cuda:N"),
        ("train --out RUN --seed 5", "is the config of another run"),
        ("train --out FILE --epochs 1", "cannot write to the run folder"),
        ("train --out HOME --epochs 1", "config.yaml is missing, but"),
        (
            'distill --out OUT --root HOME --set data={"root":"other"}',
            "conflicting values for data.root: given as an option and via --set",
        ),
        ("phases NOWHERE.csv", "NOWHERE.csv"),
        ("phases LOSSES --column train", "train"),
        ("phases LOSSES --column loss --tag loss", "all name the loss; got loss and loss"),
        ("phases LOSSES --format excel", "unknown format 'excel'; expected one of csv"),
        ("phases LOSSES NOWHERE.csv", "1 of 2 sources could not be read; see their rows"),
        ("phases LOSSES --steps-per-epoch 0", "steps_per_epoch must be at least 1; got 0"),
        (
            "phases LOSSES --set if_not_converged=last --figure /proc/x.png",
            "cannot write /proc/x.png: No such file",
        ),
        ("phases LOSSES --set windw=3", "did you mean 'window'"),
        ("phases LOSSES --threshold 1 --set threshold=2", "conflicting values for threshold"),
        ("train --out OUT --oracle RUN --raf 0.5 --set auxiliary.oracle=x", "for auxiliary.oracle"),
        ("distill --out OUT --preset camvid --task detect", "values for the task: preset camvid"),
        ("phases LOSSES --threshold 50", "threshold"),
        ("train-net RUN --split run", "name others with --others"),
        ("train-net RUN --set epochs=3", "is the config of another run"),
        ("compare RUN --out OUT --seeds 0 1", "seed 0 is the own seed of the oracle"),
        ("compare RUN --out OUT --raf 1", "expected below 1, got 1.0"),
        ("compare RUN --out OUT --oracle-split image", "fmce train-net"),
        ("explain RUN --images 0", "expected 1 to 360 images"),
        ("explain LOSSES", "is a file; expected the run folder that fmce train --out wrote"),
        ("phases LOSSES --threshold abc", "^fmce: --threshold: expected a number, got 'abc'; see"),
        ("train --out OUT --epochs x", "^fmce: --epochs: expected a whole number, got 'x'; see"),
        ("compare RUN --out OUT --seeds 1 x", r"^fmce: --seeds: cannot read \['1', 'x'\]; see"),
        ("evaluate RUN --split foo", "^fmce: --split: expected one of 'map'.*, got 'foo'; see"),
        ("distill --out OUT --task foo", "^fmce: --task: expected one of [^N]*, got 'foo'; see"),
        ("train --out", "^fmce: --out: expected a value; see"),
        ("train --out OUT --nosuch", "^fmce: unknown options: --nosuch; see"),
        ("phasse LOSSES", "^fmce: unknown command 'phasse'; did you mean 'phases'"),
        ("report RUN --comparison HOME", "has no compare.json"),
        ("report HOME", "is not a run folder"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    arguments, message, finished_run, tmp_path, capsys
):
    (tmp_path / "file").write_text("a file where a folder should be")
    losses = "\n".join(["loss", *(str(2 * 0.8**i) for i in range(60))])
    (tmp_path / "losses.csv").write_text(losses)
    places = {"RUN": finished_run.path, "OUT": tmp_path / "out", "FILE": tmp_path / "file"}
    places |= {"HOME": tmp_path, "LOSSES": tmp_path / "losses.csv", "NOWHERE": tmp_path / "no"}
    assert fmce_exit([places.get(word, word) for word in arguments.split()]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("fmce: ")
    assert re.search(message, lines[0])
    assert not (tmp_path / "out" / "config.yaml").exists()  # nothing claimed by the mistake


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_one_line(tmp_path, capsys):
    assert fmce_exit(["train", "--out", tmp_path / "x", "--device", "cuda"]) == 2
    assert "torch sees no GPU; use --device cpu" in capsys.readouterr().err


def test_a_full_gpu_is_one_line_with_what_takes_less(tmp_path, capsys, monkeypatch):
    def fill(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB.")

    monkeypatch.setattr("fmce.maturity.train_classifier.train_classifier", fill)
    assert fmce_exit(["train", "--out", tmp_path / "x", "--device", "cpu"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fmce: CUDA out of memory. Tried to allocate 2.00 GiB. What takes less:")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_one_line(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert fmce_exit(["train", "--out", tmp_path / "x", "--epochs", "1"]) == 2
    assert "cannot write to the run folder" in capsys.readouterr().err


def test_a_training_that_stops_exits_with_1_and_says_where(tmp_path, capsys):
    arguments = ["--epochs", "2", "--set", "train.learning_rate=1e30"]
    arguments += ["--set", "model.options={width: 4}", "--set", "data.image_size=8"]
    assert fmce_exit(["train", "--out", tmp_path / "x", *arguments]) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(r"fmce: the loss became nan in epoch \d, step \d+; try .*\n", error)


def test_a_defect_of_ours_keeps_its_traceback(finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr("fmce.report.write.report_page", lambda *_: {}["gone"])
    with pytest.raises(KeyError, match="gone"):
        main(["report", str(finished_run.path), "--out", str(tmp_path / "report.html")])


def test_a_traceback_can_be_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("FMCE_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        main(["report", str(tmp_path)])


def test_every_command_runs_on_a_finished_run(finished_run, other_run, tmp_path, capsys):
    """One after another on the same folder, as a reader of the guide would."""
    run = tmp_path / "run"
    shutil.copytree(finished_run.path, run)
    assert fmce_exit(["train", "--out", run, *_same_settings(finished_run)]) == 0
    assert "is finished already" in capsys.readouterr().out
    for arguments in (
        ["phases", run, "--num-phases", "3"],
        ["train-net", run, "--split", "image", "--set", "epochs=1"],
        ["evaluate", run, "--others", other_run.path],
        ["fmcs", run, "--epoch", "4"],
        ["explain", run, "--images", "2"],
        ["report", run, "--out", tmp_path / "page.html"],
    ):
        assert fmce_exit(arguments) == 0, arguments
    out = capsys.readouterr().out
    for said in ("convergence epoch", "split image", "other run", "near chance", "Grad-CAM of 2"):
        assert said in out
    assert f"report: {tmp_path / 'page.html'}" in out


def _same_settings(run):
    (Path(run.path).parent / "same.yaml").write_text((run.path / "config.yaml").read_text())
    return ["--config", Path(run.path).parent / "same.yaml"]


@pytest.mark.parametrize("command", ["evaluate RUN", "fmcs RUN --epoch 4", "phases RUN"])
def test_json_output_is_json_alone(command, own_run, capsys):
    words = [str(own_run.path) if word == "RUN" else word for word in command.split()]
    assert fmce_exit([*words, "--json"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), dict)


def test_settings_win_over_the_file_and_the_file_over_the_preset(tmp_path):
    from fmce.config.io import from_yaml
    from fmce.config.run import RunConfig

    file = tmp_path / "mine.yaml"
    file.write_text("train: {epochs: 1, batch_size: 512}\ndata: {image_size: 8}\n")
    arguments = ["--config", file, "--seed", "4", "--set", "train.batch_size=256"]
    arguments += ["--set", "model.options={width: 4}"]
    assert fmce_exit(["train", "--out", tmp_path / "run", *arguments]) == 0
    config = from_yaml(RunConfig, tmp_path / "run" / "config.yaml")
    assert (config.train.epochs, config.train.batch_size, config.train.seed) == (1, 256, 4)
    assert (config.data.image_size, config.data.noise) == (8, 0.3)


def test_with_an_oracle_the_length_is_its_convergence_epoch(finished_run, tmp_path):
    from fmce.runs.run import open_run

    settings = ["data.image_size=8", "data.shift=1", "model.options={width: 4}"]
    arguments = [word for s in settings for word in ("--set", s)]
    arguments += ["--oracle", finished_run.path, "--raf", "0.9", "--seed", "1"]
    assert fmce_exit(["train", "--out", tmp_path / "run", *arguments]) == 0
    run = open_run(tmp_path / "run")
    assert run.config.train.epochs == finished_run.phases.convergence_epoch
    assert run.config.auxiliary.raf == 0.9


def test_the_module_runs_as_the_command(fmce_command, tmp_path):
    done = fmce_command("report", tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"fmce: {tmp_path} is not a run folder: it has no config.yaml\n"


def test_a_reader_that_goes_away_is_no_error_of_ours(tmp_path, fmce_command):
    losses = tmp_path / "losses.csv"
    losses.write_text("\n".join(["loss", *(str(2 * 0.8**i) for i in range(60))]))
    with open(os.devnull) as closed:  # not writable: what a closed pipe amounts to
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            [sys.executable, "-m", "fmce", "phases", losses, "--threshold", "0.01"],
            stdin=closed,
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(write)
    assert done.returncode == 1
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "--out", "x", "--raf", "much"), "--raf"),
        (("trian", "--out", "x"), "trian"),
        (("train",), "Missing"),
        (("fmcs", "run", "--split", "half"), "half"),
    ],
)
def test_arguments_that_cannot_be_parsed_end_with_one_line(capsys, arguments, said):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    message = capsys.readouterr().err
    assert end.value.code == 2
    assert message.startswith("fmce: ")
    assert said in message
    assert "---" not in message  # neither a rule of the drawn box nor the help below it
    assert message.count("\n") == 1
