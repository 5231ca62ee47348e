"""Frames of videos: finding videos, naming their frames, and decoding every n-th one with PyAV.

A video that cannot be decoded to its end counts as damaged.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fmce.data.frames.folders import is_excluded_name
from fmce.data.image_files import Stems, list_images, read_stems

if TYPE_CHECKING:
    from av import VideoFrame

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm")
# Headers may announce a frame or two too many; a truncated file lacks far more.
_PROMISED_SHARE = 0.95
# A hole between two frames is this many times longer than 95 % of the steps (rates vary), and at least
# as long as a camera's hiccup in seconds.
_HOLE_STEPS = 5
_LEAST_HOLE = 0.2
# JPEG subsampling of colour by two in both directions, as in the video frames themselves.
_SUBSAMPLING = 2


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
    kept = [path for path in found if not is_excluded_name(path.stem, out)]
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
    videos = list_images(source, VIDEO_SUFFIXES)
    if not videos:
        raise ValueError(f"{source} holds no videos ({', '.join(VIDEO_SUFFIXES)})")
    return videos


def decode_video(path: Path, every: int, *, threads: int = 1) -> Iterator[tuple[int, "VideoFrame"]]:
    """Yield frames 0, n, 2n, … of a video with their numbers.

    Args:
        path: The video; its first video stream is decoded.
        every: Step n between the frames kept.
        threads: Threads of the decoder; they do not change the frames.

    Yields:
        Number and frame in the colour format of the video.

    Raises:
        DamagedVideoError: If the video does not open, has no video stream, holds a corrupt frame, or ends
            before its header says; where the header has no number of frames (Matroska, WebM), if the
            times of the frames end early or have a hole.
        ModuleNotFoundError: If PyAV is not installed.
    """
    av = _pyav()
    times: list[float | None] = []
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DamagedVideoError(f"{path} has no video stream")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = threads
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise DamagedVideoError(f"{path}: frame {len(times)} is corrupt")
                if len(times) % every == 0:
                    yield len(times), frame
                times.append(frame.time)
            promised, seconds = stream.frames, _seconds(container, stream)
    except av.error.FFmpegError as error:
        raise DamagedVideoError(f"{path}: {error.strerror} after {len(times)} frames") from error
    if not times or len(times) < _PROMISED_SHARE * promised:
        raise DamagedVideoError(f"{path} ends after {len(times)} of {promised} frames")
    if not promised:
        _expect_no_hole(path, [time for time in times if time is not None], seconds)


def _seconds(container: Any, stream: Any) -> float | None:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration else None


def _expect_no_hole(path: Path, times: Sequence[float], seconds: float | None) -> None:
    """Compare the ascending times of the frames with the duration of the video and with one another."""
    if len(times) < 2:
        return
    steps = np.diff(times)
    usual = float(np.quantile(steps, 0.95))
    covered = times[-1] - times[0] + float(np.median(steps))
    if seconds is not None and covered < _PROMISED_SHARE * seconds:
        raise DamagedVideoError(f"{path} ends after {covered:.1f} of {seconds:.1f} s")
    hole = int(steps.argmax())
    if steps[hole] > max(_LEAST_HOLE, _HOLE_STEPS * usual):
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
        size = (max(2, round(upright[0] * height / upright[1] / 2) * 2), height)
        width, high = reversed(size) if sideways else size
        frame = frame.reformat(width=width, height=high, interpolation="AREA")
    stored = io.BytesIO()
    image: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]
    if turn:
        image = image.rotate(turn, expand=True)
    image.save(stored, "JPEG", quality=quality, subsampling=_SUBSAMPLING)
    return stored.getvalue()


def _pyav() -> Any:
    try:
        import av
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "decoding videos needs PyAV; install it with: pip install 'fmce[frames]'"
        ) from error
    av.logging.set_level(av.logging.PANIC)  # `DamagedVideoError` reports damage, once per video
    return av
