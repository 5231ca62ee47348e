"""What ranks do with each other's values; ranks are threads here."""

import time

import pytest
import torch

from fmce.engine.distributed import ranks as ranks_file
from fmce.engine.distributed.rank_failure import Peer, Peers
from fmce.engine.distributed.ranks import ALONE, Ranks
from fmce.engine.loop import StepOutput, global_loss
from tests.engine.thread_ranks import in_ranks


def test_rows_of_unlike_numbers_come_together_in_order():
    rows = torch.arange(14.0).view(7, 2)
    for found in in_ranks(lambda ranks, part: ranks.gather_rows(part), rows.split([2, 1, 4])):
        assert torch.equal(found, rows)
    assert ALONE.gather_rows(rows) is rows


def test_what_the_first_rank_does_for_long_becomes_everyones(monkeypatch):
    monkeypatch.setattr(ranks_file, "_HEARTBEAT", 0.01)
    done = []

    def act():
        time.sleep(0.1)
        done.append(1)
        return len(done)

    assert in_ranks(lambda ranks, _: ranks.on_rank_zero_slowly(act), [0, 1]) == [1, 1]
    assert done == [1]


def test_its_error_becomes_everyones_too():
    def fail():
        raise ValueError("no data there")

    def on_rank(ranks, _):
        with pytest.raises(ValueError, match="no data there"):
            ranks.on_rank_zero_slowly(fail)
        return True

    assert in_ranks(on_rank, [0, 1]) == [True, True]


@pytest.mark.parametrize("counts", [(3, 1), (0, 4), (0, 0), (0.25, 0.5)])
def test_losses_that_are_divided_by_a_count_of_their_own_add_up(counts):
    """Sums 6 and 2 over a count a rank, divided by 1 where it is less: as one process would divide."""
    sums = torch.tensor([6.0, 2.0], dtype=torch.float64)
    expected = sums.sum() / max(1, sum(counts))

    def on_rank(ranks, rank):
        weight = torch.tensor(float(counts[rank]))
        output = StepOutput(sums[rank] / weight.clamp(min=1), 5, {}, weight)
        factor, whole = global_loss(output, ranks)
        return factor * output.loss, whole

    parts = in_ranks(on_rank, [0, 1])
    assert sum(part for part, _ in parts).item() == pytest.approx(expected.item())
    assert all(whole.item() == pytest.approx(expected.item()) for _, whole in parts)


def test_those_of_the_same_host_are_counted():
    everyone = tuple(Peer(rank, "ab"[rank // 3], 100 + rank) for rank in range(5))
    counts = [Ranks(p.rank, 5, peers=Peers(p, everyone, 60.0)).local_world_size for p in everyone]
    assert counts == [3, 3, 3, 2, 2]
    assert ALONE.local_world_size == 1


def test_a_full_gpu_is_not_taken_for_a_lost_rank(monkeypatch):
    def fill(_values):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("torch.distributed.all_reduce", fill)
    me = Peer(0, "a", 100)
    with pytest.raises(torch.OutOfMemoryError):
        Ranks(0, 2, peers=Peers(me, (me,), 60.0)).all_reduce(torch.ones(1))
