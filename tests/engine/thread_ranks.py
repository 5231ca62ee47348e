"""Ranks that are threads of one process."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier

import torch

from fmce.engine.distributed.ranks import Ranks


class Meeting:
    """Where threads exchange what they bring."""

    def __init__(self, count):
        self.barrier, self.brought = Barrier(count, timeout=60), [None] * count

    def exchange(self, index, value):
        self.brought[index] = value
        self.barrier.wait()
        everything = [*self.brought]
        self.barrier.wait()
        return everything


@dataclass(frozen=True)
class ThreadRanks(Ranks):
    """One of them; every operation of `Ranks` rests on these."""

    meeting: Meeting | None = None

    def all_gather_objects(self, value):
        return self.meeting.exchange(self.rank, value)

    def all_gather(self, values):
        return torch.stack(self.all_gather_objects(values.clone()))

    def all_reduce(self, values):
        return values.copy_(self.all_gather(values).sum(0))

    def on_rank_zero(self, action):
        outcome = None
        if self.is_main:
            try:
                outcome = (action(), None)
            except ValueError as error:
                outcome = (None, error)
        value, error = self.all_gather_objects(outcome)[0]
        if error is not None:
            raise error
        return value


def in_ranks(function, parts):
    """Call a function on each part, with its ranks, in a thread of its own; return the results."""
    meeting = Meeting(len(parts))
    with ThreadPoolExecutor(len(parts)) as pool:
        jobs = [
            pool.submit(function, ThreadRanks(i, len(parts), meeting=meeting), part)
            for i, part in enumerate(parts)
        ]
        return [job.result() for job in jobs]
