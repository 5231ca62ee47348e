"""In which order the frames of a table are met: a pure function of seed, pass and rank.

The stretches of all shards are shuffled, laid end to end and dealt to the ranks in equal parts; within
a rank a window of some thousand frames is shuffled at a time. So reading stays in stretches, what waits
to be used stays bounded, and a resumed training computes its place instead of finding it again.
"""

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


class FrameOrder:
    """An endless sequence of frame numbers, one pass after another, for one of several ranks.

    In each pass the ranks together meet every frame once.

    Attributes:
        frames: Frames this rank meets in a pass.
    """

    def __init__(
        self, sizes: Numbers, window: int, *, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        """Describe the sequence.

        Args:
            sizes: Frames of each stretch, in the order of the frames' numbers.
            window: Frames shuffled with one another.
            seed: Draws the order.
            rank: Of this process, 0 … world_size − 1.
            world_size: Processes that share the frames.

        Raises:
            ValueError: No frames for some rank, a window below 1, or a rank out of range.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"expected rank in 0 … {world_size - 1}, got {rank}")
        if window < 1:
            raise ValueError(f"expected a window of at least 1 frame, got {window}")
        total = int(sizes.sum())
        if total < world_size:
            raise ValueError(
                f"expected at least a frame a rank, got {total} for {world_size} ranks"
            )
        self.window, self.seed, self.rank = window, seed, rank
        self._sizes = sizes
        self._starts = np.concatenate([[0], sizes.cumsum()])
        # The same in every pass, so a position in the sequence says which pass it is in.
        self._begin, self._end = (total * r // world_size for r in (rank, rank + 1))
        self.frames = self._end - self._begin
        self._shuffled: tuple[int, Numbers, Numbers] | None = None

    def windows(self, position: int) -> Iterator[Numbers]:
        """Yield the sequence from a position on, window by window, the first one from within.

        Args:
            position: In this rank's sequence, 0 or more.

        Yields:
            Frame numbers, endlessly.
        """
        turn, within = divmod(position, self.frames)
        number, skipped = divmod(within, self.window)
        for one in itertools.count(turn):
            for other in range(number, -(-self.frames // self.window)):
                yield self._window(one, other)[skipped:]
                skipped = 0
            number = 0

    def _window(self, turn: int, number: int) -> Numbers:
        start = self._begin + number * self.window
        end = min(start + self.window, self._end)
        order, ends = self._stretches(turn)
        first, last = np.searchsorted(ends, [start, end - 1], side="right")
        picked = order[first : last + 1]
        frames = np.concatenate([np.arange(self._starts[c], self._starts[c + 1]) for c in picked])
        offset = start - (int(ends[first]) - int(self._sizes[order[first]]))
        draw = np.random.default_rng([self.seed, 1, turn, self.rank, number])
        return draw.permutation(frames[offset : offset + end - start])

    def _stretches(self, turn: int) -> tuple[Numbers, Numbers]:
        """Return the order of all stretches in a pass, the same for every rank, and where each ends."""
        if self._shuffled is None or self._shuffled[0] != turn:
            order = np.random.default_rng([self.seed, 0, turn]).permutation(len(self._sizes))
            self._shuffled = (turn, order, self._sizes[order].cumsum())
        return self._shuffled[1:]
