"""`fmce train` on other data and with other arithmetic: recorded, and within a stated tolerance."""

import os
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from fmce.cli.main import main
from fmce.config.io import with_settings
from fmce.config.run import RunConfig
from fmce.digests import read_record
from fmce.engine.runtime import make_runtime
from fmce.maturity.train_classifier import train_classifier
from fmce.maturity.train_fmce_net import train_fmce_net
from fmce.runs.run import open_run

TINY = ("train.epochs=1", "train.batch_size=128", "data.train_images=256", "data.image_size=8")
TINY += ("data.shift=1",)
# Relative difference of an epoch's training loss to the plain float32 path's.
SAME, HALF = 1e-4, 1e-2


def losses(folder, *settings, runtime=None):
    run = train_classifier(with_settings(RunConfig(), [*TINY, *settings]), folder, runtime=runtime)
    (row,) = run.curve
    return run, row


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return losses(tmp_path_factory.mktemp("plain") / "run")[1]


def test_channels_last_changes_rounding_alone(tmp_path, plain):
    run, row = losses(tmp_path / "run", "runtime.channels_last=true")
    assert row["loss"] == pytest.approx(plain["loss"], rel=SAME)
    assert row["validation_loss"] == pytest.approx(plain["validation_loss"], rel=SAME)
    assert run.model(1).stem[0].weight.is_contiguous()  # files keep the ordinary order


