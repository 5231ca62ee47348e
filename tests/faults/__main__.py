"""The campaign of faults: `make faults` runs it and prints one table.

    python -m tests.faults --state runs/faults --kills 100 --few-kills 20 --inputs 100000 --jobs 2
    python -m tests.faults --short --state runs/faults-short

Every try is noted in STATE/tries.jsonl before the next begins, and a rerun leaves out what is noted: the campaign
may be stopped at any time. With --jobs each process takes its own part of the tries, in STATE/part-NUMBER. The last
table is docs/trust.md's; --write puts it there.
"""

import argparse
import datetime
import json
import math
import os
import re
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.faults import damages, folders, fuzzing, hostile, kills, resources
from tests.faults.trial import COLUMNS

KINDS = ("kills", "damages", "hostile", "resources", "fuzzing")
MARKS = ("<!-- campaign -->", "<!-- /campaign -->")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "trust.md"


def noted(state: Path) -> list[dict[str, str]]:
    """Return the tries that this process and its parts have noted."""
    files = [state / "tries.jsonl", *sorted(state.glob("part-*/tries.jsonl"))]
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def part_of(name: str, parts: int) -> int:
    """Return the part that takes a try; the kills of one block stay together."""
    kill = re.fullmatch(r"(.*, kill) (\d+)", name)
    block = name if kill is None else f"{kill[1]} {(int(kill[2]) - 1) // kills.KILLS_PER_TRAINING}"
    return zlib.crc32(block.encode()) % parts


def table(rows: list[dict[str, str]]) -> str:
    """Return the table of a campaign as Markdown."""
    lines = [
        "| | tried | " + " | ".join(COLUMNS) + " |",
        "| :-- |" + " --: |" * (len(COLUMNS) + 1),
    ]
    for kind in KINDS:
        of_kind = Counter[str]()
        for row in rows:
            if row["kind"] == kind:
                of_kind[row["column"]] += row.get("count", 1)
        if of_kind:
            cells = [f"{of_kind[column]:,}" for column in COLUMNS]
            lines.append(f"| {kind} | {of_kind.total():,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def take(options: argparse.Namespace) -> Iterator[dict[str, str]]:
    """Yield a row for each try of this part that is not noted yet."""
    known = {(row["kind"], row["name"]) for row in noted(options.state)}
    number, parts = options.part

    def keep(kind: str, every: int = 1) -> "kills.Keep":
        count = -1

        def wanted(name: str) -> bool:
            nonlocal count
            if re.search(options.match, name) is None:
                return False
            count += 1
            chosen = count % every == 0 and part_of(name, parts) == number
            return chosen and (kind, name) not in known

        return wanted

    work = home_of(options) / "work"
    work.mkdir(parents=True, exist_ok=True)
    folders.preload()
    every = options.every
    sources = {
        "damages": lambda: damages.tries(work, keep("damages", every)),
        "hostile": lambda: hostile.tries(work, keep("hostile", every)),
        "resources": lambda: resources.tries(work, keep("resources", every)),
        "fuzzing": lambda: fuzzing.tries(work / "fuzzing", options.inputs, keep("fuzzing")),
        "kills": lambda: kills.tries(work, options.kills, options.few_kills, keep("kills")),
    }
    for kind in options.only or KINDS:
        if kind != "fuzzing":
            for name, column in sources[kind]():
                yield {"kind": kind, "name": name, "column": column}
            continue
        blocks: dict[str, Counter[str]] = {}
        for name, column in sources[kind]():
            if name not in blocks and blocks:
                yield from _flushed(blocks)
            blocks.setdefault(name, Counter())[column] += 1
        yield from _flushed(blocks)


def home_of(options: argparse.Namespace) -> Path:
    """Return the folder in which this process works and notes."""
    number, parts = options.part
    return Path(options.state) / f"part-{number}" if parts > 1 else Path(options.state)


def run_parts(options: argparse.Namespace) -> bool:
    """Run as many processes as there are jobs; return whether all came to their end."""
    command = [sys.executable, "-m", "tests.faults", *sys.argv[1:]]
    parts = [
        subprocess.Popen([*command, "--part", f"{number}/{options.jobs}"])
        for number in range(options.jobs)
    ]
    return [part.wait() for part in parts] == [0] * options.jobs


def _part(text: str) -> tuple[int, int]:
    number, _, parts = text.partition("/")
    return int(number), int(parts)


def _flushed(blocks: dict[str, Counter[str]]) -> Iterator[dict[str, str]]:
    for name, counts in blocks.items():
        for column, count in counts.items():
            yield {"kind": "fuzzing", "name": name, "column": column, "count": count}
    blocks.clear()


def write(rows: list[dict[str, str]], page: Path = PAGE, note: str = "") -> None:
    """Put the table, its date and its commit into the page."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    text = page.read_text(encoding="utf-8")
    note = f", {note}" if note else ""
    before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
    when = f"{datetime.date.today().isoformat()}, commit {commit}{note}:"
    page.write_text(
        f"{before}{MARKS[0]}\n{when}\n\n{table(rows)}\n{MARKS[1]}{after}", encoding="utf-8"
    )


def take_and_note(options: argparse.Namespace) -> bool:
    """Take the tries of this process until none is left or its time is over."""
    file, end = home_of(options) / "tries.jsonl", time.monotonic() + 60 * options.minutes
    file.parent.mkdir(parents=True, exist_ok=True)
    used = _processor_seconds()
    for row in take(options):
        before, used = used, _processor_seconds()
        with open(file, "a") as notes:
            notes.write(json.dumps({**row, "seconds": round(used - before, 2)}) + "\n")
        if row["column"] in ("refused unnamed", "traceback", "used silently"):
            print(f"{row['kind']}: {row['name']}: {row['column']}", flush=True)
        if time.monotonic() > end:
            break
    return True


def _processor_seconds() -> float:
    """Return what this process and those that it has waited for have computed."""
    return sum(os.times()[:4])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--state", type=Path, default=Path("runs/faults"))
    parser.add_argument(
        "--kills", type=int, default=100, help="of each of the five commonest kinds of training"
    )
    parser.add_argument("--few-kills", type=int, default=20, help="of each other kind")
    parser.add_argument("--inputs", type=int, default=100_000, help="of the fuzzing")
    parser.add_argument(
        "--every", type=int, default=1, help="take every n-th damage, hostile input and lack only"
    )
    parser.add_argument("--only", nargs="+", choices=KINDS)
    parser.add_argument(
        "--match", default="", help="take tries only whose name holds this regular expression"
    )
    parser.add_argument(
        "--short",
        action="store_true",
        help="3 kills of each kind, every 20th of the rest, 2,000 inputs",
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the tries")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no try after that time"
    )
    parser.add_argument("--part", type=_part, default=(0, 1), help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    parser.add_argument("--note", default="", help="what the page says of the campaign's extent")
    options = parser.parse_args()
    if options.short:
        options.kills, options.few_kills, options.every, options.inputs = 3, 3, 20, 2000
    whole = options.part[1] == 1 and options.jobs > 1
    ended = run_parts(options) if whole else take_and_note(options)
    if options.part[1] > 1:
        return 0
    rows = noted(options.state)
    print(table(rows))
    if options.write:
        write(rows, note=options.note)
    return int(not ended or any(row["column"] in ("traceback", "used silently") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
