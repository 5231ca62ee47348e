"""`fmce frames`: shards of real clips, the same after kills; damaged videos named, a rate kept."""

import io
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
from PIL import Image

from fmce.data.frames.shards import ShardReader, open_shards
from fmce.data.frames.video import FrameSettings
from fmce.data.frames.video_to_shards import pack_video
from fmce.distillation.pack_videos import pack_videos

pytest.importorskip("av")
pytest.importorskip("webdataset")

CLIPS = Path(os.environ.get("FMCE_DATA", "/nowhere")) / "driving-clips"
real_clips = pytest.mark.skipif(not CLIPS.is_dir(), reason="FMCE_DATA has no driving-clips")
SETTINGS = FrameSettings(every=5, height=90, shard_frames=10)


def visible(folder):
    """Tars and the index by name; hidden files are the command's own bookkeeping."""
    return {p.name: p.read_bytes() for p in folder.glob("[!.]*") if p.name != "versions.json"}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    out = tmp_path_factory.mktemp("frames") / "shards"
    return out, pack_videos([CLIPS], out, SETTINGS, workers=2)


@real_clips
def test_three_real_clips_give_every_fifth_frame_once(packed):
    out, result = packed
    # 221, 125 and 38 frames: ⌈n/5⌉ each
    assert (result["videos"], result["frames"]) == (3, 45 + 25 + 8)
    folder = open_shards(str(out))
    keys = [k for s in folder.shards for c in range(s.num_chunks) for k in s.chunk_keys(c)]
    assert len(set(keys)) == 78
    assert {"solidWhiteRight-0000220", "subclip_0__5-0000120", "test_video-0000035"} <= set(keys)
    assert max(shard.frames for shard in folder.shards) == 10


@real_clips
def test_finished_shards_stay_and_unfinished_ones_are_made_again(packed, tmp_path):
    out, _ = packed
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    # As a kill leaves it: no record, no index, the third shard half written beside its place.
    (copy / ".videos" / "solidWhiteRight.json").unlink()
    (copy / "shards.json").unlink()
    third = copy / "solidWhiteRight-0002.tar"
    third.rename(copy / ".solidWhiteRight-0002.tar.1f2e.tmp")
    kept = {p: p.stat().st_mtime_ns for p in copy.glob("*.tar")}
    pack_videos([CLIPS], copy, SETTINGS, workers=1)
    assert visible(copy) == visible(out)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert not list(copy.glob(".*.tmp"))


@real_clips
@pytest.mark.slow
def test_a_killed_command_given_again_ends_as_an_undisturbed_one(packed, tmp_path):
    out, copy = packed[0], tmp_path / "killed"
    flags = ["--every", "5", "--height", "90", "--shard-frames", "10", "--workers", "1"]
    command = [sys.executable, "-m", "fmce", "frames", str(CLIPS), "--out", str(copy), *flags]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while not list(copy.glob("*-0001.tar")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (copy / "shards.json").exists()
    time.sleep(1)  # the worker notices that its parent is gone
    pack_videos([CLIPS], copy, SETTINGS, workers=1)
    assert visible(copy) == visible(out)


@real_clips
def test_a_damaged_video_is_named_and_leaves_no_shard_behind(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    whole = (CLIPS / "solidWhiteRight.mp4").read_bytes()
    (videos / "cut.mp4").write_bytes(whole[: int(0.6 * len(whole))])
    pack_video(videos / "cut.mp4", tmp_path, SETTINGS)
    assert "cut.mp4" in json.loads((tmp_path / ".videos" / "cut.json").read_text())["damaged"]
    assert not list(tmp_path.glob("*.tar"))


def make_plain(path, level, num_frames):
    """Write a video of one grey level."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(num_frames):
            grey = np.full((48, 64, 3), level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey)))
        container.mux(stream.encode())


def levels(folder):
    """Return each shard's grey level."""
    opened = open_shards(str(folder))
    reader = ShardReader(opened)
    stored = [reader.fetch(shard, 0)[0] for shard in opened.shards]
    return [round(float(np.asarray(Image.open(io.BytesIO(raw))).mean()), -1) for raw in stored]


def test_shards_that_a_killed_call_made_of_another_video_are_made_again(tmp_path):
    video, out = tmp_path / "a.mp4", tmp_path / "out"
    settings = FrameSettings(every=1, shard_frames=10)
    make_plain(video, 20, 40)
    make_plain(tmp_path / "a-0001.mp4", 100, 10)
    videos = [video, tmp_path / "a-0001.mp4"]
    pack_videos(videos, out, settings, workers=1)
    assert levels(out) == [20, 100, 20, 20, 20]  # "a-0001-0000" is before "a-0001"
    # As a kill leaves it: no record, the last shard not written; then the video is another.
    (out / ".videos" / "a.json").unlink()
    (out / "a-0003.tar").unlink()
    other = (out / "a-0001-0000.tar").stat().st_mtime_ns
    make_plain(video, 230, 20)
    pack_videos(videos, out, settings, workers=1)
    assert levels(out) == [230, 100, 230]
    assert not (out / "a-0002.tar").exists()
    assert (out / "a-0001-0000.tar").stat().st_mtime_ns == other  # of a video of a like name


def test_another_video_of_the_same_size_is_refused(tmp_path):
    video, out = tmp_path / "a.mp4", tmp_path / "out"
    make_plain(video, 20, 10)
    pack_videos([video], out, workers=1)
    raw = video.read_bytes()
    video.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(ValueError, match="made from another video"):
        pack_videos([video], out, workers=1)


def test_damaged_videos_beyond_the_rate_are_an_error_that_names_them(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"1 of 1 videos are damaged, more than 50%: .*bad\.mp4"):
        pack_videos([tmp_path / "bad.mp4"], tmp_path / "out", max_damaged=0.5, workers=1)
    assert not (tmp_path / "out" / "shards.json").exists()


@real_clips
def test_more_videos_join_damaged_ones_are_listed_and_excluded_ones_left_out(packed, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(packed[0], out)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    stems = tmp_path / "stems.txt"
    stems.write_text("test_video\n")
    result = pack_videos(
        [CLIPS, tmp_path / "bad.mp4"],
        out,
        SETTINGS,
        exclude=stems,
        max_damaged=0.4,
        workers=1,
    )
    assert (result["videos"], result["frames"], list(result["damaged"])) == (2, 70, ["bad.mp4"])
    assert {s.prefix for s in open_shards(str(out)).shards} == {"solidWhiteRight", "subclip_0__5"}


@real_clips
def test_other_settings_and_other_videos_of_a_name_are_refused(packed, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(packed[0], out)
    with pytest.raises(FileExistsError, match="every"):
        pack_videos([CLIPS], out, FrameSettings(every=3))
    (tmp_path / "test_video.mp4").write_bytes(b"another")
    with pytest.raises(ValueError, match="has 7 bytes, its shards"):
        pack_videos([tmp_path / "test_video.mp4"], out, SETTINGS)
