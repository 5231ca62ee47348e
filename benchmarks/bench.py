"""One table: fmce beside a peer, as ratios of processor time within one run.

    make bench                                   about 9 minutes on two idle cores
    make bench OPTIONS=--quick                   3 minutes, fewer turns and smaller sizes
    python -m benchmarks.bench [--quick] [--only WORD …] [--record]

Sides take turns, so that the noise of a shared machine falls on both; a figure is the median over the turns'
ratios of processor time, that of helper processes included. One thread: set OMP_NUM_THREADS=1, as `make bench`
does. Peers that do not live beside fmce's own needs are installed in `.peers/`; without one its line names it.
With --record the rows go into results/bench.jsonl, each in place of an earlier one.
"""

import argparse
import time
from pathlib import Path

from benchmarks.table import frames, functions, training
from benchmarks.table.lines import Effort, Line
from benchmarks.turns import command
from experiments.result_rows import record_result
from fmce.console.tables import print_table

RESULTS = Path(__file__).resolve().parent.parent / "results" / "bench.jsonl"


def main() -> None:
    """Measure and print; record where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="few turns, small sizes")
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", help="only lines that hold one of these words"
    )
    parser.add_argument(
        "--record", action="store_true", help="put the rows into results/bench.jsonl"
    )
    options = parser.parse_args()
    effort, cells = Effort(options.quick), []
    for line in (*training.lines(), *functions.lines(), *frames.lines()):
        if (options.quick and line.long) or not asked(line, options.only):
            continue
        started = time.perf_counter()
        found, problem = measured(line, effort)
        took = time.perf_counter() - started
        print(f"{line.what}: {took:.0f} s{f', {problem}' if problem else ''}", flush=True)
        cells += [cell(line, label, value) for label, value in found.items()]
        if problem:
            cells.append((line.what, "", line.against, "–", goal(line), problem[:60]))
        if options.record and found:
            record_result(RESULTS, row(line, found, options.quick), key=("benchmark", "what"))
    head = ("what", "of", "against", "figure", "goal", "")
    print_table("processor time, ratios", head, cells)


def asked(line: Line, words: list[str] | None) -> bool:
    """Return whether a line is wanted."""
    return not words or any(word in line.what for word in words)


def measured(line: Line, effort: Effort) -> tuple[dict[str, float], str]:
    """Return a line's figures, and why there are none."""
    try:
        return dict(line.run(effort)), ""
    except ModuleNotFoundError as error:
        return {}, f"no {error.name} here: run it by make bench"
    except Exception as error:  # one peer that fails must not take the table with it
        return {}, f"{type(error).__name__}: {error}"


def cell(line: Line, label: str, value: float) -> tuple[str, ...]:
    """Return one row of the table."""
    figure = f"{value:.3f}" if not line.unit else f"{value:.3g} {line.unit}"
    met = line.meets(value)
    verdict = (
        ""
        if met is None
        else "met"
        if met
        else f"missed: {line.why.get(label, line.why.get('', ''))}"
    )
    return (line.what, label, line.against, figure, goal(line), verdict.rstrip(": "))


def goal(line: Line) -> str:
    """Return a goal in words."""
    if line.limit is None:
        return "reported"
    return f"{'≤' if line.kind == 'at most' else '≥'} {line.limit:g}{f' {line.unit}' if line.unit else ''}"


def row(line: Line, found: dict[str, float], quick: bool) -> dict[str, object]:
    """Return what is recorded."""
    return {
        "benchmark": "bench",
        "what": line.what,
        "against": line.against,
        "figures": found,
        "goal": goal(line),
        "met": [line.meets(value) for value in found.values()],
        "why": dict(line.why),
        "quick": quick,
        "device": "cpu",
        "command": command(),
    }


if __name__ == "__main__":
    main()
