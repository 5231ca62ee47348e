"""Who is gone, who says so, and what the message holds."""

import os
import subprocess
import sys

import pytest

from fmce.engine.distributed import rank_failure as rank_failure
from fmce.engine.distributed.rank_failure import Peer, Peers, RankLostError, is_running


@pytest.fixture(scope="module")
def ended():
    """The number of a process that ended and was not waited for yet."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    while is_running(process.pid):
        pass
    yield process.pid
    process.wait()


def peers(*processes, me=0, hosts=()):
    hosts = hosts or ("here",) * len(processes)
    everyone = tuple(
        Peer(rank, host, process)
        for rank, (host, process) in enumerate(zip(hosts, processes, strict=True))
    )
    return Peers(everyone[me], everyone, 60.0)


def test_a_process_that_ended_does_not_run_even_before_it_is_waited_for(ended):
    assert is_running(os.getpid())
    assert not is_running(ended)


def test_the_message_names_the_rank_that_is_gone_and_what_to_do(ended):
    message = peers(os.getpid(), ended).message()
    assert message.startswith(f"rank 1 (process {ended} on here) ended and the others cannot")
    assert message.endswith("rerun the command to resume from the last complete epoch")


def test_several_are_named_together(ended):
    message = peers(ended, os.getpid(), ended, me=1).message()
    assert message.startswith(f"ranks 0 (process {ended} on here), 2 (process {ended} on here) end")


def test_nothing_is_said_of_processes_of_other_hosts(ended):
    far = peers(os.getpid(), ended, hosts=("here", "there"))
    assert far.ended() == []
    message = far.message("Connection closed\nby peer")
    assert message.startswith("rank 0 on here lost a process on another node (there): it ended")
    assert "within 60 s (Connection closed by peer)" in message


def test_a_stop_from_outside_accuses_no_rank():
    assert peers(os.getpid(), os.getpid()).message().startswith("stopped by SIGTERM; rerun the")


def test_the_first_living_rank_of_a_host_reports_for_it(ended):
    mine = os.getpid()
    assert peers(mine, mine).reports()
    assert not peers(mine, mine, me=1).reports()
    assert peers(ended, mine, me=1).reports()
    assert peers(mine, mine, me=1, hosts=("here", "there")).reports()


def test_a_lost_connection_becomes_an_error_after_a_while(ended, monkeypatch):
    monkeypatch.setattr(rank_failure, "PATIENCE", 0.1)
    error = peers(os.getpid(), ended).end_after(RuntimeError("Connection reset"))
    assert isinstance(error, RankLostError)
    assert "rank 1" in str(error)
