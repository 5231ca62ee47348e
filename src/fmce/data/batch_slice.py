"""Which rows of a batch belong to one of several processes that train a network together."""

from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Rows = TypeVar("Rows", Tensor, NDArray[np.int64])

ALL_ROWS = (0, 1)
"""The share of rank 0 of 1. All ranks draw the same batches; each takes a contiguous slice of every one."""


class BatchSlice(NamedTuple):
    """A rank's rows of a batch, and how many rows the batch has on all ranks together."""

    rows: slice
    batch_size: int


def rank_slice(batch_size: int, rank: int, world_size: int) -> BatchSlice:
    """Return a rank's slice of a batch: contiguous; no two slices differ by more than one row.

    With fewer rows than ranks some slices are empty.

    >>> [rank_slice(5, rank, 2).rows for rank in (0, 1)]
    [slice(0, 2, None), slice(2, 5, None)]
    """
    rows = slice(batch_size * rank // world_size, batch_size * (rank + 1) // world_size)
    return BatchSlice(rows, batch_size)


def own_rows(batches: Iterable[Rows], rank_of: tuple[int, int]) -> list[Rows]:
    """Return a rank's rows of each batch (B,…); the batches are the same on all ranks.

    >>> [rows.tolist() for rows in own_rows([np.arange(5), np.arange(2)], (1, 2))]
    [[2, 3, 4], [1]]
    """
    return [batch[rank_slice(len(batch), *rank_of).rows] for batch in batches]


def require_row_per_rank(
    num_items: int, batch_size: int, rank_of: tuple[int, int], what: str, setting: str
) -> None:
    """Refuse batches of `num_items` items of which some rank would get nothing.

    The message calls the items `what`, and names the `setting` of the batch size.

    Raises:
        ValueError: If the smallest batch has fewer items than there are ranks.
    """
    smallest = min(num_items % batch_size or batch_size, num_items)
    if smallest < rank_of[1]:
        raise ValueError(
            f"the smallest batch has {smallest} {what}, fewer than the {rank_of[1]} processes that share it; "
            f"use fewer processes or another {setting}"
        )
