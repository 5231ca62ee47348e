"""Batches of frames in files: every frame once, the same from anywhere, damage counted, ranks apart."""

import io
import itertools
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fmce.data.augmentation import Augmentation
from fmce.data.frames.batches import FrameBatches
from fmce.data.frames.pool import FramePool
from fmce.data.frames.selection import choose_frames
from fmce.data.frames.shards import index_shard, open_shards, write_index, write_shard
from fmce.data.frames.table import FileFrames, FrameTable, ShardFrames
from fmce.data.image_files import UnreadableDataError
from fmce.data.pools import as_pool

pytest.importorskip("webdataset")

PLAIN = Augmentation((0.0,) * 3, (1.0,) * 3)
VARIED = Augmentation((0.4,) * 3, (0.2,) * 3, zoom=1.5, flip=True, brightness=0.2)

SCRIPT = """
from pathlib import Path
from fmce.data.augmentation import Augmentation
from fmce.data.frames.batches import FrameBatches
from fmce.data.frames.pool import FramePool
from fmce.data.frames.table import FileFrames, FrameTable

print("started")
pool = FramePool(FrameTable([FileFrames(sorted(Path().glob("*.png")))]), 12, 20, workers=1)
batches = FrameBatches(pool, Augmentation((0.0,) * 3, (1.0,) * 3), 4, 1, seed=0)
(batch,) = batches.epoch(1)
print(tuple(batch.images.shape))
batches.close()
"""


def image_of(number):
    """A plain picture whose level tells its number (0 … 99)."""
    return np.full((12, 20, 3), 20 + 2 * number, np.uint8)


def number_of(view):
    return round((float(view.mean()) * 255 - 20) / 2)


def stored(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def make_shards(folder, sizes, contents=None):
    """Write shards of the given sizes; the frames' levels count through all of them."""
    folder.mkdir()
    numbers = itertools.count()
    shards = []
    for name, size in sizes.items():
        path = folder / f"{name}-0000.tar"
        frames = [(f"{name}-{i:07d}", stored(image_of(next(numbers)))) for i in range(size)]
        write_shard(path, [(key, (contents or {}).get(key, raw)) for key, raw in frames])
        shards.append(index_shard(path, name, 0, 1))
    write_index(folder, shards, {})
    return str(folder)


def shard_pool(address, **options):
    return FramePool(FrameTable([ShardFrames(open_shards(address))]), 12, 20, **options)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("frames") / "shards", {"a": 37, "b": 16, "c": 5})


def numbers(batches, epochs):
    return [int(n) for e in epochs for batch in batches.epoch(e) for n in batch.image_index]


def test_a_pass_meets_every_frame_once_and_each_picture_is_its_own(address):
    batches = FrameBatches(shard_pool(address, shuffle_buffer=20), PLAIN, 4, 29, seed=0)  # 2 passes
    seen = []
    for batch in batches.epoch(1):
        assert [number_of(view) for view in batch.images] == batch.image_index.tolist()
        seen += batch.image_index.tolist()
    assert sorted(seen[:58]) == sorted(seen[58:]) == list(range(58))
    assert seen[:58] != seen[58:]


def test_any_interval_is_the_same_whenever_it_is_asked_for(address):
    pool = shard_pool(address, shuffle_buffer=20)
    whole = FrameBatches(pool, VARIED, 4, 5, seed=3)
    wanted = [batch for epoch in (1, 2, 3) for batch in whole.epoch(epoch)]
    resumed = FrameBatches(pool, VARIED, 4, 5, seed=3)
    for epoch in (3, 2, 2):
        for ours, theirs in zip(
            resumed.epoch(epoch), wanted[5 * (epoch - 1) : 5 * epoch], strict=True
        ):
            assert torch.equal(ours.image_index, theirs.image_index)
            assert torch.equal(ours.images, theirs.images)


