"""Every frame once a pass, over ranks too; any place is found again; windows bound what waits."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmce.data.frame_order import FrameOrder


def take(order, position, count):
    """The next `count` frame numbers from a position on."""
    numbers = itertools.chain.from_iterable(order.windows(position))
    return [int(n) for n in itertools.islice(numbers, count)]


@given(
    sizes=st.lists(st.integers(0, 20), min_size=1, max_size=12).filter(lambda s: sum(s) >= 3),
    window=st.integers(1, 50),
    seed=st.integers(0, 5),
    world_size=st.integers(1, 3),
    cut=st.integers(0, 100),
)
def test_ranks_meet_every_frame_once_a_pass_and_go_on_from_anywhere(
    sizes, window, seed, world_size, cut
):
    passes = ([], [])
    for rank in range(world_size):
        order = FrameOrder(np.array(sizes), window, seed=seed, rank=rank, world_size=world_size)
        sequence = take(order, 0, 2 * order.frames)
        passes[0].extend(sequence[: order.frames])
        passes[1].extend(sequence[order.frames :])
        cut = min(cut, len(sequence))
        assert take(order, cut, len(sequence) - cut) == sequence[cut:]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(sum(sizes)))


def test_ranks_have_equally_many_frames_up_to_one():
    orders = [FrameOrder(np.array([16] * 9), 8, seed=0, rank=r, world_size=5) for r in range(5)]
    assert sorted(order.frames for order in orders) == [28, 29, 29, 29, 29]


def test_ranks_fetch_no_stretch_twice_but_those_that_a_boundary_cuts():
    touched = []
    for rank in range(4):
        order = FrameOrder(np.full(50, 16), 80, seed=0, rank=rank, world_size=4)
        touched.append({n // 16 for n in take(order, 0, order.frames)})
    assert sum(map(len, touched)) <= 50 + 3


def test_passes_ranks_and_seeds_have_orders_of_their_own():
    sizes = np.full(20, 16)
    order = FrameOrder(sizes, 64, seed=0)
    first, second = take(order, 0, 320), take(order, 320, 320)
    assert first != second
    assert first != take(FrameOrder(sizes, 64, seed=1), 0, 320)


def test_a_window_touches_few_stretches_and_mixes_them():
    order = FrameOrder(np.full(1000, 16), 160, seed=0)
    window = next(order.windows(0))
    stretches = window // 16
    assert len(set(stretches.tolist())) == 10
    assert len(set(stretches[:16].tolist())) > 4  # a batch is not sixteen neighbours
    assert np.ptp(stretches) > 300  # from all over the pool


def test_one_window_for_all_is_one_shuffle_of_everything():
    order = FrameOrder(np.full(4, 16), 64, seed=0)
    assert sorted(next(order.windows(0)).tolist()) == list(range(64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 2, "world_size": 2}, r"rank in 0 … 1, got 2"),
        ({"window": 0}, "window of at least 1"),
        ({"rank": 0, "world_size": 9}, "got 8 for 9 ranks"),
    ],
)
def test_what_cannot_be_dealt_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FrameOrder(np.array([8]), **({"window": 4, "seed": 0} | arguments))
