"""Bounded work in JSON lines: each measurement is written when it ends, so that a kill loses nothing."""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# A process whose GPU context is broken cannot measure anything more; the driver starts another one.
BROKEN = 3
_KEPT_TRACEBACK = 4000


@dataclass(frozen=True)
class Part:
    """Where a part of the run works, and until when.

    Attributes:
        out: Folder that is kept: small files only.
        state: Folder of run folders and data that a later call continues from.
        device: "cuda" or "cpu".
        tiny: The same code at sizes that a processor finishes in seconds.
        until: Unix time after which nothing new begins.
        epochs: Of CIFAR-10's rows; None chooses a length that fits.
    """

    out: Path
    state: Path
    device: str
    tiny: bool
    until: float
    epochs: int | None = None

    @property
    def seconds_left(self) -> float:
        """Seconds until the end."""
        return self.until - time.time()


def part_of(argv: Sequence[str] | None = None) -> Part:
    """Read a part's options as the driver passes them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--until", type=float, required=True)
    parser.add_argument("--epochs", type=int)
    return Part(**vars(parser.parse_args(argv)))


@dataclass(frozen=True)
class Line:
    """One measurement.

    Attributes:
        name: Names its row.
        run: Measures and returns JSON values.
        seconds: Time that must be left for it to begin.
        about: Further JSON values of the row, such as the floor on paper.
        resumes: Whether it continues where a process that broke left it.
    """

    name: str
    run: Callable[[], dict[str, Any]]
    seconds: float = 10
    about: dict[str, Any] = field(default_factory=dict)
    resumes: bool = False


class NotAvailableError(Exception):
    """What a line needs is not there, such as its data; the line is skipped with this reason."""


def append(path: Path, row: dict[str, Any]) -> None:
    """Append a row to a JSON-lines file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON-lines file; a last line that a kill cut short is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def outcomes(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the newest row of each line; one that began and never ended is "unfinished"."""
    newest: dict[str, dict[str, Any]] = {}
    for row in rows:
        for name in row.get("plan", ()):
            newest.setdefault(name, {"line": name, "status": "skipped", "reason": "no time"})
        if "line" in row:
            newest[row["line"]] = row
    for name, row in list(newest.items()):
        if row["status"] == "started":
            newest[name] = row | {"status": "unfinished"}
    return newest


def run_lines(path: Path, lines: Sequence[Line], part: Part) -> None:
    """Measure what the file does not hold yet, in order, while there is time."""
    before = outcomes(read(path))
    if not before:
        append(path, {"plan": [line.name for line in lines]})
    for line in lines:
        status = before.get(line.name, {}).get("status", "skipped")
        again = status == "skipped" or (status == "unfinished" and line.resumes)
        if not again:
            if status == "unfinished":
                append(path, before[line.name])
            continue
        if part.seconds_left < line.seconds:
            reason = f"{part.seconds_left:.0f} s left, {line.seconds:.0f} s needed"
            append(path, {"line": line.name, "status": "skipped", "reason": reason})
            continue
        _run_line(path, line)


def _run_line(path: Path, line: Line) -> None:
    append(path, {"line": line.name, "status": "started"})
    print(f"{line.name} …", flush=True)
    started = time.perf_counter()
    try:
        row = {"status": "done", **line.about, **line.run()}
    except NotAvailableError as reason:
        row = {"status": "skipped", "reason": str(reason)}
    except Exception as error:
        text = traceback.format_exc()[-_KEPT_TRACEBACK:]
        row = {"status": "failed", "error": f"{type(error).__name__}: {error}"[:500]}
        row["traceback"] = text
        if "CUDA error" in row["error"]:
            row["status"] = "unfinished"
        print(text, file=sys.stderr, flush=True)
    row = {"line": line.name, **row, "seconds": round(time.perf_counter() - started, 2)}
    append(path, row)
    short = {k: v for k, v in row.items() if k not in ("line", "traceback") and v is not None}
    print("   ", json.dumps(short), flush=True)
    if row["status"] == "unfinished":
        sys.exit(BROKEN)