def test_an_interval_left_early_is_begun_again(address):
    batches = FrameBatches(shard_pool(address), PLAIN, 4, 5, seed=0)
    first = next(iter(batches.epoch(1)))
    again = next(iter(batches.epoch(1)))
    assert torch.equal(first.image_index, again.image_index)


def test_worker_processes_change_nothing_and_leave_the_trainings_draws_alone(address):
    plain, parallel = (
        FrameBatches(shard_pool(address, shuffle_buffer=20, workers=n), VARIED, 4, 6, seed=1)
        for n in (0, 2)
    )
    torch.manual_seed(7)
    before = torch.get_rng_state()
    try:
        for ours, theirs in zip(parallel.epoch(2), plain.epoch(2), strict=True):
            assert torch.equal(ours.image_index, theirs.image_index)
            torch.testing.assert_close(ours.images, theirs.images)
        assert torch.equal(torch.get_rng_state(), before)
        assert parallel.waited_seconds > 0
    finally:
        parallel.close()


def test_a_script_without_a_main_guard_has_worker_processes(tmp_path):
    """multiprocessing would run such a script again in each worker."""
    for number in range(4):
        Image.fromarray(image_of(number)).save(tmp_path / f"{number}.png")
    script = tmp_path / "mine.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "started\n(4, 3, 12, 20)\n"), done.stderr


@pytest.mark.parametrize("workers", [0, 2])
def test_two_ranks_with_two_workers_each_share_the_very_batches_of_one(address, workers):
    """5 frames a batch: rank 0 takes two, rank 1 three; 29 batches are two and a half passes."""
    alone = list(
        FrameBatches(shard_pool(address, shuffle_buffer=20), VARIED, 5, 29, seed=0).epoch(1)
    )
    assert sorted(torch.cat([b.image_index for b in alone])[:58].tolist()) == list(range(58))
    for rank, rows in ((0, slice(0, 2)), (1, slice(2, 5))):
        pool = shard_pool(address, shuffle_buffer=20, workers=workers)
        batches = FrameBatches(pool, VARIED, 5, 29, seed=0, rank_of=(rank, 2))
        try:
            for ours, whole in zip(batches.epoch(1), alone, strict=True):
                assert torch.equal(ours.image_index, whole.image_index[rows])
                torch.testing.assert_close(ours.images, whole.images[rows])
        finally:
            batches.close()
        assert batches.failures.reads == 29 * (rows.stop - rows.start)


def test_a_rank_of_which_no_frame_can_be_read_gets_another_of_the_pool(tmp_path):
    pool = shard_pool(make_shards(tmp_path / "s", {"a": 3}, {"a-0000001": b""}))
    for rank in range(3):
        batches = FrameBatches(pool, PLAIN, 3, 1, seed=0, rank_of=(rank, 3))
        (batch,) = batches.epoch(1)
        wanted = batch.image_index.tolist()
        assert [number_of(view) for view in batch.images] == [{1: 2}.get(n, n) for n in wanted]


def test_damaged_frames_are_replaced_counted_and_named(tmp_path, caplog):
    bad = {"a-0000003": b"no image", "a-0000010": b""}
    pool = shard_pool(make_shards(tmp_path / "s", {"a": 20}, bad), max_damaged=0.0)
    batches = FrameBatches(pool, PLAIN, 5, 4, seed=0)
    for batch in batches.epoch(1):
        shown = [number_of(view) for view in batch.images]
        wanted = batch.image_index.tolist()
        assert not {3, 10} & set(shown)
        assert [n for n in wanted if n not in (3, 10)] == [
            s for s, n in zip(shown, wanted, strict=True) if n not in (3, 10)
        ]
    assert (batches.failures.reads, batches.failures.failures) == (20, 2)
    assert "cannot read a-0000003: no image" in caplog.text
    assert "cannot read a-0000010: missing or cut off" in caplog.text


