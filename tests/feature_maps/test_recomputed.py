"""The FMCS-Dataset: each map once, rightly labelled, the same however it is stored."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fmce.feature_maps.in_memory import InMemoryMaps
from fmce.feature_maps.recomputed import RecomputedMaps
from fmce.feature_maps.shuffle_buffer import MapBuffer
from fmce.feature_maps.source import MapBatches
from fmce.feature_maps.splits import split_maps

RUNS, PHASES, IMAGES = 2, 3, 11


def image_maker(index):
    return index.float().view(-1, 1, 1, 1).expand(-1, 3, 2, 2)


def extractor(run, phase, seen=None):
    """A backbone whose maps tell where they come from: 100·run + 10·phase, and the image."""

    def extract(images):
        if seen is not None:
            seen.append(len(images))
        number = torch.full((len(images),), 100.0 * run + 10 * phase)
        return torch.stack([number, images[:, 0, 0, 0]], 1).view(-1, 2, 1, 1)

    return extract


def stream(block=4, runs=RUNS, seen=None, **options):
    extractors = [[extractor(r, p, seen) for p in range(1, PHASES + 1)] for r in range(runs)]
    return RecomputedMaps(extractors, image_maker, IMAGES, block=block, **options)


def collect(batches):
    """Return rows of (number, image, phase, run, image index), in the order they came."""
    rows = []
    for b in batches:
        values = (b.maps[:, 0, 0, 0], b.maps[:, 1, 0, 0], b.phases, b.run, b.image_index)
        rows += list(zip(*(v.tolist() for v in values), strict=True))
    return rows


def expected(numbers):
    rows = []
    for n in numbers:
        run, phase, image = n // (PHASES * IMAGES), n // IMAGES % PHASES + 1, n % IMAGES
        rows.append((100.0 * run + 10 * phase, float(image), phase, run, image))
    return sorted(rows)


@pytest.mark.parametrize("kind", ["memory", "recompute"])
@settings(deadline=None, max_examples=40)
@given(
    numbers=st.sets(st.integers(0, RUNS * PHASES * IMAGES - 1)),
    block=st.integers(1, 12),
    batch_size=st.integers(1, 70),
    seed=st.none() | st.integers(0, 9),
)
def test_each_numbered_map_comes_once_with_its_label(kind, numbers, block, batch_size, seed):
    source = stream(block)
    if kind == "memory":
        source = InMemoryMaps.from_source(source)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    numbers = np.array(sorted(numbers), dtype=np.int64)
    batches = list(source.batches(numbers, batch_size, generator))
    assert sorted(collect(batches)) == expected(numbers)
    assert all(len(b.phases) == batch_size for b in batches[:-1])
    assert all(0 < len(b.phases) <= batch_size for b in batches)


def test_memory_keeps_maps_in_the_order_of_their_numbers():
    memory = InMemoryMaps.from_source(stream(block=3))
    numbers = np.arange(RUNS * PHASES * IMAGES)
    (batch,) = memory.batches(numbers, 1000)
    assert collect([batch]) == [row for n in numbers for row in expected([n])]


def test_runs_are_numbered_in_their_order():
    memory = InMemoryMaps.from_source(stream())
    (batch,) = memory.batches(np.array([0, PHASES * IMAGES]), 10)
    assert batch.run.tolist() == [0, 1]
    assert batch.maps[:, 0, 0, 0].tolist() == [10.0, 110.0]


def test_only_wanted_images_go_through_a_backbone():
    seen = []
    split = split_maps("image", num_images=IMAGES, num_phases=PHASES, test_fraction=0.3)
    collect(stream(block=100, runs=1, seen=seen).batches(split.test, 8))
    assert seen == [3, 3, 3]


@pytest.mark.parametrize("buffer", [12, 20, 40])
def test_maps_computed_and_not_yet_used_never_exceed_the_buffer(buffer):
    seen, made, largest = [], 0, 0
    source = stream(block=4, seen=seen, buffer=buffer)
    generator = torch.Generator().manual_seed(0)
    for batch in source.batches(np.arange(RUNS * PHASES * IMAGES), 5, generator):
        largest = max(largest, sum(seen) - made)
        made += len(batch.phases)
    assert made == RUNS * PHASES * IMAGES
    assert buffer - RUNS * PHASES < largest <= buffer


def test_a_block_shrinks_to_what_the_buffer_holds():
    seen = []
    collect(stream(block=4, seen=seen, buffer=24).batches(np.arange(66), 5, generator_of(0)))
    assert set(seen) == {2, 1}  # two images of six maps are half of 24; the eleventh comes alone


def test_a_buffer_that_cannot_hold_one_images_maps_and_a_batch_is_refused():
    with pytest.raises(ValueError, match="a buffer of 10 maps is too small: expected at least 11"):
        collect(stream(buffer=10).batches(np.arange(66), 5, generator_of(0)))


@pytest.mark.parametrize("kind", ["memory", "recompute"])
@settings(deadline=None, max_examples=30)
@given(ranks=st.integers(1, 4), batch_size=st.integers(4, 20), seed=st.none() | st.integers(0, 9))
def test_the_ranks_parts_join_to_the_batches_of_one_process(kind, ranks, batch_size, seed):
    numbers = np.arange(3, RUNS * PHASES * IMAGES)
    parts = []
    for rank in range(ranks):
        source = stream(block=3, buffer=40)
        source = source if kind == "recompute" else InMemoryMaps.from_source(source)
        parts.append(list(source.batches(numbers, batch_size, generator_of(seed), (rank, ranks))))
    whole = stream(block=3, buffer=40)
    whole = whole if kind == "recompute" else InMemoryMaps.from_source(whole)
    batches = list(whole.batches(numbers, batch_size, generator_of(seed)))
    assert [len(p) for p in parts] == [len(batches)] * ranks
    for step, batch in enumerate(batches):
        together = [row for part in parts for row in collect([part[step]])]
        assert sorted(together) == sorted(collect([batch]))


def test_a_rank_computes_only_its_own_maps():
    for rank in range(2):
        seen = []
        source = stream(block=4, buffer=40, seen=seen)
        collect(source.batches(np.arange(66), 6, generator_of(0), (rank, 2)))
        assert sum(seen) == 33


def generator_of(seed):
    return None if seed is None else torch.Generator().manual_seed(seed)


def test_shuffling_mixes_images_phases_and_runs():
    generator = torch.Generator().manual_seed(0)
    rows = collect(stream(block=11).batches(np.arange(RUNS * PHASES * IMAGES), 8, generator))
    assert len({(row[2], row[3]) for row in rows[:16]}) > 3
    assert [row[4] for row in rows[:11]] != sorted(row[4] for row in rows[:11])


@pytest.mark.parametrize("kind", ["memory", "recompute"])
def test_an_epoch_is_the_same_whenever_it_is_asked_for(kind):
    source = stream() if kind == "recompute" else InMemoryMaps.from_source(stream())
    batches = MapBatches(source, np.arange(20), 6, seed=3)
    assert len(batches) == 4
    first = collect(batches.epoch(1))
    torch.rand(9)
    assert collect(batches.epoch(1)) == first
    assert collect(batches.epoch(2)) != first
    assert sorted(collect(batches.epoch(2))) == sorted(first)


@pytest.mark.parametrize("extractors", [[], [[]], [[extractor(0, 1)], []]])
def test_runs_without_or_with_unlike_phases_are_refused(extractors):
    with pytest.raises(ValueError, match="equally many phases"):
        RecomputedMaps(extractors, image_maker, IMAGES)


def test_a_source_without_images_is_refused():
    with pytest.raises(ValueError, match="needs at least one image"):
        InMemoryMaps.from_source(RecomputedMaps([[extractor(0, 1)]], image_maker, 0))


def test_a_buffer_gives_maps_back_in_the_order_asked_for_and_reuses_their_slots():
    buffer = MapBuffer(4, num_maps=10)
    maps = torch.arange(10.0).view(-1, 1, 1, 1)
    buffer.put(np.array([7, 1, 4]), maps[[7, 1, 4]].half())
    taken = buffer.take(np.array([4, 7]))
    assert (taken.flatten().tolist(), taken.dtype) == ([4.0, 7.0], torch.float32)
    buffer.put(np.array([9, 3, 2]), maps[[9, 3, 2]].half())
    assert buffer.take(np.array([1, 2, 3, 9])).flatten().tolist() == [1.0, 2.0, 3.0, 9.0]
    assert len(buffer) == 0


def test_a_full_buffer_takes_no_more():
    buffer = MapBuffer(2, num_maps=10)
    buffer.put(np.array([0]), torch.zeros(1, 1, 1, 1))
    with pytest.raises(ValueError, match="expected at most 1 more maps, got 2"):
        buffer.put(np.array([1, 2]), torch.zeros(2, 1, 1, 1))


def test_maps_wait_for_those_of_later_rounds():
    """A batch of the middle of an epoch has images of more than one block in it."""
    source = stream(block=2, runs=1, buffer=24)
    rows = collect(source.batches(np.arange(PHASES * IMAGES), 4, generator_of(1)))
    assert len({row[4] for row in rows[:8]}) > 2


def test_taking_from_a_buffer_that_never_had_maps_is_refused():
    with pytest.raises(ValueError, match="batches must have at least one map for each"):
        MapBuffer(2, num_maps=4).take(np.array([], dtype=np.int64))


def test_batches_that_leave_a_rank_without_maps_are_refused():
    with pytest.raises(ValueError, match="smallest batch has 2 maps, fewer than the 3 processes"):
        MapBatches(stream(), np.arange(20), 6, seed=3, rank_of=(0, 3))
