"""What a line of the table is, and how two sides of it take turns."""

import os
import resource
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.turns import median_ratio
from fmce.engine.runtime import make_runtime

CPU = make_runtime("cpu")


@dataclass(frozen=True)
class Effort:
    """How many turns the sides take; a quick table has few, of smaller sizes."""

    quick: bool

    def turns(self, normal: int) -> int:
        """Return the turns of this table, where the full one has so many."""
        return min(normal, 2) if self.quick else normal

    def size(self, normal: int, quick: int) -> int:
        """Return a size."""
        return quick if self.quick else normal


Found = Mapping[str, float]
"""Label of what was compared → the ratio, or seconds."""


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        what: What of fmce.
        against: Its peer.
        run: Measures.
        limit: The goal; None where the figure is only reported.
        kind: Whether the goal is a most or a least.
        unit: "" for ratios, or "s".
        why: The reason where a goal is missed, by label; "" holds for all.
        long: Whether a quick table leaves it out.
    """

    what: str
    against: str
    run: Callable[[Effort], Found]
    limit: float | None
    kind: Literal["at most", "at least"] = "at most"
    unit: str = ""
    why: Mapping[str, str] = field(default_factory=dict)
    long: bool = False

    def meets(self, value: float) -> bool | None:
        """Return whether a figure meets the goal; None without one."""
        if self.limit is None:
            return None
        return value <= self.limit if self.kind == "at most" else value >= self.limit


Side = Callable[[], object]


def processor_seconds() -> float:
    """Return the processor time of this process and of those that it waited for."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def in_turns(sides: Sequence[Side], turns: int, *, warm: bool = True) -> list[list[float]]:
    """Time functions in turn by processor time, after an uncounted turn of all where they shall be warm."""
    times: list[list[float]] = [[] for _ in sides]
    for turn in range(0 if warm else 1, turns + 1):
        for side, kept in zip(sides, times, strict=True):
            started = processor_seconds()
            side()
            if turn:
                kept.append(processor_seconds() - started)
    return times


def ratio(ours: Side, theirs: Side, turns: int) -> float:
    """Return the median over the turns of our time over the peer's."""
    return median_ratio(*in_turns((ours, theirs), turns))


def seconds(command: Sequence[str], turns: int) -> float:
    """Return the median processor time of a command."""
    return statistics.median(in_turns([lambda: silent(command)], turns)[0])


def silent(command: Sequence[str]) -> None:
    """Run a command and show what it prints only where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-500:]}")
