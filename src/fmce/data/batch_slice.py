"""Which part of a batch one of several processes takes that train a network together."""

from typing import NamedTuple


class BatchShare(NamedTuple):
    """Rows of a batch, and how many rows the whole batch has."""

    rows: slice
    whole: int


def share_of(count: int, rank: int, ranks: int) -> BatchShare:
    """Return a rank's share of a batch: contiguous, and no two shares differ by more than one row.

    Args:
        count: rows of the batch; with fewer rows than ranks some shares are empty.
        rank: from 0.
        ranks: how many share the batch.

    >>> [share_of(5, rank, 2).rows for rank in (0, 1)]
    [slice(0, 2, None), slice(2, 5, None)]
    """
    return BatchShare(slice(count * rank // ranks, count * (rank + 1) // ranks), count)
