"""Turn the output folder of a GPU run into rows under results/, with the device's name, and print the table.

    python -m benchmarks.gpu.collect FOLDER [--results results]

Rows of the papers go into the files of their experiments; tests and speeds into gpu.jsonl. A row that is
there already, of the same device, is replaced.
"""

import argparse
import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.floors import Cost
from benchmarks.gpu.lines import outcomes, read
from experiments.result_rows import Table
from fmce.files import write_text

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "fmce_table1": "fmce.jsonl",
    "fmce_table2": "fmce.jsonl",
    "distillation_segmentation": "distillation.jsonl",
}
COMMAND = "python -m benchmarks.gpu.run --minutes 9"
_DROPPED = ("status", "seconds", "turns", "traceback")
Row = dict[str, Any]


def main() -> None:
    """Collect and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    options = parser.parse_args()
    environment = environment_of(options.folder)
    device = environment["gpu"] or "cpu"
    date = datetime.date.today().isoformat()

    def about(benchmark: str, row: Row) -> Row:
        return {"date": date, "benchmark": benchmark, "device": device, "command": COMMAND, **row}

    tests = list(tested(read(options.folder / "tests.jsonl")).values())
    # What there was no time for leaves the row of an earlier call.
    found = with_floors(outcomes(read(options.folder / "speed.jsonl"))).values()
    speeds = [row for row in found if row["status"] != "skipped"]
    rows = [about("gpu_test", row) for row in tests]
    rows += [about("gpu_speed", row) for row in speeds]
    rows = [row | {"environment": environment} for row in rows]
    merge(options.results / "gpu.jsonl", rows, ("benchmark", "line", "device"))
    for row in read(options.folder / "results.jsonl"):
        file = FILES.get(row["experiment"], "gpu.jsonl")
        key = ("experiment", "what", "scale", "case", "seed")
        merge(options.results / file, [row], key)
    print(f"{device}: {counts(tests)}\n")
    print(speed_table(speeds))


def environment_of(folder: Path) -> Row:
    """Return the machine's description, which the speed part writes first."""
    for file in ("speed.jsonl", "results.jsonl"):
        for row in read(folder / file):
            if "environment" in row:
                return dict(row["environment"])
    raise SystemExit(f"collect: {folder} has no row that names its machine")


def tested(rows: Sequence[Row]) -> dict[str, Row]:
    """Return each test's outcome; one that failed and then passed alone is "passed alone"."""
    found: dict[str, Row] = {}
    for row in rows:
        alone = row.get("alone") and row["status"] == "passed"
        status = "passed alone" if alone else row["status"]
        found[row["line"]] = {**found.get(row["line"], {}), **row, "status": status}
    return {
        name: {k: v for k, v in row.items() if k not in ("traceback", "alone")}
        for name, row in found.items()
    }


def counts(tests: Sequence[Row]) -> str:
    """Say how many tests ended how."""
    states = [row["status"] for row in tests]
    return ", ".join(f"{states.count(s)} {s}" for s in sorted(set(states))) or "no tests"


def with_floors(speeds: Mapping[str, Row]) -> dict[str, Row]:
    """Add the floor under the ceilings measured beside each line, and the share of it reached."""
    ceilings = speeds.get("ceilings", {})
    found = {}
    for name, row in speeds.items():
        found[name] = {k: v for k, v in row.items() if k not in _DROPPED or k == "status"}
        if "operations" in row and "bandwidth" in ceilings:
            cost = Cost(row["operations"], row["bytes"], row["precision"])
            floor = cost.floor(ceilings)
            share = row["images_per_second"] / float(floor["floor_per_second"])
            found[name] |= {**floor, "share_of_floor": share}
    return found


def merge(path: Path, rows: Sequence[Row], key: Sequence[str]) -> None:
    """Put rows as they are into a JSON-lines file, each in place of an earlier one of its key."""
    kept = read(path)
    for row in rows:
        same = [i for i, old in enumerate(kept) if all(old.get(k) == row.get(k) for k in key)]
        if same:
            kept[same[0]] = row
        else:
            kept.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n" for row in kept)
    write_text(path, text)


def speed_table(speeds: Sequence[Row]) -> str:
    """Return the speeds as a Markdown table."""
    header = ("line", "images/s", "time over bare", "share of floor", "bound by", "peak MB")
    lines = []
    for row in speeds:
        if "images_per_second" not in row:
            why = row.get("reason") or row.get("error") or row["status"]
            if row["line"] == "ceilings" and row["status"] == "done":
                why = (
                    f"{row['bfloat16'] / 1e12:.0f} TFLOP/s bfloat16, {row['float32'] / 1e12:.0f} "
                    f"float32, {row['bandwidth'] / 1e12:.2f} TB/s"
                )
            lines.append((row["line"], str(why)[:60], "", "", "", ""))
            continue
        share, peak = row.get("share_of_floor"), row.get("peak_mb")
        lines.append(
            (
                row["line"],
                f"{row['images_per_second']:,.0f}",
                f"{row['ratio']:.3f}",
                "–" if share is None else f"{share:.3f}",
                str(row.get("bound", "–")),
                "–" if peak is None else f"{peak:,.0f}",
            )
        )
    return Table(header, lines).markdown()


if __name__ == "__main__":
    main()
