"""Frames of videos: finding videos, naming their frames, and decoding every n-th one with PyAV.

A video that cannot be decoded to its end counts as damaged.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from fmce.console.log import logger
from fmce.data.frames.folders import excluding_names, is_excluded_name
from fmce.data.image_files import (
    VIDEO_SUFFIXES,
    Stems,
    first_names,
    list_images,
    read_stems,
    stem_of,
)

if TYPE_CHECKING:
    from av import VideoFrame

# Streams as they were broadcast or recorded: they begin and end anywhere, and no header says how long they are.
_RECORDED_STREAMS = ("mpegts", "mpeg")
_STILLS = 0x400 | 0x800  # FFmpeg's dispositions of cover pictures and of thumbnails
# Bytes of headers that may lie between two packets.
_OVERHEAD = 1024
# Headers may announce a frame or two too many; a truncated file lacks far more.
_PROMISED_SHARE = 0.95
# A hole between two frames is this many times longer than 95 % of the steps (rates vary), and at least
# as long as a camera's hiccup in seconds.
_HOLE_STEPS = 5
_LEAST_HOLE = 0.2


class DamagedVideoError(ValueError):
    """A video cannot be opened, or not decoded to its end."""


@dataclass(frozen=True)
class FrameSettings:
    """Which frames of a video are kept and how they are stored."""

    every: int = 5
    """Keeps frames 0, n, 2n, … of the decoded frames."""
    height: int | None = None
    """Largest height in pixels; larger frames are shrunk in proportion. None keeps their size."""
    quality: int = 90
    """JPEG quality."""
    shard_frames: int = 1000
    """Largest number of frames per shard; a shard holds frames of one video."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: If a value is out of its range.
        """
        _expect("every", self.every, self.every >= 1, "at least 1")
        _expect("height", self.height, self.height is None or self.height >= 8, "8 pixels or more")
        _expect("quality", self.quality, 1 <= self.quality <= 100, "in 1 … 100")
        _expect("shard_frames", self.shard_frames, self.shard_frames >= 1, "at least 1")


def _expect(name: str, value: object, holds: bool, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {wanted}, got {value}")


def frame_prefix(name: str) -> str:
    """Return the prefix of the keys of a video's frames: its stem with underscores for dots.

    In a WebDataset tar a key ends at the first dot.

    >>> frame_prefix("day.2/b1c81faa-3df17267.mov"), frame_prefix("drive.front.mp4")
    ('b1c81faa-3df17267', 'drive_front')
    """
    return Path(name).stem.replace(".", "_")


def frame_key(prefix: str, number: int) -> str:
    """Return a frame's key: its video's prefix and its number among the decoded frames.

    >>> frame_key("b1c81faa-3df17267", 15)
    'b1c81faa-3df17267-0000015'
    """
    return f"{prefix}-{number:07d}"


def list_videos(sources: Sequence[Path | str], *, exclude: Stems = ()) -> dict[str, Path]:
    """Return the videos of files and nested folders, without excluded ones.

    Args:
        sources: Video files, and folders of them.
        exclude: Videos to leave out.

    Returns:
        File by prefix of the keys of its frames, sorted.

    Raises:
        ValueError: If a source is missing, two videos would give frames of the same keys, or none is
            left.
    """
    out = read_stems(exclude)
    found = list(dict.fromkeys(path for source in sources for path in _videos_of(Path(source))))
    kept = [path for path in found if not is_excluded_name(stem_of(path.name), out)]
    unmatched = sorted(map(str, out.difference(*map(excluding_names, found))))
    if unmatched:
        logger.warning(
            "%d of %d stems to leave out match no video: %s",
            len(unmatched),
            len(out),
            first_names(unmatched),
        )
    if not kept:
        raise ValueError(
            f"expected videos ({', '.join(VIDEO_SUFFIXES)}), found {len(found)}, all excluded"
        )
    videos: dict[str, Path] = {}
    for path in kept:
        other = videos.setdefault(frame_prefix(path.name), path)
        if other != path:
            raise ValueError(
                f"frames of {other} and {path} would have the same keys "
                f"({frame_prefix(path.name)}-…); rename one, or pack them into different folders"
            )
    return dict(sorted(videos.items()))


def _videos_of(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise ValueError(f"expected a video or a folder of videos, found none at {source}")
    videos = list_images(source, VIDEO_SUFFIXES, aloud=True)
    if not videos:
        raise ValueError(f"{source} holds no videos ({', '.join(VIDEO_SUFFIXES)})")
    return videos


def decode_video(path: Path, every: int, *, threads: int = 1) -> Iterator[tuple[int, "VideoFrame"]]:
    """Yield frames 0, n, 2n, … of a video with their numbers.

    Frames that an edit list hides are not counted.

    Args:
        path: The video; its first video stream that is no cover picture is decoded.
        every: Step n between the frames kept.
        threads: Threads of the decoder; they do not change the frames.

    Yields:
        Number and frame in the colour format of the video.

    Raises:
        DamagedVideoError: If the video does not open, has no moving picture, holds a corrupt frame, or ends
            before its header says; where the header has no number of frames (Matroska, WebM), if all streams
            end early, or bytes and frames are missing in between.
        ModuleNotFoundError: If PyAV is not installed.
    """
    av = _pyav()
    seen = _Seen()
    try:
        with av.open(str(path)) as container:
            stream = _moving_picture(path, container)
            stream.codec_context.thread_count = threads
            begins_anywhere = container.format.name in _RECORDED_STREAMS
            for packet in container.demux():
                seen.packet(packet, shown=packet.stream is stream)
                if packet.stream is not stream:
                    continue
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:
                    if seen.times or not begins_anywhere:
                        raise
                    continue  # what the first complete picture would need lies before the file
                for frame in frames:
                    if frame.is_corrupt:
                        raise DamagedVideoError(f"{path}: frame {len(seen.times)} is corrupt")
                    number = len(seen.times)
                    seen.times.append(frame.time)
                    if number % every == 0:
                        yield number, frame
            _refuse_incomplete(path, seen, container, stream)
    except av.error.FFmpegError as error:
        raise DamagedVideoError(
            f"{path}: {error.strerror} after {len(seen.times)} frames"
        ) from error


def _moving_picture(path: Path, container: Any) -> Any:
    """Return the first video stream that is neither a cover picture nor thumbnails."""
    for stream in container.streams.video:
        if not stream.disposition & _STILLS:
            return stream
    stills = " but a cover picture" if container.streams.video else ""
    raise DamagedVideoError(f"{path} has no video stream{stills}")


@dataclass
class _Seen:
    """What was met on the way through a video.

    Attributes:
        times: When each frame is shown, in seconds.
        packets: Packets of the picture that are to be shown.
        end: When the packets of all streams end, in seconds.
        lost: Times before which bytes of the file belong to no packet.
    """

    times: list[float | None] = field(default_factory=list)
    packets: int = 0
    end: float = -math.inf
    lost: list[float] = field(default_factory=list)
    _next_byte: int | None = None

    def packet(self, packet: Any, *, shown: bool) -> None:
        """Note a packet, of the stream that is shown or of another."""
        if not packet.size or packet.pts is None:
            return
        self.packets += shown and not packet.is_discard
        time = float(packet.pts * packet.time_base)
        self.end = max(self.end, time + float((packet.duration or 0) * packet.time_base))
        if packet.pos is not None:
            if self._next_byte is not None and packet.pos > self._next_byte + _OVERHEAD:
                self.lost.append(time)
            self._next_byte = max(self._next_byte or 0, packet.pos + packet.size)


def _refuse_incomplete(path: Path, seen: _Seen, container: Any, stream: Any) -> None:
    """Compare what was decoded with what the header says.

    Raises:
        DamagedVideoError: If the video ends early, or lacks frames in between.
    """
    decoded, promised = len(seen.times), stream.frames
    if not decoded:
        raise DamagedVideoError(f"{path} ends after 0 of {promised} frames")
    times = [time for time in seen.times if time is not None]
    if (promised and decoded >= _PROMISED_SHARE * promised) or len(times) < 2:
        return
    if container.format.name in _RECORDED_STREAMS:  # they say no length, and may jump in time
        return
    steps = np.diff(times)
    covered = times[-1] - times[0] + float(np.median(steps))
    if stream.duration:
        length, start = (
            float(t * stream.time_base) for t in (stream.duration, stream.start_time or 0)
        )
    else:  # of the longest stream, which need not be the picture
        length, start = (container.duration or 0) / 1e6, (container.start_time or 0) / 1e6
        covered = max(covered, seen.end - start)
    length -= (
        start if length > start else 0
    )  # some programs count it from 0, some from the first picture
    complete = covered >= _PROMISED_SHARE * length
    if promised and (not complete or decoded < _PROMISED_SHARE * seen.packets):
        raise DamagedVideoError(f"{path} ends after {decoded} of {promised} frames")
    if not complete:
        raise DamagedVideoError(f"{path} ends after {covered:.1f} of {length:.1f} s")
    if not promised:
        _refuse_hole(path, times, steps, seen.lost)


def _refuse_hole(
    path: Path, times: Sequence[float], steps: NDArray[np.float64], lost: Sequence[float]
) -> None:
    """Refuse a long step between frames where bytes are missing; without that, it is a pause."""
    usual = float(np.quantile(steps, 0.95))
    for hole in np.flatnonzero(steps > max(_LEAST_HOLE, _HOLE_STEPS * usual)).tolist():
        if any(times[hole] < time <= times[hole + 1] for time in lost):
            raise DamagedVideoError(
                f"{path} has no frames for {steps[hole]:.1f} s after frame {hole}, at {times[hole]:.1f} s"
            )


def to_jpeg(frame: "VideoFrame", height: int | None, quality: int) -> bytes:
    """Encode a frame as JPEG, rotated upright as the video demands.

    Args:
        frame: From `decode_video`.
        height: Largest height of the upright frame in pixels; None keeps its size.
        quality: JPEG quality, 1 … 100.
    """
    turn = frame.rotation  # degrees counter-clockwise
    sideways = turn % 180 == 90
    upright = (frame.height, frame.width) if sideways else (frame.width, frame.height)
    if height is not None and upright[1] > height:
        # An even side, as subsampled colours need.
        upright = (max(2, round(upright[0] * height / upright[1] / 2) * 2), height)
    width, high = reversed(upright) if sideways else upright
    if width % 2 or high % 2:
        rgb = frame.reformat(width, high, "rgb24", interpolation="AREA").to_ndarray()
        pixels = np.ascontiguousarray(np.rot90(rgb, turn // 90))
        return bytes(simplejpeg.encode_jpeg(pixels, quality, "RGB", "420", fastdct=False))
    # As JPEG has it, all 8-bit levels and BT.601; by way of RGB it takes a third longer.
    converted = frame.reformat(
        width, high, "yuvj420p", dst_colorspace="ITU601", interpolation="AREA"
    )
    planes = [_upright(plane, turn) for plane in converted.planes]
    return bytes(simplejpeg.encode_jpeg_yuv_planes(*planes, quality, fastdct=False))


def _upright(plane: Any, turn: int) -> NDArray[np.uint8]:
    """Return a plane of a frame, turned counter-clockwise by degrees."""
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return np.ascontiguousarray(np.rot90(rows[: plane.height, : plane.width], turn // 90))


def _pyav() -> Any:
    try:
        import av
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "decoding videos needs PyAV; install it with: pip install 'fmce[frames]'"
        ) from error
    av.logging.set_level(av.logging.PANIC)  # `DamagedVideoError` reports damage, once per video
    return av
