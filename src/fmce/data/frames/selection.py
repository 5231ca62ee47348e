"""Which frames make a pool, and which are held out so that no similar frame is in the pool."""

from collections.abc import Iterable, Sequence

import numpy as np

from fmce.data.frames.shards import CHUNK
from fmce.data.frames.table import FileFrames, FrameTable, Numbers, ShardFrames

# Largest fraction of all frames that may be lost to the pool for the sake of held-out frames.
_MOST_OUT = 0.1


def choose_frames(
    sources: Iterable[ShardFrames | FileFrames],
    dropped: Iterable[int],
    *,
    held_out: int,
    limit: int | None,
    seed: int,
) -> tuple[FrameTable, FrameTable]:
    """Return the table of a pool of limited size, and that of the frames held out; the seed draws both.

    Args:
        sources: Where the frames are.
        dropped: Positions, over all sources, that must not be used.
        held_out: Frames to hold out, as in `hold_out_videos`.
        limit: Largest size of the pool in frames; None takes all.
        seed: 0 or more.
    """
    sources = list(sources)
    everything = FrameTable(sources, dropped=dropped)
    sizes = np.concatenate([np.zeros(0, np.int64), *(source.sizes for source in sources)])
    free = np.setdiff1d(np.arange(sizes.sum()), everything.dropped)
    draw = np.random.default_rng(seed)
    held, unused = hold_out_videos(video_numbers(sources)[free], held_out, draw)
    kept_out = FrameTable(sources, dropped=np.setdiff1d(np.arange(sizes.sum()), free[held]))
    out = np.concatenate([everything.dropped, free[held], free[unused]])
    rest = FrameTable(sources, dropped=out)
    if limit is None or limit >= len(rest):
        return rest, kept_out
    order = draw.permutation(len(sizes))
    enough = int(np.searchsorted(rest.sizes[order].cumsum(), limit)) + 1
    chunks = np.sort(order[:enough])
    # The last chunk drawn gives only the frames that are still wanted.
    last = int(order[enough - 1])
    surplus = int(rest.sizes[order[:enough]].sum()) - limit
    ends = sizes.cumsum()
    mine = np.setdiff1d(np.arange(ends[last] - sizes[last], ends[last]), out)
    out = np.concatenate([out, mine[len(mine) - surplus :]])
    return FrameTable(sources, chunks=chunks, dropped=out), kept_out


def hold_out_videos(
    videos: Numbers, count: int, draw: np.random.Generator
) -> tuple[Numbers, Numbers]:
    """Choose frames to hold out; their neighbours show the same things, so they leave the pool as well.

    Videos are drawn at random with 16 frames each, or with all their frames where 16 each would cost the
    pool too much. Where even that would cost a tenth of all frames, the last frames are held out.

    Args:
        videos: Number of each frame's video, int64 (N,), with the frames of a video together.
        count: Frames wanted, at most N.
        draw: Draws the videos.

    Returns:
        Positions of the frames held out, and of those that neither side has, ascending.
    """
    nobody = np.zeros(0, np.int64)
    count = min(count, len(videos))
    if count == 0:
        return nobody, nobody
    names, sizes = np.unique(videos, return_counts=True)
    order = draw.permutation(len(names))
    for most in (CHUNK, len(videos)):
        enough = int(np.searchsorted(np.minimum(sizes, most)[order].cumsum(), count)) + 1
        chosen = order[:enough]
        if enough <= len(order) and sizes[chosen].sum() <= max(count, _MOST_OUT * len(videos)):
            theirs = np.flatnonzero(np.isin(videos, names[chosen]))
            held = theirs[np.linspace(0, len(theirs) - 1, count).round().astype(np.int64)]
            return held, np.setdiff1d(theirs, held)
    return np.arange(len(videos) - count, len(videos)), nobody


def video_numbers(sources: Sequence[ShardFrames | FileFrames]) -> Numbers:
    """Return the number of each frame's video, over all sources; a file counts as a video."""
    found, count = [np.zeros(0, np.int64)], 0
    for source in sources:
        if isinstance(source, FileFrames):
            own = np.arange(len(source.paths))
        else:
            shards = source.folder.shards
            numbers = np.unique([shard.prefix for shard in shards], return_inverse=True)[1]
            own = np.repeat(numbers, [shard.frames for shard in shards])
        found.append(own + count)
        count += int(own.max()) + 1 if len(own) else 0
    return np.concatenate(found)
