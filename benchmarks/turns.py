"""Timing for the benchmarks: two sides take turns, so that the noise of a shared machine falls on both."""

import argparse
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fmce.engine.runtime import Runtime

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "process": time.process_time}


def add_options(parser: argparse.ArgumentParser, repeats: int) -> None:
    """Add what every benchmark of turns can be asked for."""
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=repeats, help="turns")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="process: the processor time of this process, for a CPU that others use too "
        "(set OMP_NUM_THREADS=1, since threads add up)",
    )
    parser.add_argument("--record", action="store_true", help="append to results/benchmarks.jsonl")


def command() -> str:
    """Return the command line of the running benchmark, for its row; of files only the names."""
    threads = os.environ.get("OMP_NUM_THREADS")
    words = [Path(word).name if Path(word).is_file() else word for word in sys.argv[1:]]
    line = f"python benchmarks/{Path(sys.argv[0]).name} {shlex.join(words)}".strip()
    return f"OMP_NUM_THREADS={threads} {line}" if threads else line


def take_turns(
    first: Callable[[], None],
    second: Callable[[], None],
    runtime: Runtime,
    repeats: int,
    clock: str = "wall",
) -> tuple[list[float], list[float]]:
    """Time two functions in turn, each first every second time, after an uncounted turn each."""
    now = CLOCKS[clock]
    times: tuple[list[float], list[float]] = ([], [])
    pairs = list(zip((first, second), times, strict=True))
    for turn in range(repeats + 1):
        for function, kept in pairs[:: 1 if turn % 2 else -1]:
            synchronize(runtime)
            started = now()
            function()
            synchronize(runtime)
            if turn:
                kept.append(now() - started)
    return times


def median_ratio(numerators: list[float], denominators: list[float]) -> float:
    """Return the median of the turns' ratios."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def synchronize(runtime: Runtime) -> None:
    """Wait for the device."""
    if runtime.device.type == "cuda":
        torch.cuda.synchronize()
