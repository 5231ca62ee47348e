"""The campaign of faults: `make faults` runs it and prints one table.

    python -m tests.faults --state runs/faults --kills 100 --few-kills 20 --inputs 100000
    python -m tests.faults --short --state runs/faults-short

Every try is noted in STATE/tries.jsonl before the next begins, and a rerun leaves out what is noted: the campaign
may be stopped at any time. Its last table is docs/trust.md's; --write puts it there.
"""

import argparse
import datetime
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.faults import damages, folders, fuzzing, hostile, kills, resources
from tests.faults.trial import COLUMNS

KINDS = ("kills", "damages", "hostile", "resources", "fuzzing")
MARKS = ("<!-- campaign -->", "<!-- /campaign -->")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "trust.md"


def noted(state: Path) -> list[dict[str, str]]:
    file = state / "tries.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line) for line in lines]


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
    """Yield a row for each try that is not noted yet."""
    known = {(row["kind"], row["name"]) for row in noted(options.state)}
    every = options.every

    def keep(kind: str) -> "kills.Keep":
        count = -1

        def wanted(name: str) -> bool:
            nonlocal count
            count += 1
            return count % every == 0 and (kind, name) not in known

        return wanted

    work = options.state / "work"
    work.mkdir(parents=True, exist_ok=True)
    folders.preload()
    sources = {
        "damages": lambda: damages.tries(work, keep("damages")),
        "hostile": lambda: hostile.tries(work, keep("hostile")),
        "resources": lambda: resources.tries(work, keep("resources")),
        "fuzzing": lambda: fuzzing.tries(
            work / "fuzzing", options.inputs, lambda name: ("fuzzing", name) not in known
        ),
        "kills": lambda: kills.tries(
            work, options.kills, options.few_kills, lambda name: ("kills", name) not in known
        ),
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
    before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
    when = f"{datetime.date.today().isoformat()}, commit {commit}{note}:"
    page.write_text(
        f"{before}{MARKS[0]}\n{when}\n\n{table(rows)}\n{MARKS[1]}{after}", encoding="utf-8"
    )


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
        "--short",
        action="store_true",
        help="3 kills of each kind, every 20th of the rest, 2,000 inputs",
    )
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    options = parser.parse_args()
    if options.short:
        options.kills, options.few_kills, options.every, options.inputs = 3, 3, 20, 2000
    options.state.mkdir(parents=True, exist_ok=True)
    for row in take(options):
        with open(options.state / "tries.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
        if row["column"] in ("refused unnamed", "traceback", "used silently"):
            print(f"{row['kind']}: {row['name']}: {row['column']}", flush=True)
    rows = noted(options.state)
    print(table(rows))
    if options.write:
        write(
            rows,
            note=""
            if options.every == 1
            else f", every {options.every}th damage, hostile input and lack",
        )
    return int(any(row["column"] in ("traceback", "used silently") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
