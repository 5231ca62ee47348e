"""The order of the frames of a table: a pure function of seed and step, for any number of ranks.

The chunks are shuffled, then one window of some thousand frames at a time. Each row of the batches gets
consecutive chunks of its window, so a rank, which takes some of the rows, reads little more than its part.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from fmce.data.batch_slice import rank_slice, require_row_per_rank
from fmce.data.frames.table import Numbers


class FrameOrder:
    """A rank's rows of endless batches of frame numbers; in each pass the ranks together see every frame once.

    Attributes:
        frames: Frames per pass, of all ranks together.
    """

    def __init__(
        self, sizes: Numbers, window: int, batch_size: int, *, seed: int, rank_of: tuple[int, int]
    ) -> None:
        """Describe the sequence.

        Args:
            sizes: Frames of each chunk, int64, in the order of the frames' numbers.
            window: Frames shuffled with one another, of all ranks together.
            batch_size: Frames per batch, of all ranks together.
            seed: Draws the order.
            rank_of: Rank of this process, from 0, and number of ranks.

        Raises:
            ValueError: If there are no frames, the window is below 1, or a batch has fewer frames than
                ranks share it.
        """
        if window < 1:
            raise ValueError(f"expected a window of at least 1 frame, got {window}")
        require_row_per_rank(batch_size, batch_size, rank_of, "frames", "batch_size")
        self.frames = int(sizes.sum())
        if self.frames == 0:
            raise ValueError("expected chunks with frames, got none")
        self.window, self.batch_size, self.seed = window, batch_size, seed
        self.rows = rank_slice(batch_size, *rank_of).rows
        self._sizes = sizes
        self._starts = np.concatenate([[0], sizes.cumsum()])
        self._shuffled: tuple[int, Numbers, Numbers] | None = None

    def windows(self, step: int) -> Iterator[Numbers]:
        """Yield this rank's frames from a 0-based step on, int64 in the order of use, window by window, endlessly.

        A window that has no frames for this rank is empty.
        """
        first = step * self.batch_size
        turn, within = divmod(first, self.frames)
        number = within // self.window
        for one in itertools.count(turn):
            for other in range(number, -(-self.frames // self.window)):
                yield self._window(one, other, first)
            number = 0

    def _window(self, turn: int, number: int, first: int) -> Numbers:
        start = number * self.window
        found = self._neighbours(turn, start, min(start + self.window, self.frames))
        # Positions in the endless sequence, and the row of the batch that each belongs to.
        places = turn * self.frames + start + np.arange(len(found))
        rows = places % self.batch_size
        by_row = np.argsort(rows, kind="stable")
        draw = np.random.default_rng([self.seed, 1, turn, number])
        frames = np.empty_like(found)
        # The rows get consecutive frames, one row after another, each in random order.
        frames[by_row] = found[np.lexsort([draw.random(len(found)), rows[by_row]])]
        own = (places >= first) & (rows >= self.rows.start) & (rows < self.rows.stop)
        return np.asarray(frames[own])

    def _neighbours(self, turn: int, start: int, end: int) -> Numbers:
        """Return the frames from start to end of the concatenated chunks of a pass."""
        order, ends = self._chunk_order(turn)
        first, last = np.searchsorted(ends, [start, end - 1], side="right")
        picked = order[first : last + 1]
        frames = np.concatenate([np.arange(self._starts[c], self._starts[c + 1]) for c in picked])
        offset = start - (int(ends[first]) - int(self._sizes[order[first]]))
        return frames[offset : offset + end - start]

    def _chunk_order(self, turn: int) -> tuple[Numbers, Numbers]:
        """Return the order of the chunks in a pass, the same on every rank, and where each ends."""
        if self._shuffled is None or self._shuffled[0] != turn:
            order = np.random.default_rng([self.seed, 0, turn]).permutation(len(self._sizes))
            self._shuffled = (turn, order, self._sizes[order].cumsum())
        return self._shuffled[1:]
