"""Lines of the table: videos to shards beside ffmpeg, shards to batches beside webdataset."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.table.lines import Effort, Found, Line, ratio, silent
from fmce.data.augmentation import Augmentation
from fmce.data.frames.batches import FrameBatches
from fmce.data.frames.pool import FramePool
from fmce.data.frames.shards import open_shards
from fmce.data.frames.table import FrameTable, ShardFrames
from fmce.data.frames.video import FrameSettings
from fmce.distillation.pack_videos import pack_videos

HEIGHT, WIDTH, BATCH = 360, 640, 16


def lines() -> list[Line]:
    """Return the lines."""
    return [
        Line(
            "video → shards, frames/s of a core",
            "ffmpeg to JPEG",
            packing,
            0.9,
            "at least",
            why={"": "the JPEG encoder is two thirds of it, and shards get digests and an index"},
        ),
        Line(
            "shards → batches, frames/s of a core",
            "webdataset's reading",
            loading,
            0.95,
            "at least",
        ),
    ]


def film(path: Path, frames: int) -> None:
    """Encode a moving pattern."""
    import av

    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 256, (HEIGHT // 20, WIDTH // 10, 3), dtype=np.uint8)
    pattern = coarse.repeat(20, 0).repeat(20, 1)  # twice as wide as a frame
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(frames):
            left = 4 * number % WIDTH
            picture = np.ascontiguousarray(pattern[:, left : left + WIDTH])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())


def packing(effort: Effort) -> Found:
    """Time every second frame in JPEG of quality 90, by one process and one thread."""
    import imageio_ffmpeg

    with tempfile.TemporaryDirectory() as name:
        video, turn = Path(name) / "film.mp4", iter(range(1000))
        film(video, effort.size(200, 50))

        def ours() -> None:
            pack_videos(
                [video], Path(name) / f"ours{next(turn)}", FrameSettings(every=2), workers=1
            )

        def theirs() -> None:
            out = Path(name) / f"theirs{next(turn)}"
            out.mkdir()
            silent(
                [imageio_ffmpeg.get_ffmpeg_exe(), "-threads", "1", "-i", str(video), "-vf",
                 "select=not(mod(n\\,2))", "-fps_mode", "passthrough", "-q:v", "3", str(out / "%06d.jpg")]
            )  # fmt: skip

        return {f"{HEIGHT}×{WIDTH}": ratio(theirs, ours, effort.turns(5))}


def loading(effort: Effort) -> Found:
    """Time batches of frames at their own size, shuffled, normalised and without variation, in one process."""
    import webdataset

    with tempfile.TemporaryDirectory() as name:
        video, folder = Path(name) / "film.mp4", Path(name) / "shards"
        film(video, effort.size(200, 50))
        result = pack_videos([video], folder, FrameSettings(every=1), workers=1)
        count = result["frames"] // BATCH
        table = FrameTable([ShardFrames(open_shards(str(folder)))])
        pool = FramePool(table, HEIGHT, WIDTH, shuffle_buffer=64)
        mean, std = (0.4,) * 3, (0.25,) * 3
        batches = FrameBatches(pool, Augmentation(mean, std, zoom=1.0), BATCH, count, seed=0)
        ours = through(batches)
        tars = sorted(map(str, folder.rglob("*.tar")))
        shift, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in (mean, std))

        def theirs() -> None:
            stream = webdataset.WebDataset(tars, shardshuffle=False).shuffle(64).decode("rgb8")
            stack = []
            for sample in stream:
                stack.append(next(v for k, v in sample.items() if k.endswith("jpg")))
                if len(stack) == BATCH:
                    images = torch.from_numpy(np.stack(stack)).permute(0, 3, 1, 2)
                    _ = (images.float() / 255 - shift) / scale
                    stack.clear()

        return {f"{HEIGHT}×{WIDTH}": ratio(theirs, ours, effort.turns(5))}


def through(batches: FrameBatches) -> Callable[[], None]:
    """Return a function that goes through an epoch, another one each time."""
    epochs = iter(range(1, 1000))

    def epoch() -> None:
        for _ in batches.epoch(next(epochs)):
            pass

    return epoch
