"""What the benchmarks share. Sides take turns, so that the noise of a shared machine falls on both."""

import argparse
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from experiments.result_rows import record_result
from fmce.engine.runtime import Runtime

RESULTS = Path(__file__).resolve().parent.parent / "results" / "benchmarks.jsonl"
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "process": time.process_time}


def benchmark_parser(doc: str, repeats: int | None = None) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have.

    Args:
        doc: The benchmark's docstring; the help shows it.
        repeats: How many turns it takes by default; adds --repeats and --clock.
    """
    parser = argparse.ArgumentParser(
        description=doc.splitlines()[0],
        epilog=doc.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--record", action="store_true", help="put the row into results/benchmarks.jsonl"
    )
    if repeats:
        parser.add_argument("--repeats", type=int, default=repeats, help="turns")
        text = "process: the processor time of this process, for a CPU that others use too "
        text += "(set OMP_NUM_THREADS=1, since threads add up)"
        parser.add_argument("--clock", choices=CLOCKS, default="wall", help=text)
    return parser


def start_row(
    benchmark: str, options: argparse.Namespace, runtime: Runtime, *names: str, **about: Any
) -> dict[str, Any]:
    """Return a benchmark's row without its measurements.

    Args:
        benchmark: Name of the benchmark.
        options: Of the command line.
        runtime: Where it runs.
        names: Options that the row holds.
        about: What else it holds.
    """
    row = {"device": runtime.device.type, "command": command(), "benchmark": benchmark}
    return row | {name: getattr(options, name) for name in names} | about


def show(row: Mapping[str, Any]) -> None:
    """Print a row, one value per line."""
    width = max(map(len, row))
    for name, value in row.items():
        print(f"{name:{width}s} {f'{value:.4g}' if isinstance(value, float) else value}")


def record(row: Mapping[str, Any], options: argparse.Namespace, key: Sequence[str]) -> None:
    """With --record, put a row in place of an earlier one of the same benchmark, device and key."""
    if options.record:
        record_result(RESULTS, row, key=("benchmark", "device", *key))


def command() -> str:
    """Return the command line of the running benchmark, for its row; of files only the names."""
    threads = os.environ.get("OMP_NUM_THREADS")
    words = [Path(word).name if Path(word).is_file() else word for word in sys.argv[1:]]
    spec = sys.modules["__main__"].__spec__
    line = f"python -m {spec.name if spec else Path(sys.argv[0]).stem} {shlex.join(words)}".strip()
    return f"OMP_NUM_THREADS={threads} {line}" if threads else line


def take_turns(
    sides: Sequence[Callable[[], None]], runtime: Runtime, repeats: int, clock: str = "wall"
) -> list[list[float]]:
    """Time functions in turn, after an uncounted turn of all.

    The order never changes: a function that runs right after itself finds its memory as it left it and
    is a few percent faster, so each has to come after another one every time.
    """
    now = CLOCKS[clock]
    times: list[list[float]] = [[] for _ in sides]
    for turn in range(repeats + 1):
        for function, kept in zip(sides, times, strict=True):
            synchronize(runtime)
            # The engine's choice of TF32 for all: PyTorch's own would let a bare loop round and be faster.
            with runtime.matmul_precision():
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
        torch.cuda.synchronize(runtime.device)
