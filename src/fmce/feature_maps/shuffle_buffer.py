"""Shuffling feature maps in a bounded buffer, in an order that their numbers alone decide.

Maps arrive in rounds (a block of images through all backbones, or chunks of a store) and leave in
batches drawn at random from those that wait. The plan is made before any map exists, so every rank of
a data-parallel training knows which maps are its own and computes no others.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmce.data.batch_slice import ALL_ROWS, own_rows

MapNumbers = NDArray[np.int64]
Pieces = Iterator[tuple[MapNumbers, Tensor]]
"""MapNumbers (B,) and maps (B,C,h,w) of part of a round, on one device; made on demand."""
Fetch = Callable[[Sequence[MapNumbers]], Iterator[Pieces]]
"""Ascending numbers of the maps of each round → their pieces, round by round."""
# Not given in the paper. In float32 a buffer takes 1.6 GB at 1024×7×7, and twice that at 2048×7×7.
BUFFER = 8192


class ShuffleRound(NamedTuple):
    """MapNumbers of the maps that arrive in one round, and of the batches that leave after it."""

    arriving: MapNumbers
    leaving: list[MapNumbers]


def plan_shuffle(
    rounds: Sequence[MapNumbers],
    batch_size: int,
    capacity: int,
    generator: torch.Generator | None = None,
) -> list[ShuffleRound]:
    """Decide which maps leave in which batch.

    After each round all waiting maps are shuffled and leave in full batches until the next round fits;
    the rest is shuffled with later rounds. Memory: 8 bytes per map.

    Args:
        rounds: MapNumbers of the maps that arrive together.
        batch_size: Maps per batch; only the very last may be smaller.
        capacity: Maps that may wait, at least the largest round and a batch.
        generator: CPU generator that shuffles; None keeps the order of arrival and lets as few maps
            wait as full batches allow.

    Raises:
        ValueError: If the capacity is too small.

    >>> plan = plan_shuffle([np.array([0, 1, 2]), np.array([3, 4])], batch_size=2, capacity=8)
    >>> [[batch.tolist() for batch in one.leaving] for one in plan]
    [[[0, 1]], [[2, 3], [4]]]
    """
    largest = max(map(len, rounds), default=0)
    if generator is not None and capacity < largest + batch_size:
        raise ValueError(
            f"a buffer of {capacity} maps is too small: expected at least {largest + batch_size}, one "
            f"round of {largest} maps and a batch of {batch_size}; raise fmce_net.shuffle_buffer"
        )
    waiting: MapNumbers = np.empty(0, dtype=np.int64)
    plan = []
    for index, arriving in enumerate(rounds):
        waiting = np.concatenate([waiting, arriving])
        if generator is not None:
            waiting = waiting[torch.randperm(len(waiting), generator=generator).numpy()]
        last = index == len(rounds) - 1
        count = len(waiting)
        if not last:
            may_stay = 0 if generator is None else capacity - len(rounds[index + 1])
            needed = max(0, -(-(count - may_stay) // batch_size))
            count = min(needed, count // batch_size) * batch_size
        starts = range(0, count, batch_size)
        plan.append(ShuffleRound(arriving, [waiting[s : s + batch_size] for s in starts]))
        waiting = waiting[count:]
    return plan


def shuffled_maps(
    rounds: Sequence[ShuffleRound], fetch: Fetch, rank_of: tuple[int, int] = ALL_ROWS
) -> Iterator[tuple[MapNumbers, Tensor]]:
    """Fetch a rank's maps round by round and yield its rows of each batch: numbers (B,), maps float32 (B,C,h,w)."""
    if not rounds:
        return
    leaving = [own_rows(one.leaving, rank_of) for one in rounds]
    own = np.zeros(1 + max(int(one.arriving.max(initial=0)) for one in rounds), dtype=bool)
    for batch in (b for batches in leaving for b in batches):
        own[batch] = True
    arriving = [np.sort(one.arriving[own[one.arriving]]) for one in rounds]
    arrived = np.cumsum([len(new) for new in arriving])
    left = np.cumsum([sum(map(len, batches)) for batches in leaving])
    # Most maps wait right after a round has arrived.
    buffer = MapBuffer(int((arrived - np.append(0, left[:-1])).max()), len(own))
    for pieces, batches in zip(fetch(arriving), leaving, strict=True):
        for numbers, maps in pieces:
            buffer.put(numbers, maps)
        for batch in batches:
            yield batch, buffer.take(batch)


class MapBuffer:
    """Numbered maps in one preallocated tensor, on the device and in the precision they arrive in.

    Invariant: `_free[_used:]` lists the free slots.
    """

    def __init__(self, capacity: int, num_maps: int) -> None:
        """Reserve room for `capacity` maps at one time, whose numbers lie below `num_maps`."""
        self._free, self._used, self.capacity = np.arange(capacity), 0, capacity
        self._slot_of = np.full(num_maps, -1, dtype=np.int64)
        self._maps: Tensor | None = None

    def __len__(self) -> int:
        return self._used

    def put(self, numbers: MapNumbers, maps: Tensor) -> None:
        """Copy maps into free slots."""
        room = self.capacity - self._used
        if len(numbers) > room:
            raise ValueError(f"expected at most {room} more maps, got {len(numbers)}")
        if self._maps is None:
            self._maps = maps.new_empty((self.capacity, *maps.shape[1:]))
        slots = self._free[self._used : self._used + len(numbers)]
        self._slot_of[numbers] = slots
        self._used += len(numbers)
        if len(slots) and slots[-1] - slots[0] == len(slots) - 1 and (np.diff(slots) == 1).all():
            self._maps[slots[0] : slots[-1] + 1] = maps  # consecutive slots: one plain copy
        else:
            self._maps.index_copy_(0, _on(slots, self._maps.device), maps)

    def take(self, numbers: MapNumbers) -> Tensor:
        """Return maps float32 (B,C,h,w) in the order of their numbers, and free their slots."""
        if self._maps is None:
            raise ValueError(
                f"expected maps in the buffer before {len(numbers)} are taken; with several ranks, batches "
                "must have at least one map for each"
            )
        slots = self._slot_of[numbers]
        assert (slots >= 0).all(), "a map was taken that is not in the buffer"
        self._slot_of[numbers] = -1
        self._used -= len(numbers)
        self._free[self._used : self._used + len(numbers)] = slots
        return self._maps.index_select(0, _on(slots, self._maps.device)).float()


def _on(index: MapNumbers, device: torch.device) -> Tensor:
    return torch.from_numpy(index.copy()).to(device, non_blocking=True)
