"""The FMCS-Dataset: each map once, rightly labelled, the same however it is backed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fmce.data.map_splits import split_maps
from fmce.data.map_store import MapMemory
from fmce.data.map_stream import MapBatches, MapStream

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
    return MapStream(extractors, image_maker, IMAGES, block=block, **options)


def collect(batches):
    """Return rows of (number, image, score, run, image index), in the order they came."""
    rows = []
    for b in batches:
        values = (b.maps[:, 0, 0, 0], b.maps[:, 1, 0, 0], b.scores, b.run, b.image_index)
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
        source = MapMemory.from_source(source)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    numbers = np.array(sorted(numbers), dtype=np.int64)
    batches = list(source.batches(numbers, batch_size, generator))
    assert sorted(collect(batches)) == expected(numbers)
    assert all(len(b.scores) == batch_size for b in batches[:-1])
    assert all(0 < len(b.scores) <= batch_size for b in batches)


def test_memory_keeps_maps_in_the_order_of_their_numbers():
    memory = MapMemory.from_source(stream(block=3))
    numbers = np.arange(RUNS * PHASES * IMAGES)
    (batch,) = memory.batches(numbers, 1000)
    assert collect([batch]) == [row for n in numbers for row in expected([n])]


def test_runs_keep_the_numbers_they_are_known_by():
    memory = MapMemory.from_source(stream(run_numbers=[7, 3]))
    (batch,) = memory.batches(np.array([0, PHASES * IMAGES]), 10)
    assert batch.run.tolist() == [7, 3]
    assert batch.maps[:, 0, 0, 0].tolist() == [10.0, 110.0]


def test_only_wanted_images_go_through_a_backbone():
    seen = []
    split = split_maps("image", num_images=IMAGES, num_phases=PHASES, test_fraction=0.3)
    collect(stream(block=100, runs=1, seen=seen).batches(split.test, 8))
    assert seen == [3, 3, 3]


def test_memory_in_use_is_bounded_by_one_block():
    seen, made, largest = [], 0, 0
    source = stream(block=2, seen=seen)
    generator = torch.Generator().manual_seed(0)
    for batch in source.batches(np.arange(RUNS * PHASES * IMAGES), 5, generator):
        largest = max(largest, sum(seen) - made)
        made += len(batch.scores)
    assert made == RUNS * PHASES * IMAGES
    assert largest <= 2 * RUNS * PHASES + 4  # a block's maps and what the one before left over


def test_shuffling_mixes_images_phases_and_runs():
    generator = torch.Generator().manual_seed(0)
    rows = collect(stream(block=11).batches(np.arange(RUNS * PHASES * IMAGES), 8, generator))
    assert len({(row[2], row[3]) for row in rows[:16]}) > 3
    assert [row[4] for row in rows[:11]] != sorted(row[4] for row in rows[:11])


@pytest.mark.parametrize("kind", ["memory", "recompute"])
def test_an_epoch_is_the_same_whenever_it_is_asked_for(kind):
    source = stream() if kind == "recompute" else MapMemory.from_source(stream())
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
        MapStream(extractors, image_maker, IMAGES)


def test_a_source_without_images_is_refused():
    with pytest.raises(ValueError, match="needs at least one image"):
        MapMemory.from_source(MapStream([[extractor(0, 1)]], image_maker, 0))
