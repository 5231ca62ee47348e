"""`fmce distill` on shards in two processes with two workers each: killed, resumed, every frame once."""

import json
import os
import signal

import numpy as np
import pytest
from PIL import Image

from fmce.config.distillation import DistillationConfig
from fmce.config.io import from_yaml, to_yaml, with_settings
from fmce.data.frames.shards import index_shard, write_index, write_shard
from fmce.data.road_scenes.canvas import SCENE_CLASSES
from fmce.data.road_scenes.scenes import render_scenes
from fmce.digests import read_record
from fmce.distillation.distill import distill
from fmce.runs.log import read_metrics
from tests.end_to_end.launch import ended, rank_process, torchrun, wait_for

for package in ("timm", "webdataset"):
    pytest.importorskip(package)

# 6 labelled images and 40 frames, 4 of them held out: batches of 7 take 6 steps a pass; of each batch
# rank 0 has 3 images and rank 1 has 4.
PASS = 42


def save_scenes(folder, split, numbers):
    scenes = render_scenes(numbers, seed=0, height=16, width=24)
    for kind, arrays in (("images", scenes.images), ("masks", scenes.masks)):
        (folder / kind / split).mkdir(parents=True)
        for number, array in zip(numbers, np.asarray(arrays), strict=True):
            Image.fromarray(array).save(folder / kind / split / f"{number}.png")


def save_shards(folder):
    folder.mkdir()
    scenes = render_scenes(range(100, 140), seed=0, height=16, width=24).images
    shards = []
    for name, frames in (("a", scenes[:23]), ("b", scenes[23:])):
        path, contents = folder / f"{name}-0000.tar", []
        for number, frame in enumerate(np.asarray(frames)):
            Image.fromarray(frame).save(folder / "frame.png")
            contents.append((f"{name}-{number:07d}", (folder / "frame.png").read_bytes()))
        write_shard(path, contents)
        shards.append(index_shard(path, name, 0, 1))
    (folder / "frame.png").unlink()
    write_index(folder, shards, {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with data and config.yaml of an experiment."""
    folder = tmp_path_factory.mktemp("frames")
    save_scenes(folder, "train", range(6))
    save_scenes(folder, "val", range(6, 9))
    save_shards(folder / "shards")
    network = "{encoder_options: {channels: [4, 4, 4, 8], stem_width: 4}, dropout: 0.3}"
    settings = [
        f"data={{name: folder, root: {folder}, height: 16, width: 24, labelled: null}}",
        f"data.class_names={json.dumps(SCENE_CLASSES)}",
        *(f"data.folders=[{folder / 'shards'}]", "data.unlabelled=null", "data.held_out=4"),
        *(
            "data.storage=files",
            "data.shuffle_buffer=20",
            "data.workers=2",
            "data.record_frames=true",
        ),
        *(f"student.options={network}", f"teacher.options={network}"),
        "teacher_steps={steps: 2, batch_size: 5, interval: 2}",
        "student_steps={steps: 12, batch_size: 7, interval: 2}",
        *("arms=[function_matching]", "seeds=[1]"),
    ]
    config = with_settings(DistillationConfig(), settings)
    (folder / "config.yaml").write_text(to_yaml(config))
    return folder


def command(folder):
    words = ["-m", "fmce", "distill", "--config", folder / "config.yaml"]
    return [*words, "--out", folder / "two", "--device", "cpu"]


@pytest.fixture(scope="module")
def killed(folder):
    """Kill rank 1 in the middle of a pass; return its process, what was said and the checkpoints left."""
    run = folder / "two" / "runs" / "function_matching-seed1"
    process = torchrun(*command(folder))
    wait_for(run / "checkpoints" / "epoch_0002", process, seconds=300)
    victim = rank_process(process, 1)
    os.kill(victim, signal.SIGKILL)
    _, error = ended(process)
    assert process.returncode != 0
    assert not (run / "DONE.json").exists()
    return victim, error


@pytest.fixture(scope="module")
def resumed(folder, killed):
    """Give the same command again; return what was said."""
    process = torchrun(*command(folder))
    out, error = ended(process)
    assert process.returncode == 0, error
    return out


@pytest.fixture(scope="module")
def alone(folder):
    """The same experiment in this process, with its decoding in it too."""
    config = with_settings(
        from_yaml(DistillationConfig, folder / "config.yaml"), ["data.workers=0"]
    )
    with pytest.MonkeyPatch.context() as patch:
        run = "fmce.distillation.distill.run_jobs"
        patch.setattr(run, lambda train_arm, jobs, *_: [train_arm(*j) for j in jobs.values()])
        distill(config, folder / "one")
    return folder / "one" / "runs" / "function_matching-seed1"


def seen(run):
    paths = sorted((run / "frames").glob("*.txt"))
    return [key for path in paths for key in path.read_text().splitlines()]


def test_a_lost_rank_ends_the_experiment_with_a_message(killed):
    victim, error = killed
    (message,) = [line for line in error.splitlines() if line.startswith("fmce: ")]
    assert message.startswith(f"fmce: rank 1 (process {victim} on ")
    assert "rerun the command to resume" in message


def test_after_a_kill_two_ranks_see_every_frame_once_a_pass_in_the_order_of_one(
    folder, resumed, alone
):
    keys = seen(folder / "two" / "runs" / "function_matching-seed1")
    assert len(keys) == 2 * PASS
    assert len(set(keys[:PASS])) == len(set(keys[PASS:])) == PASS
    assert keys == seen(alone)


def test_after_a_kill_two_ranks_end_with_the_curve_and_score_of_one(folder, resumed, alone):
    rows = read_metrics(folder / "two" / "runs" / "function_matching-seed1")
    expected = read_metrics(alone)
    assert [row["epoch"] for row in rows] == list(range(1, 7))
    assert [row.keys() for row in rows] == [row.keys() for row in expected]
    for field in ("loss", "kl_to_teacher"):
        assert [r[field] for r in rows] == pytest.approx([r[field] for r in expected], rel=2e-3)
    two, one = (read_record(folder / n / "distill.json") for n in ("two", "one"))
    assert two["rows"][0]["score"] == pytest.approx(one["rows"][0]["score"], abs=0.02)
    assert resumed.count("report: ") == 1  # the first rank's alone
    assert (folder / "two" / "report.html").exists()
