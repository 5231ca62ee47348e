"""Which frames of a video are kept, under which keys, and what counts as damaged; videos made here."""

import io

import numpy as np
import pytest
from PIL import Image

from fmce.data.video import DamagedVideoError, FrameSettings, decode_video, list_videos, to_jpeg

av = pytest.importorskip("av")


def grey_level(number):
    return 40 + 9 * (number % 20)


def make_video(path, num_frames=12, height=48, width=64):
    """Write a video whose frame n is grey of its own level."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = 4_000_000
        for number in range(num_frames):
            grey = np.full((height, width, 3), grey_level(number), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey)))
        container.mux(stream.encode())
    return path


def cut(path, share):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    return path


def test_every_fifth_frame_is_kept_with_its_number_and_its_content(tmp_path):
    frames = list(decode_video(make_video(tmp_path / "a.mp4"), 5))
    assert [number for number, _ in frames] == [0, 5, 10]
    for number, frame in frames:
        mean = frame.to_ndarray(format="rgb24").mean()
        assert mean == pytest.approx(grey_level(number), abs=3)  # lossy


def test_a_higher_frame_is_shrunk_in_proportion_and_a_lower_one_kept(tmp_path):
    (_, frame), *_ = decode_video(make_video(tmp_path / "a.mp4", height=48, width=64), 5)
    sizes = [Image.open(io.BytesIO(to_jpeg(frame, height, 90))).size for height in (24, 100, None)]
    assert sizes == [(32, 24), (64, 48), (64, 48)]


def test_lower_quality_makes_smaller_files(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    frame = av.VideoFrame.from_ndarray(noise)
    assert len(to_jpeg(frame, None, 30)) < len(to_jpeg(frame, None, 90)) / 2


def test_a_video_cut_short_is_damaged(tmp_path):
    path = make_video(tmp_path / "a.avi", num_frames=40)
    assert len(list(decode_video(path, 1))) == 40
    with pytest.raises(DamagedVideoError, match=r"a\.avi"):
        list(decode_video(cut(path, 0.5), 1))


@pytest.mark.parametrize("content", [b"", b"no video"])
def test_a_file_that_is_no_video_is_damaged(tmp_path, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(DamagedVideoError, match=r"a\.mp4.*after 0 frames"):
        list(decode_video(path, 1))


def test_videos_are_listed_nested_and_by_prefix_without_excluded_ones(tmp_path):
    (tmp_path / "day").mkdir()
    names = ["b.mp4", "day/a.front.MOV", "b1c81faa-3df17267.mp4", "notes.txt"]
    for name in names:
        (tmp_path / name).touch()
    found = list_videos([tmp_path], exclude=["b1c81faa-3df17267"])
    assert list(found) == ["a_front", "b"]
    assert found["a_front"] == tmp_path / "day/a.front.MOV"


def test_two_videos_of_one_name_are_refused(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.mp4").touch()
    with pytest.raises(ValueError, match=r"x/a\.mp4 and .*y/a\.mp4 would have the same keys"):
        list_videos([tmp_path])


def test_missing_videos_and_empty_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"found none at .*nowhere"):
        list_videos([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="holds no videos"):
        list_videos([tmp_path])


@pytest.mark.parametrize(
    "wrong", [{"every": 0}, {"height": 4}, {"quality": 101}, {"shard_frames": 0}]
)
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        FrameSettings(**wrong)
