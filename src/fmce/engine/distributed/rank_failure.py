"""When a process of a distributed training is gone: which one, what to do, and an end in bounded time.

A process that lost another cannot continue, and torchrun stops it a moment later. One survivor per host
writes which rank ended first and that a rerun resumes.
"""

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

RESUME = "rerun the command to resume from the last complete epoch"
# Seconds that a process waits for torchrun to stop it after another is gone. Ending at once would
# make it look like one of those that ended first.
PATIENCE = 5.0
_FAILING = threading.Event()


class RankLostError(RuntimeError):
    """Another process of this training ended or does not answer; the message says which and what to do."""


@dataclass(frozen=True)
class Peer:
    """One process of a distributed training."""

    rank: int
    host: str
    process: int


@dataclass(frozen=True)
class Peers:
    """All processes of a distributed training as one of them sees them.

    Attributes:
        me: This one.
        everyone: All of them, this one included, by rank.
        timeout: Seconds that they wait for one another.
    """

    me: Peer
    everyone: tuple[Peer, ...]
    timeout: float

    def local(self) -> list[Peer]:
        """Return those of this host."""
        return [peer for peer in self.everyone if peer.host == self.me.host]

    def ended(self) -> list[Peer]:
        """Return those of this host that run no more; of other hosts nothing is known."""
        return [peer for peer in self.local() if not is_running(peer.process)]

    def reports(self) -> bool:
        """Return whether this process is the one of its host that writes messages."""
        ended = self.ended()
        return self.me.rank == min(peer.rank for peer in self.local() if peer not in ended)

    def message(self, reason: str = "") -> str:
        """Return a line that says who is gone and what to do; `reason` is the error of a collective operation."""
        if ended := self.ended():
            names = ", ".join(f"{p.rank} (process {p.process} on {p.host})" for p in ended)
            many = "s" if len(ended) > 1 else ""
            return f"rank{many} {names} ended and the others cannot continue without it; {RESUME}"
        if not reason:
            return f"stopped by SIGTERM; {RESUME}"
        others = sorted({peer.host for peer in self.everyone} - {self.me.host})
        where = f"a process on another node ({', '.join(others)})" if others else "another process"
        return (
            f"rank {self.me.rank} on {self.me.host} lost {where}: it ended, or gave no answer within "
            f"{self.timeout:g} s ({' '.join(reason.split())[:160]}); see its own output, then {RESUME}"
        )

    def end_after(self, error: BaseException) -> RankLostError:
        """Wait for torchrun to stop this process; return the error to raise where it does not."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            time.sleep(0.1)
        return RankLostError(self.message(str(error)))


def is_running(process: int) -> bool:
    """Return whether a process of this host runs; one that ended but is not yet waited for does not."""
    try:
        if not Path("/proc/self/stat").exists():
            os.kill(process, 0)
            return True
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def report_on_sigterm(peers: Peers) -> None:
    """On SIGTERM, which torchrun sends when a rank is gone, write the message and end.

    A thread does it: the main thread may wait for a device, where no signal handler of Python's runs.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # signals belong to another thread then
    receiving, sending = os.pipe()
    os.set_blocking(sending, False)
    # Without a handler the process would end before the thread has read who is gone.
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    signal.set_wakeup_fd(sending, warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(receiving, peers), daemon=True).start()


def _listen(receiving: int, peers: Peers) -> None:
    while signal.SIGTERM not in os.read(receiving, 64):
        pass
    if not _FAILING.is_set() and peers.reports():
        os.write(sys.stderr.fileno(), f"fmce: {peers.message()}\n".encode())
    os._exit(128 + signal.SIGTERM)


def note_failure() -> None:
    """Note that this process ends by an error of its own, so that it does not report others."""
    _FAILING.set()
