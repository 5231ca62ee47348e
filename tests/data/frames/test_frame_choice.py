"""Frames held out of a pool have no neighbours in it: whole videos, or the end of the frames."""

import numpy as np
import pytest

from fmce.data.frames.selection import choose_frames, hold_out_videos, video_numbers
from fmce.data.frames.shards import Shard, ShardFolder
from fmce.data.frames.table import FileFrames, ShardFrames


def shard(prefix, frames, part=0):
    return Shard(
        f"{prefix}-{part:04d}.tar", prefix, 100 * part, 1, frames, (0,) * (-(-frames // 16) + 1)
    )


def videos_of(*sizes):
    return np.repeat(np.arange(len(sizes)), sizes)


def hold(videos, count, seed=0):
    return hold_out_videos(videos, count, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(5))
def test_of_many_videos_some_are_held_out_whole_with_a_few_frames_of_each(seed):
    videos = videos_of(*[40] * 100)
    held, unused = hold(videos, 32, seed)
    theirs = set(videos[held])
    assert len(theirs) == 2  # 16 of each
    assert np.bincount(videos[held]).max() == 16
    rest = np.setdiff1d(np.arange(len(videos)), np.concatenate([held, unused]))
    assert not theirs & set(videos[rest])
    assert len(rest) == 98 * 40


def test_where_16_of_each_would_cost_too_many_videos_more_of_fewer_are_held_out():
    videos = videos_of(*[50] * 20)  # 100 frames are a tenth: two videos
    held, unused = hold(videos, 90)
    assert len(set(videos[held])) == 2
    assert (len(held), len(unused)) == (90, 10)


def test_of_few_videos_the_last_frames_are_held_out():
    held, unused = hold(videos_of(45, 25, 8), 4)
    assert held.tolist() == [74, 75, 76, 77]
    assert len(unused) == 0


@pytest.mark.parametrize(("wanted", "found"), [(0, 0), (3, 3), (9, 5)])
def test_no_more_are_held_out_than_wanted_or_there_are(wanted, found):
    held, _ = hold(videos_of(5), wanted)
    assert held.tolist() == list(range(5 - found, 5))


def test_each_file_is_a_video_of_its_own_and_shards_of_one_prefix_are_one():
    shards = [shard("b", 2), shard("b", 3, part=1), shard("a", 1)]
    sources = [FileFrames(["x", "y"]), ShardFrames(ShardFolder("s", tuple(shards)))]
    numbers = video_numbers(sources).tolist()
    assert numbers == [0, 1, 3, 3, 3, 3, 3, 2]


def test_the_pool_has_no_frame_of_a_held_out_video():
    folder = ShardFolder("s", tuple(shard(f"v{n:03}", 30) for n in range(50)))
    table, held = choose_frames([ShardFrames(folder)], [], held_out=20, limit=None, seed=1)

    def names(found):
        return {found.key(n).partition("-")[0] for n in range(len(found))}

    assert len(held) == 20
    assert len(names(held)) == 2
    assert not names(held) & names(table)
    assert len(table) == 48 * 30