def test_damage_beyond_the_rate_ends_the_epoch_and_names_the_frames(tmp_path):
    bad = {f"a-{i:07d}": b"" for i in range(6)}
    pool = shard_pool(make_shards(tmp_path / "s", {"a": 20}, bad), max_damaged=0.1)
    with pytest.raises(UnreadableDataError, match=r"more than 10\.00%: a-000000\d, "):
        numbers(FrameBatches(pool, PLAIN, 10, 2, seed=0), [1])


def test_a_batch_without_a_readable_frame_is_an_error(tmp_path):
    pool = shard_pool(make_shards(tmp_path / "s", {"a": 3}, {f"a-{i:07d}": b"" for i in range(3)}))
    with pytest.raises(UnreadableDataError, match=r"none of the 3 frames of step 0 can be read"):
        numbers(FrameBatches(pool, PLAIN, 3, 1, seed=0), [1])


def test_images_in_memory_files_and_shards_make_one_pool(address, tmp_path):
    paths = []
    for number in (70, 71):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(image_of(number)).save(paths[-1])
    sources = [FileFrames(paths), ShardFrames(open_shards(address))]
    pool = as_pool([image_of(90)]) + FramePool(FrameTable(sources, dropped=[0, 5]), 12, 20)
    assert len(pool) == 1 + 2 + 58 - 2
    (batch,) = FrameBatches(pool, PLAIN, len(pool), 1, seed=0).epoch(1)
    # dropped: the first file and the shards' frame 3
    assert sorted(number_of(view) for view in batch.images) == sorted({90, 71, *range(58)} - {3})
    assert pool.table.key(0) == "labelled image 0"
    assert pool.table.key(1) == str(paths[1])
    assert pool.table.key(5) == "a-0000004"


def test_a_pool_survives_being_written_down(address):
    table, _ = choose_frames([ShardFrames(open_shards(address))], [4], held_out=3, limit=30, seed=0)
    pool = FramePool(table, 12, 20)
    again = FramePool.from_dict(pool.to_dict(), height=12, width=20)
    keys = [[p.table.key(n) for n in range(len(p))] for p in (pool, again)]
    assert keys[0] == keys[1]
    assert len(keys[0]) == 30


@pytest.mark.parametrize("limit", [None, 1, 17, 30, 54])
def test_held_out_frames_are_never_in_the_pool_and_the_limit_is_kept(address, limit):
    sources = [ShardFrames(open_shards(address))]
    table, held = choose_frames(sources, [0, 57], held_out=4, limit=limit, seed=0)
    keys = [table.key(n) for n in range(len(table))]
    held_keys = {held.key(n) for n in range(len(held))}
    assert len(held_keys) == 4
    assert len(set(keys)) == len(keys) == min(limit or 58, 58 - 2 - 4)
    assert not held_keys & set(keys)
    assert not {"a-0000000", "c-0000004"} & (held_keys | set(keys))


def test_frames_read_into_memory_are_those_of_the_files(address):
    pool = shard_pool(address).in_memory([5, 40])
    assert [int(image.float().mean()) for image in pool.images] == [30, 100]


def resident_bytes():
    """Return the memory that this process holds now; its peak may be from an earlier test."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_memory_stays_flat_over_many_passes(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (60, 100, 3), np.uint8)
    raw = stored(noise)
    contents = {f"a-{i:07d}": raw for i in range(64)}
    pool = shard_pool(make_shards(tmp_path / "s", {"a": 64}, contents), shuffle_buffer=32)
    batches = FrameBatches(pool, PLAIN, 8, 80, seed=0)
    numbers(batches, [1])
    before = resident_bytes()
    numbers(batches, [2, 3, 4])  # 30 passes, 35 MB of files
    assert resident_bytes() - before < 8 * 2**20


def test_an_empty_pool_is_refused(address):
    empty = FramePool(FrameTable([]), 12, 20)
    with pytest.raises(ValueError, match="got an empty one"):
        FrameBatches(empty, PLAIN, 2, 1, seed=0)