def test_a_channels_last_run_resumes_bit_for_bit(tmp_path):
    settings = ("runtime.channels_last=true", "train.epochs=3")
    whole = train_classifier(with_settings(RunConfig(), [*TINY, *settings]), tmp_path / "a")
    config = whole.config
    train_classifier(config, tmp_path / "b")
    for path in (tmp_path / "b" / "DONE.json", tmp_path / "b" / "checkpoints" / "epoch_0003"):
        path.rename(tmp_path / f"gone_{path.name}")
    again = train_classifier(config, tmp_path / "b")
    one, other = (run.model(3).state_dict() for run in (whole, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_bfloat16_stays_near_and_is_recorded_however_it_was_asked_for(tmp_path, plain):
    by_config, row = losses(tmp_path / "a", "runtime.precision=bfloat16")
    by_runtime, same = losses(tmp_path / "b", runtime=make_runtime("cpu", "bfloat16"))
    assert row["loss"] != plain["loss"]
    assert row["loss"] == pytest.approx(plain["loss"], rel=HALF)
    assert same["loss"] == row["loss"]
    for run in (by_config, by_runtime):
        assert open_run(run.path).config.runtime.precision == "bfloat16"


@pytest.mark.slow
def test_a_compiled_training_gives_the_same_loss(tmp_path, plain):
    _, row = losses(tmp_path / "run", "runtime.compile=true")
    assert row["loss"] == pytest.approx(plain["loss"], rel=SAME)
    assert row["validation_loss"] == pytest.approx(plain["validation_loss"], rel=1e-3)


@pytest.mark.slow
def test_a_compiled_fmce_net_pp_captures_maps_and_gives_the_same_losses(tmp_path):
    phases = ["num_phases=2", "threshold=1e-6", "smoothing=none", "if_not_converged=last"]
    settings = [*TINY, "train.epochs=4", "fmce_net.epochs=1", *(f"phases.{p}" for p in phases)]
    oracle = train_classifier(with_settings(RunConfig(), settings), tmp_path / "oracle")
    train_fmce_net(oracle)
    ral = ("auxiliary.kind=ral", f"auxiliary.oracle={oracle.path}", "auxiliary.raf=0.5")
    ral += ("train.seed=1",)
    _, plain = losses(tmp_path / "plain", *ral)
    _, row = losses(tmp_path / "compiled", *ral, "runtime.compile=true")
    for name in ("loss", "task_loss", "auxiliary_loss"):
        assert row[name] == pytest.approx(plain[name], rel=SAME)


@pytest.mark.parametrize("option", ["channels_last", "compile"])
def test_a_network_that_would_corrupt_memory_is_refused(tmp_path, option):
    with pytest.raises(ValueError, match="turn them off, or use 16 channels or more"):
        losses(tmp_path / "run", f"runtime.{option}=true", "model.options={width: 4}")
    assert not (tmp_path / "run").exists()


def write_cifar(path, count=60):
    draw = np.random.default_rng(0)
    arrays = {}
    for part in ("train", "test"):
        arrays[f"x_{part}"] = draw.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(count) % 10
    np.savez(path, **arrays)


def test_the_command_line_trains_on_a_named_set_and_records_how(tmp_path, capsys):
    write_cifar(tmp_path / "cifar10.npz")
    arguments = ["--data", "cifar10", "--data-root", str(tmp_path), "--epochs", "1"]
    arguments += ["--precision", "bfloat16", "--set", "data.train_images=40"]
    main(["train", "--out", str(tmp_path / "run"), *arguments, "--device", "cpu"])
    said = capsys.readouterr().out
    assert (
        f"data cifar10: 40 train, 6 validation, 60 test images of 10 classes from {tmp_path}"
        in said
    )
    config = open_run(tmp_path / "run").config
    assert (config.data.image_size, config.data.flip, config.data.root) == (32, True, str(tmp_path))
    assert config.runtime.precision == "bfloat16"
    assert len(open_run(tmp_path / "run").setup.data.train) == 40


def test_a_run_on_an_image_folder_is_opened_again_with_its_images(tmp_path):
    for label, level in (("dark", 40), ("light", 200)):
        (tmp_path / "set" / label).mkdir(parents=True)
        for number in range(20):
            grey = level + number
            Image.new("RGB", (10, 10), (grey,) * 3).save(tmp_path / "set" / label / f"{number}.png")
    settings = ["data.name=image-folder:set", f"data.root={tmp_path}", "data.image_size=8"]
    settings += ["data.shift=1", "data.train_images=null", "model.options={width: 4}"]
    run, _ = losses(tmp_path / "run", *settings)
    again = open_run(run.path)
    assert again.setup.data.class_names == ("dark", "light")
    assert again.setup.data.train.images.shape[1:] == (3, 8, 8)
    assert torch.equal(again.setup.data.test.images, run.setup.data.test.images)


def test_a_missing_set_is_one_line_and_leaves_no_folder(tmp_path, capsys):
    arguments = ["train", "--out", str(tmp_path / "run"), "--data", "mnist"]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--data-root", str(tmp_path)])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"fmce: no mnist under {tmp_path}: expected {tmp_path}/MNIST/raw")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("model", ["timm:test_resnet", "timm:mobilenetv3_small_050"])
def test_timm_networks_train(tmp_path, model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm's own, of names it renamed
        run, row = losses(
            tmp_path / "run", f"model.name={model}", "data.image_size=32", "data.train_images=32"
        )
    assert np.isfinite(row["loss"])
    assert run.setup.layer in dict(run.setup.new_model().named_modules())


@pytest.mark.skipif(
    not os.environ.get("FMCE_DATA"), reason="FMCE_DATA is not set: the folder with MNIST"
)
def test_real_mnist_trains_from_one_command(tmp_path, capsys):
    arguments = ["--data", "mnist", "--epochs", "2", "--set", "data.train_images=1000"]
    arguments += ["--set", "train.batch_size=32"]
    main(["train", "--out", str(tmp_path / "run"), *arguments, "--device", "cpu"])
    assert "1000 train, 5000 validation, 10000 test images" in capsys.readouterr().out
    done = read_record(tmp_path / "run" / "DONE.json")
    assert done["test_accuracy"] > 0.5


def test_recorded_passes_need_a_gpu_and_exclude_the_compiler(tmp_path):
    with pytest.raises(ValueError, match=r"runtime\.cuda_graphs needs one GPU"):
        losses(tmp_path / "run", "runtime.cuda_graphs=true")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="at most one of them"):
        losses(tmp_path / "run", "runtime.cuda_graphs=true", "runtime.compile=true")
