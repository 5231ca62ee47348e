"""`fmce train-net`: the FMCE-Net of a run, by split."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from fmce.config.run import FMCENetConfig
from fmce.digests import read_record
from fmce.engine.runtime import make_runtime
from fmce.feature_maps.extractor import map_extractor
from fmce.feature_maps.splits import split_maps
from fmce.maturity.train_fmce_net import map_source, train_fmce_net
from fmce.runs.run import open_run
from fmce.tasks.fmce_net import score_maps

CPU = make_runtime("cpu")
QUICK = FMCENetConfig(epochs=1)


def test_split_map_is_measured_on_a_quarter_of_each_phases_maps(finished_run):
    metrics = read_record(finished_run.fmce_net_folder("map") / "metrics.json")
    confusion = np.array(metrics["held_out"]["confusion"])
    assert confusion.sum(axis=1).tolist() == [round(1257 / 4)] * 3
    assert (metrics["train_maps"], metrics["test_maps"]) == (3 * 1257 - 942, 942)
    assert np.array(metrics["test_images"]["confusion"]).sum(axis=1).tolist() == [360] * 3
    assert metrics["held_out"]["accuracy"] > 0.5  # chance is a third
    assert metrics["map_shape"] == [16, 2, 2]


def test_the_saved_net_gives_the_metrics_noted_beside_it(finished_run):
    metrics = read_record(finished_run.fmce_net_folder("map") / "metrics.json")
    source = map_source([finished_run], finished_run.setup.data.train, CPU, QUICK)
    held_out = split_maps("map", num_images=1257, num_phases=3).test
    logits, phases = score_maps(finished_run.fmce_net("map"), source.batches(held_out, 999), CPU)
    accuracy = (logits.argmax(1) + 1 == phases).double().mean().item()
    assert accuracy == metrics["held_out"]["accuracy"]


def test_split_image_holds_whole_images_out(own_run):
    metrics = train_fmce_net(own_run, "image", config=QUICK)
    assert (metrics["train_maps"], metrics["test_maps"]) == (3 * 943, 3 * 314)
    assert own_run.fmce_net("image").num_phases == 3
    assert own_run.fmce_net("map").num_phases == 3  # the other split's is still there


def test_split_test_trains_on_all_maps_and_measures_test_images(own_run):
    metrics = train_fmce_net(own_run, "test", config=QUICK)
    assert metrics["held_out"] is None
    assert metrics["train_maps"] == 3 * 1257
    assert metrics["test_images"]["accuracy"] > 1 / 3


def test_split_run_holds_a_run_out(own_run, other_run):
    metrics = train_fmce_net(own_run, "run", others=[other_run], config=QUICK)
    assert (metrics["train_maps"], metrics["test_maps"]) == (3 * 1257, 3 * 1257)
    (held_out,) = metrics["held_out_runs"]
    (trained_on,) = {str(own_run.path), str(other_run.path)} - {held_out}
    assert own_run.fmce_net("run").trained_on == trained_on


def test_split_run_of_one_run_is_refused(own_run):
    with pytest.raises(ValueError, match="needs more than one; name others with --others"):
        train_fmce_net(own_run, "run")


def test_a_run_named_twice_is_refused_lest_what_is_held_out_is_trained_on(own_run):
    with pytest.raises(ValueError, match="is named twice"):
        train_fmce_net(own_run, "run", others=[open_run(own_run.path)], config=QUICK)


def test_recomputed_and_kept_maps_are_the_same_maps(finished_run):
    sources = [
        map_source(
            [finished_run],
            finished_run.setup.data.test,
            CPU,
            QUICK,
            storage=b,
        )
        for b in ("memory", "recompute")
    ]
    kept, computed = (torch.cat([b.maps for b in s.batches(np.arange(360), 360)]) for s in sources)
    torch.testing.assert_close(kept, computed)
    extract = map_extractor(finished_run, finished_run.phases.markers[0], CPU)
    images = finished_run.setup.images(finished_run.setup.data.test, CPU)(torch.arange(360))
    torch.testing.assert_close(kept, extract(images))


def test_maps_recomputed_in_every_epoch_train_a_net_too(own_run):
    config = replace(QUICK, storage="recompute")
    metrics = train_fmce_net(own_run, "image", config=config)
    assert metrics["held_out"]["accuracy"] > 1 / 3


def test_a_finished_net_is_not_trained_again(own_run):
    before = (own_run.fmce_net_folder("map") / "fmce_net.safetensors").stat().st_mtime_ns
    noted = read_record(own_run.fmce_net_folder("map") / "metrics.json")
    assert train_fmce_net(own_run, "map") == noted
    assert (own_run.fmce_net_folder("map") / "fmce_net.safetensors").stat().st_mtime_ns == before


def test_another_fmce_net_config_is_refused(own_run):
    with pytest.raises(FileExistsError, match=r"fmce_net\.epochs: 2 in the folder, 1 now"):
        train_fmce_net(own_run, "map", config=QUICK)


def test_missing_phases_are_named(own_run):
    (own_run.path / "phases.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no phases.json; run: fmce phases"):
        train_fmce_net(own_run, "image")
    (own_run.path / "DONE.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"has not finished.*; rerun its fmce train command"
    ):
        train_fmce_net(own_run, "image")


def test_missing_marker_checkpoints_are_named(own_run):
    marker = own_run.phases.markers[1]
    shutil.rmtree(own_run.path / "checkpoints" / f"epoch_{marker:04d}")
    with pytest.raises(FileNotFoundError, match=rf"missing: .*epoch_{marker:04d}"):
        train_fmce_net(own_run, "image")


def test_runs_of_unlike_models_or_phases_do_not_join(own_run, finished_run, other_run, tmp_path):
    config = replace(own_run.config, model=replace(own_run.config.model, options={"width": 8}))
    with pytest.raises(ValueError, match="differ in model or image size"):
        train_fmce_net(finished_run, "run", others=[replace(own_run, config=config)])
    from fmce.runs.phases import run_phases

    run_phases(own_run.path, {"num_phases": 2})
    with pytest.raises(ValueError, match=r"the runs have \[2, 3\] phases"):
        train_fmce_net(open_run(own_run.path), "run", others=[other_run])


def test_a_narrower_net_stands_beside_the_published_one(own_run):
    metrics = train_fmce_net(own_run, "map", config=replace(QUICK, width=0.5))
    narrow, published = own_run.fmce_net("map", 0.5), own_run.fmce_net("map")
    assert (narrow.width, published.width) == (0.5, 1.0)
    assert own_run.fmce_net_folder("map", 0.5) == own_run.path / "fmce_net" / "map-width0.5"
    assert metrics["parameters"] == sum(p.numel() for p in narrow.parameters())
    assert narrow.convolutions[0].out_channels == 8  # published: 16


def test_a_width_that_was_not_trained_is_named_with_its_command(own_run):
    with pytest.raises(FileNotFoundError, match=r"--split map --set width=0.25"):
        own_run.fmce_net("map", 0.25)


def test_a_run_whose_config_has_a_width_means_that_one(own_run):
    config = replace(own_run.config, fmce_net=replace(QUICK, width=0.5))
    run = replace(own_run, config=config)
    train_fmce_net(run, "map")
    assert run.fmce_net("map").width == 0.5
    assert run.fmce_net("map", 1.0).width == 1
