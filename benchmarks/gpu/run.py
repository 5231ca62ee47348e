"""Run the parts one after the other within a number of minutes, each in a process that may be stopped.

    python -m benchmarks.gpu.run --minutes 9 [--device cuda|cpu] [--tiny] [--parts tests speed rows]
                                 [--epochs N] [--out DIR] [--state DIR] [--packed DIR]

Every measurement is in a file of `--out` as soon as it ends. `--state` holds data and run folders on the
machine; at the end as much of it as a later call needs is packed into `--out`.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from benchmarks.gpu.lines import BROKEN, Part, append, outcomes, read
from benchmarks.gpu.state import load_state, run_folders, save_state, take_parts

ROOT = Path(__file__).resolve().parents[2]
MODULES = {"tests": "gpu_tests", "speed": "speed", "rows": "rows"}
# Share of the whole time after which a part has to be over, where others follow.
_ENDS = {"tests": 0.45, "speed": 0.65, "rows": 1.0}
# A process whose GPU context broke, or that was killed for memory, is started again so often.
_STARTS = 4
_SAVING_SECONDS = 12.0


def main() -> None:
    """Run the parts asked for."""
    options = parse()
    started = time.time()
    end = started + 60 * options.minutes - (2.0 if options.tiny else _SAVING_SECONDS)
    options.out.mkdir(parents=True, exist_ok=True)
    options.state.mkdir(parents=True, exist_ok=True)
    with open(options.out / "log.txt", "a", encoding="utf-8") as log:
        tell(log, f"parts {' '.join(options.parts)}, {options.minutes:g} minutes")
        if not (options.state / "settings.json").exists() and load_state(
            options.packed / "state", options.state
        ):
            tell(log, f"continuing from the state in {options.packed / 'state'}")
        take_parts(options.packed, options.state)
        for name in options.parts:
            last = name == options.parts[-1]
            share = 1.0 if last else _ENDS[name]
            until = min(end, started + share * 60 * options.minutes)
            part = Part(
                options.out, options.state, options.device, options.tiny, until, options.epochs
            )
            run_part(name, part, end, log)
            if (options.out / "speed.jsonl").exists():  # later calls choose by it how they train
                shutil.copyfile(options.out / "speed.jsonl", options.state / "speed.jsonl")
        finish(options, log, started)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--minutes", type=float, default=9, help="all in all (%(default)s)")
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--tiny", action="store_true", help="the same code on small sizes, for a processor")
    add("--parts", nargs="+", choices=MODULES, default=list(MODULES))
    add("--epochs", type=int, help="of CIFAR-10's rows; by default what fits")
    add("--out", type=Path, default=Path("runs/gpu"), help="folder of results (%(default)s)")
    state = Path(tempfile.gettempdir()) / "fmce-gpu"
    add("--state", type=Path, default=state, help="folder of data and runs (%(default)s)")
    add("--packed", type=Path, default=ROOT / ".gpu", help="what pack.py made (%(default)s)")
    options = parser.parse_args()
    options.out, options.state = options.out.resolve(), options.state.resolve()
    return options


def run_part(name: str, part: Part, end: float, log: IO[str]) -> None:
    """Run one part until its time is up; start it again where its process broke."""
    command = [sys.executable, "-m", f"benchmarks.gpu.{MODULES[name]}"]
    command += ["--out", str(part.out), "--state", str(part.state), "--device", part.device]
    command += ["--until", str(part.until), *(["--tiny"] if part.tiny else [])]
    command += ["--epochs", str(part.epochs)] if part.epochs else []
    lines = 0
    for _ in range(_STARTS):
        began = time.time()
        # A measurement that has begun may take a little longer than the part's share.
        code = supervised(command, environment_of(part), min(end, part.until + 10) - began, log)
        tell(log, f"{name}: {time.time() - began:.0f} s, {code}")
        lines, before = len(read(part.out / f"{name}.jsonl")), lines
        if code in ("ended", "stopped") or part.seconds_left < 20 or lines == before:
            return


def environment_of(part: Part) -> Mapping[str, str]:
    """Return the parts' environment: data laid out from packed parts, compiled code kept beside it."""
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    env["TORCHINDUCTOR_CACHE_DIR"] = str(part.state / "compiled")
    if (part.state / "data").is_dir():
        env["FMCE_DATA"] = str(part.state / "data")
    env.setdefault("FMCE_DATA", str(part.state / "data"))
    return env


def supervised(command: list[str], env: Mapping[str, str], seconds: float, log: IO[str]) -> str:
    """Run a command in a process group of its own and say how it ended: ended, stopped, or its exit code."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    reader = threading.Thread(target=copy_lines, args=(process.stdout, log), daemon=True)
    reader.start()
    try:
        process.wait(timeout=max(1.0, seconds))
        stopped = False
    except subprocess.TimeoutExpired:
        stopped = True
    for number in (signal.SIGTERM, signal.SIGKILL):  # helpers that it started, too
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=3)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    reader.join(timeout=3)
    if stopped:
        return "stopped"
    broken = process.returncode == BROKEN or process.returncode != 0
    return f"exit code {process.returncode}" if broken else "ended"


def copy_lines(source: IO[str], log: IO[str]) -> None:
    """Show and keep what a part prints."""
    for line in source:
        tell(log, line.rstrip("\n"))


def tell(log: IO[str], text: str) -> None:
    """Print a line and keep it."""
    print(text, flush=True)
    log.write(text + "\n")
    log.flush()


def finish(options: argparse.Namespace, log: IO[str], started: float) -> None:
    """Pack what a later call needs and print what there is."""
    for folder in run_folders(options.state):
        epochs, place = len(read(folder / "metrics.jsonl")), folder.relative_to(options.state)
        done = (folder / "DONE.json").exists()
        append(options.out / "rows.jsonl", {"run": str(place), "epochs": epochs, "done": done})
    if "rows" in options.parts:
        left_out = save_state(options.state, options.out)
        if left_out:
            append(options.out / "rows.jsonl", {"not carried": left_out})
    for name in MODULES:
        file = options.out / f"{name}.jsonl"
        for row in outcomes(read(file)).values():
            tell(log, summary(row))
    tell(log, f"{time.time() - started:.0f} s in all")


def summary(row: Mapping[str, object]) -> str:
    """Return a row in one line."""
    rate, ratio = row.get("images_per_second"), row.get("ratio")
    said = f"{rate:,.1f}/s" if isinstance(rate, float) else ""
    said += f", {ratio:.3f} of bare" if isinstance(ratio, float) else ""
    said += str(row.get("reason") or row.get("error") or row.get("test_accuracy") or "")
    return f"{row['status']:10s} {row['line']}: {said}"


if __name__ == "__main__":
    main()
