"""Every frame once a pass; ranks share the batches of one; any place is found again; windows bound what waits."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmce.data.frames.order import FrameOrder


def take(order, step, count):
    """The next `count` frame numbers of a rank from a step on."""
    numbers = itertools.chain.from_iterable(order.windows(step))
    return [int(n) for n in itertools.islice(numbers, count)]


def make(sizes, window, batch_size=4, *, seed=0, rank_of=(0, 1)):
    return FrameOrder(np.array(sizes), window, batch_size, seed=seed, rank_of=rank_of)


def batches(order, first, count):
    """A rank's rows of some global batches."""
    size = order.rows.stop - order.rows.start
    frames = take(order, first, count * size)
    return [frames[i : i + size] for i in range(0, len(frames), size)]


@given(
    sizes=st.lists(st.integers(0, 20), min_size=1, max_size=12).filter(lambda s: sum(s) >= 1),
    window=st.integers(1, 50),
    seed=st.integers(0, 5),
    batch_size=st.integers(3, 9),
    ranks=st.integers(2, 3),
    cut=st.integers(0, 100),
)
def test_ranks_share_the_batches_of_one_and_a_pass_meets_every_frame_once(
    sizes, window, seed, batch_size, ranks, cut
):
    total = sum(sizes)
    alone = make(sizes, window, batch_size, seed=seed)
    sequence = take(alone, 0, 2 * total + batch_size)
    assert sorted(sequence[:total]) == sorted(sequence[total : 2 * total]) == list(range(total))
    first, count = cut % (2 * total // batch_size + 1), 3
    parts = [
        batches(make(sizes, window, batch_size, seed=seed, rank_of=(r, ranks)), first, count)
        for r in range(ranks)
    ]
    shared = [n for step in zip(*parts, strict=True) for part in step for n in part]
    wanted = take(alone, 0, (first + count) * batch_size)
    assert shared == wanted[first * batch_size :]


def test_ranks_read_their_part_of_each_window_and_little_more():
    read = []
    for rank in range(4):
        order = make([16] * 50, 400, 16, rank_of=(rank, 4))
        read.append({n // 16 for n in take(order, 0, 200)})
    # 50 stretches a pass; one that a boundary between ranks or windows cuts is read on both sides
    assert sum(map(len, read)) <= 50 + 2 * 3 + 1


def test_passes_and_seeds_have_orders_of_their_own():
    order = make([16] * 20, 64)
    first, second = take(order, 0, 320), take(order, 80, 320)
    assert first != second
    assert first != take(make([16] * 20, 64, seed=1), 0, 320)


def test_a_window_touches_few_stretches_and_a_batch_mixes_them():
    order = make([16] * 1000, 160, 16)
    window = next(order.windows(0))
    stretches = window // 16
    assert len(set(stretches.tolist())) == 10
    for start in range(0, 160, 16):  # each of a batch's rows has a place of its own in the window
        assert len(set(stretches[start : start + 16].tolist())) >= 8
    assert np.ptp(stretches) > 300  # from all over the pool


def test_one_window_for_all_is_one_shuffle_of_everything():
    order = make([16] * 4, 64)
    assert sorted(next(order.windows(0)).tolist()) == list(range(64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 0}, "window of at least 1"),
        ({"rank_of": (0, 9)}, "has 4 frames, fewer than the 9 processes"),
        ({"sizes": [0]}, "chunks with frames"),
    ],
)
def test_what_cannot_be_dealt_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**({"sizes": [8], "window": 4} | arguments))
