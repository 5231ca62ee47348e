"""Which frames of a video are kept, under which keys, and what counts as damaged; videos made here."""

import io
import logging
import struct
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from fmce.data.frames.video import (
    DamagedVideoError,
    FrameSettings,
    decode_video,
    list_videos,
    to_jpeg,
)
from tests.inputs import INPUTS

av = pytest.importorskip("av")


def grey_level(number):
    return 40 + 9 * (number % 20)


def make_video(path, num_frames=12, height=48, width=64, codec="mpeg4", start=0):
    """Write a video whose frame n is grey of its own level; the first is shown after `start` seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = 4_000_000
        for number in range(num_frames):
            grey = np.full((height, width, 3), grey_level(number), np.uint8)
            frame = av.VideoFrame.from_ndarray(grey)
            frame.pts, frame.time_base = 25 * start + number, Fraction(1, 25)
            container.mux(stream.encode(frame))
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


@pytest.mark.parametrize(("height", "width"), [(48, 64), (47, 63), (48, 63)])
@pytest.mark.parametrize("colours", ["ITU601", "ITU709"])
@pytest.mark.parametrize("levels", ["MPEG", "JPEG"])
def test_a_frame_is_stored_in_its_colours(height, width, colours, levels):
    down, across = np.mgrid[0:height, 0:width]
    picture = np.stack([across * 4, down * 5, 255 - across * 2 - down * 2], axis=2).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(picture).reformat(
        format="yuv420p", dst_colorspace=colours, dst_color_range=levels
    )
    shown = np.asarray(Image.open(io.BytesIO(to_jpeg(frame, None, 95))), int)
    assert shown.shape == picture.shape
    assert np.abs(shown - picture).mean() < 3


def test_lower_quality_makes_smaller_files(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    frame = av.VideoFrame.from_ndarray(noise)
    assert len(to_jpeg(frame, None, 30)) < len(to_jpeg(frame, None, 90)) / 2


def test_a_video_cut_short_is_damaged(tmp_path):
    path = make_video(tmp_path / "a.avi", num_frames=40)
    assert len(list(decode_video(path, 1))) == 40
    with pytest.raises(DamagedVideoError, match=r"a\.avi"):
        list(decode_video(cut(path, 0.5), 1))


def make_noise(path, codec, times):
    """Write a video of noise, whose frames are shown at the given times in milliseconds."""
    draw = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1000)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = 12
        for time in times:
            frame = av.VideoFrame.from_ndarray(draw.integers(0, 256, (48, 64, 3), np.uint8))
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


STEADY = range(0, 4000, 40)
MATROSKA = [("a.mkv", "mpeg4"), ("a.webm", "libvpx")]


@pytest.mark.parametrize(("name", "codec"), MATROSKA)
def test_a_matroska_video_cut_short_is_damaged_though_it_tells_no_number(tmp_path, name, codec):
    path = make_noise(tmp_path / name, codec, STEADY)
    assert len(list(decode_video(path, 1))) == 100
    with pytest.raises(DamagedVideoError, match=rf"{name} ends after [23]\.\d of 4\.\d s"):
        list(decode_video(cut(path, 0.7), 1))


@pytest.mark.parametrize(("name", "codec"), MATROSKA)
def test_a_matroska_video_with_a_hole_is_damaged(tmp_path, name, codec):
    path = make_noise(tmp_path / name, codec, STEADY)
    raw = bytearray(path.read_bytes())
    middle, hole = len(raw) // 2, len(raw) // 10
    raw[middle : middle + hole] = bytes(hole)
    path.write_bytes(raw)
    with pytest.raises(DamagedVideoError, match=r"no frames for 0\.\d s after frame|is corrupt"):
        list(decode_video(path, 1))


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_a_pause_in_an_undamaged_file_is_no_damage(tmp_path, name):
    path = make_noise(tmp_path / name, "mpeg4", [*range(0, 2000, 40), *range(8000, 10000, 40)])
    assert len(list(decode_video(path, 1))) == 100


def test_missing_frames_where_bytes_are_missing_too_are_told_with_their_place(tmp_path):
    path = make_noise(tmp_path / "a.mkv", "mjpeg", STEADY)
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux() if packet.pos is not None]
    raw = bytearray(path.read_bytes())
    raw[places[40] : places[60]] = bytes(places[60] - places[40])
    path.write_bytes(raw)
    with pytest.raises(
        DamagedVideoError, match=r"no frames for \d\.\d s after frame 39, at 1\.6 s"
    ):
        list(decode_video(path, 1))


def test_a_changing_rate_is_no_damage(tmp_path):
    times = [*range(0, 1000, 20), *range(1000, 3000, 100), 3150, 3300]  # 50, 10 and 7 a second
    path = make_noise(tmp_path / "a.mkv", "mpeg4", times)
    assert len(list(decode_video(path, 1))) == 72


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        ("a_trim.mp4", 127),
        ("c_audio_longer.mkv", 150),
        ("c_audio_longer.webm", 150),
        ("d_cover_index0.mp4", 300),
        ("13-mixed/front.mp4", 50),
        ("13-mixed/rear.TS", 300),
    ],
)
def test_a_healthy_video_decodes_to_its_shown_frames(name, frames):
    numbers = [number for number, _ in decode_video(INPUTS / "videos" / name, 5)]
    assert numbers == list(range(0, frames, 5))


def edited(path, *edits):
    """Replace the edit list of a video: lengths in ms and first times in the media, −1 for an empty edit."""
    raw = bytearray(path.read_bytes())
    place = raw.index(b"edts") - 4
    (size,) = struct.unpack_from(">I", raw, place)
    rows = b"".join(struct.pack(">Iihh", *edit, 1, 0) for edit in edits)
    content = struct.pack(">I", 16 + len(rows)) + b"elst" + struct.pack(">II", 0, len(edits)) + rows
    raw[place : place + size] = struct.pack(">I", 8 + len(content)) + b"edts" + content
    for box in (b"moov", b"trak"):
        start = raw.index(box) - 4
        (old,) = struct.unpack_from(">I", raw, start)
        struct.pack_into(">I", raw, start, old + 8 + len(content) - size)
    path.write_bytes(raw)
    return path


SECOND = 12800  # of the media's clock


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.m4v"])
@pytest.mark.parametrize(
    ("edits", "frames"),
    [
        ([(1000, 2 * SECOND)], 25),  # the second from 2 s on
        ([(1000, SECOND), (1000, 3 * SECOND)], 50),
        ([(2000, -1), (1000, SECOND)], 25),  # nothing is shown for two seconds
        ([(3000, 0), (3000, 0)], 150),  # shown twice
    ],
)
def test_edit_lists_decide_which_frames_are_shown(tmp_path, name, edits, frames):
    path = edited(make_video(tmp_path / name, num_frames=100), *edits)
    assert len(list(decode_video(path, 1))) == frames


@pytest.mark.parametrize(
    "name", ["a.mp4", "a.mov", "a.mkv", "a.ts", "a.m2ts", "a.flv", "a.3gp", "a.WMV"]
)
@pytest.mark.parametrize("start", [0, 1, 100])
def test_a_video_may_start_at_any_time(tmp_path, name, start):
    codec = {"ts": "mpeg2video", "m2ts": "mpeg2video", "flv": "flv1", "WMV": "wmv2"}
    path = make_video(tmp_path / name, 50, codec=codec.get(name[2:], "mpeg4"), start=start)
    assert len(list(decode_video(path, 1))) == 50
    assert list(list_videos([tmp_path])) == ["a"]


def test_segments_begin_where_their_video_was_cut(tmp_path):
    whole = make_video(tmp_path / "whole.mp4", 100, codec="mpeg2video")
    for kind, name in (("mpegts", "ts"), ("matroska", "mkv"), ("mp4", "mp4")):
        folder = tmp_path / name
        folder.mkdir()
        options = {"segment_format": kind, "segment_time": "1"}
        with (
            av.open(str(whole)) as video,
            av.open(str(folder / f"%03d.{name}"), "w", format="segment", options=options) as parts,
        ):
            stream = parts.add_stream_from_template(video.streams.video[0])
            for packet in video.demux():
                if packet.size:
                    packet.stream = stream
                    parts.mux(packet)
        found = [len(list(decode_video(path, 1))) for path in sorted(folder.iterdir())]
        assert len(found) > 2
        assert sum(found) == 100


def test_a_recorded_stream_may_begin_in_the_middle_and_jump_in_time(tmp_path):
    path = make_video(tmp_path / "a.ts", 100, codec="mpeg2video")
    other = make_video(tmp_path / "b.ts", 50, codec="mpeg2video", start=5000)
    raw = path.read_bytes()
    packets = len(raw) // 188
    path.write_bytes(raw[packets // 3 * 188 :])
    left = len(list(decode_video(path, 1)))
    assert 20 < left < 100
    for first, second in ((path, other), (other, path)):
        joined = tmp_path / "joined.ts"
        joined.write_bytes(first.read_bytes() + second.read_bytes())
        assert len(list(decode_video(joined, 1))) == left + 50


def test_a_cover_picture_is_no_film(tmp_path):
    film = make_video(tmp_path / "film.mp4", num_frames=20)
    cover = io.BytesIO()
    Image.new("RGB", (16, 16)).save(cover, "JPEG")
    for name, with_film in (("a.mkv", True), ("b.mkv", False)):
        with av.open(str(film)) as video, av.open(str(tmp_path / name), "w") as out:
            if with_film:
                stream = out.add_stream_from_template(video.streams.video[0])
            else:
                stream = out.add_stream("aac", rate=48000)
            out.add_attachment("cover.jpg", "image/jpeg", cover.getvalue())
            if with_film:
                for packet in video.demux():
                    if packet.size:
                        packet.stream = stream
                        out.mux(packet)
            else:
                silence = av.AudioFrame.from_ndarray(
                    np.zeros((1, 1024), np.float32), "fltp", "mono"
                )
                silence.sample_rate, silence.pts = 48000, 0
                out.mux([*stream.encode(silence), *stream.encode()])
    assert len(list(decode_video(tmp_path / "a.mkv", 1))) == 20
    with pytest.raises(DamagedVideoError, match=r"b\.mkv has no video stream but a cover picture"):
        list(decode_video(tmp_path / "b.mkv", 1))


# What the header's matrix does to x and y, and where the stored picture's left edge is then shown.
TURNS = {
    (0, 1, -1, 0): "top",  # a quarter clockwise
    (0, -1, 1, 0): "bottom",
    (-1, 0, 0, -1): "right",
}


@pytest.mark.parametrize("matrix", TURNS)
@pytest.mark.parametrize("height", [None, 24])
def test_a_turned_video_is_stored_upright(tmp_path, matrix, height):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[:, :32] = 255
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    raw = bytearray(path.read_bytes())
    place = raw.find(b"tkhd") + 4 + 4 + 20 + 8 + 8  # version 0's dates, layer and volume before it
    a, b, c, d = matrix
    fields = [value * 2**16 for value in (a, b, 0, c, d, 0, 0, 0, 0)]
    raw[place : place + 36] = struct.pack(">9i", *fields[:8], 2**30)
    path.write_bytes(raw)
    ((_, frame),) = decode_video(path, 1)
    shown = Image.open(io.BytesIO(to_jpeg(frame, height, 90)))
    across, down = (64, 48) if a else (48, 64)
    scale = 1 if height is None else height / down
    assert shown.size == (round(across * scale / 2) * 2, round(down * scale))
    levels = np.asarray(shown.convert("L"), float)
    third = {axis: size // 3 for axis, size in enumerate(levels.shape)}
    edges = {
        "top": levels[: third[0]],
        "bottom": levels[-third[0] :],
        "left": levels[:, : third[1]],
        "right": levels[:, -third[1] :],
    }
    assert max(edges, key=lambda name: edges[name].mean()) == TURNS[matrix]


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


def test_videos_of_every_ending_are_taken_and_others_counted_aloud(tmp_path, caplog):
    for name in ("front.mp4", "rear.TS", "side.m2ts", "log.csv", "b.csv", "cover.jpg", "README"):
        (tmp_path / name).touch()
    with caplog.at_level(logging.INFO, "fmce"):
        assert list(list_videos([tmp_path])) == ["front", "rear", "side"]
    assert caplog.messages == [f"{tmp_path}: left out by their ending: 2 .csv, 1 .jpg, 1 README"]


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
