"""`fmce distill` on frames in files: clips → shards → students; killed and resumed, every frame once."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fmce.config.distillation import DistillationConfig
from fmce.config.io import to_yaml, with_settings
from fmce.data.frames.pool import FramePool
from fmce.data.frames.shards import open_shards
from fmce.data.frames.video import FrameSettings
from fmce.data.road_scenes.canvas import SCENE_CLASSES
from fmce.data.road_scenes.scenes import render_scenes
from fmce.digests import read_record
from fmce.distillation.data.dataset import (
    load_distillation_data,
    prepare_distillation_data,
    read_distillation_data,
)
from fmce.distillation.distill import distill, train_student
from fmce.distillation.pack_videos import pack_videos
from fmce.engine.runtime import make_runtime
from fmce.runs.checkpoint import load_checkpoint

for package in ("av", "timm", "webdataset"):
    pytest.importorskip(package)

CLIPS = Path(os.environ.get("FMCE_DATA", "/nowhere")) / "driving-clips"
real_clips = pytest.mark.skipif(not CLIPS.is_dir(), reason="FMCE_DATA has no driving-clips")


def save_scenes(folder, split, numbers):
    """Write scenes as a data set of images and masks."""
    scenes = render_scenes(numbers, seed=0, height=16, width=24)
    for kind, arrays in (("images", scenes.images), ("masks", scenes.masks)):
        (folder / kind / split).mkdir(parents=True)
        for number, array in zip(numbers, np.asarray(arrays), strict=True):
            Image.fromarray(array).save(folder / kind / split / f"{number}.png")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    save_scenes(folder, "train", range(6))
    save_scenes(folder, "val", range(6, 9))
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    out = tmp_path_factory.mktemp("clips") / "shards"
    pack_videos([CLIPS], out, FrameSettings(every=5, height=36), workers=1)
    return out


def config_of(labelled, folder, *more):
    """6 labelled images and 78 frames, 4 of them held out: batches of 4 take 20 steps a pass."""
    return with_settings(
        DistillationConfig(),
        [
            f"data={{name: folder, root: {labelled}, height: 16, width: 24, labelled: null}}",
            f"data.class_names={json.dumps(SCENE_CLASSES)}",
            f"data.folders=[{folder}]",
            "data.unlabelled=null",
            "data.held_out=4",
            "data.storage=files",
            "data.shuffle_buffer=32",
            "data.workers=0",
            "data.record_frames=true",
            "student.options={encoder_options: {channels: [4, 4, 4, 8], stem_width: 4}}",
            "teacher.options={encoder_options: {channels: [4, 4, 4, 8], stem_width: 4}}",
            "teacher_steps={steps: 2, batch_size: 4, interval: 2}",
            "student_steps={steps: 20, batch_size: 4, interval: 4}",
            "arms=[function_matching]",
            "seeds=[1]",
            *more,
        ],
    )


def seen(run):
    return [
        k
        for path in sorted((run / "frames").glob("*.txt"))
        for k in path.read_text().split("\n")[:-1]
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, labelled, shards):
    out = tmp_path_factory.mktemp("undisturbed") / "experiment"
    distill(config_of(labelled, shards), out, jobs=1)
    return out


@real_clips
def test_a_pass_over_the_clips_shards_sees_every_frame_once(undisturbed, shards):
    keys = seen(undisturbed / "runs" / "function_matching-seed1")
    folder = open_shards(str(shards))
    clips = {k for s in folder.shards for c in range(s.num_chunks) for k in s.chunk_keys(c)}
    assert len(clips) == 78
    assert len(keys) == len(set(keys)) == 80  # 6 labelled images and 78 − 4 frames
    assert len(set(keys) & clips) == 74
    assert sum(key.startswith("labelled image") for key in keys) == 6
    result = read_record(undisturbed / "distill.json")
    assert result["images"]["unlabelled"] == 74
    rows = (
        (undisturbed / "runs" / "function_matching-seed1" / "metrics.jsonl")
        .read_text()
        .splitlines()
    )
    assert all(json.loads(row)["damaged_frames"] == 0 for row in rows)


@real_clips
@pytest.mark.slow
def test_killed_in_the_middle_of_a_pass_it_goes_on_and_ends_the_same(
    undisturbed, labelled, shards, tmp_path
):
    out = tmp_path / "killed"
    shutil.copytree(undisturbed, out)
    shutil.rmtree(out / "runs")
    config = tmp_path / "config.yaml"
    config.write_text(to_yaml(config_of(labelled, shards)))
    run = out / "runs" / "function_matching-seed1"
    code = (
        "import sys; from pathlib import Path; from fmce.distillation.distill import train_student;"
        "from fmce.config.io import from_yaml; from fmce.config.distillation import DistillationConfig;"
        "from fmce.engine.runtime import make_runtime;"
        "train_student(from_yaml(DistillationConfig, Path(sys.argv[1])), Path(sys.argv[2]), 'function_matching', 1,"
        "make_runtime('cpu'))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(config), str(out)])
    deadline = time.monotonic() + 100
    while not (run / "checkpoints" / "epoch_0002").exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run / "DONE.json").exists()
    train_student(config_of(labelled, shards), out, "function_matching", 1, make_runtime("cpu"))
    reference = undisturbed / "runs" / "function_matching-seed1"
    assert seen(run) == seen(reference)
    ours, theirs = (
        load_checkpoint(folder / "checkpoints" / "epoch_0005").weights
        for folder in (run, reference)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@real_clips
def test_small_pools_are_read_into_memory_unless_files_are_asked_for(labelled, shards):
    config = config_of(labelled, shards).data
    in_files = load_distillation_data("segment", config).unlabelled
    in_memory = load_distillation_data(
        "segment", with_settings(config, ["storage=auto"])
    ).unlabelled
    assert isinstance(in_files, FramePool)
    assert torch.equal(in_memory.images, in_files.in_memory().images)


@real_clips
def test_shards_added_later_do_not_change_an_experiment(labelled, shards, tmp_path):
    mine = tmp_path / "shards"
    shutil.copytree(shards, mine)
    config = config_of(labelled, mine).data
    prepare_distillation_data(tmp_path, "segment", config)
    index = json.loads((mine / "shards.json").read_text())
    index["shards"] = index["shards"][1:]
    (mine / "shards.json").write_text(json.dumps(index))
    assert len(read_distillation_data(tmp_path).unlabelled) == 74


@real_clips
def test_an_address_gives_the_pool_that_the_folder_gives(labelled, shards):
    local, remote = (
        load_distillation_data("segment", config_of(labelled, folder).data)
        for folder in (shards, f"file://{shards}")
    )
    keys = [[d.unlabelled.table.key(n) for n in range(74)] for d in (local, remote)]
    assert keys[0] == keys[1]
    assert torch.equal(remote.held_out.images, local.held_out.images)


@real_clips
def test_the_leak_rule_holds_for_shards(labelled, shards, tmp_path):
    stems = tmp_path / "stems.txt"
    stems.write_text("solidWhiteRight\ntest_video-0000010.jpg\n")
    config = config_of(labelled, shards, f"data.exclude={stems}", "data.held_out=0").data
    pool = load_distillation_data("segment", config).unlabelled
    keys = {pool.table.key(n) for n in range(len(pool))}
    assert len(keys) == 25 + 8 - 1
    assert not any(k.startswith("solidWhiteRight") or k == "test_video-0000010" for k in keys)


def test_folders_of_images_can_stay_in_files_too(labelled, tmp_path):
    folder = tmp_path / "frames" / "nested"
    folder.mkdir(parents=True)
    for number in range(5):
        Image.new("RGB", (24, 16), (40 * number, 0, 0)).save(folder / f"{number}x.png")
    config = config_of(labelled, tmp_path / "frames", "data.held_out=1").data
    data = load_distillation_data("segment", config)
    assert isinstance(data.unlabelled, FramePool)
    assert (len(data.unlabelled), len(data.held_out)) == (4, 1)
    reds = {int(image[0].float().mean()) for image in data.unlabelled.in_memory().images}
    assert reds | {int(data.held_out.images[0, 0].float().mean())} == {0, 40, 80, 120, 160}


def test_a_pool_that_cannot_fit_in_memory_says_what_to_do(labelled, tmp_path, monkeypatch):
    Image.new("RGB", (24, 16)).save(tmp_path / "a.png")
    monkeypatch.setattr("fmce.distillation.data.pools.available_memory", lambda: 1000)
    config = config_of(labelled, tmp_path, "data.held_out=0", "data.storage=memory").data
    with pytest.raises(ValueError, match=r"set data\.storage=files"):
        load_distillation_data("segment", config)


def test_labelled_and_validation_images_that_cannot_fit_are_refused(
    labelled, tmp_path, monkeypatch
):
    Image.new("RGB", (24, 16)).save(tmp_path / "a.png")
    config = config_of(labelled, tmp_path, "data.held_out=0", "data.storage=files").data
    data = load_distillation_data("segment", config)
    needed = data.labelled.nbytes + data.validation.nbytes  # images and masks
    assert needed == (len(data.labelled) + len(data.validation)) * 4 * config.height * config.width
    monkeypatch.setattr(
        "fmce.distillation.data.pools.available_memory", lambda: int(needed / 0.6) + 2
    )
    load_distillation_data("segment", config)
    monkeypatch.setattr(
        "fmce.distillation.data.pools.available_memory", lambda: int(needed / 0.6) - 2
    )
    with pytest.raises(ValueError, match=r"60% of the .* free; lower data\.labelled, data\.valid"):
        load_distillation_data("segment", config)
