"""How far settings that the papers leave open, and the learning-rate schedule, decide the markers.

    python -m experiments.sensitivity [--out runs/papers]

Takes the real curves of the digits and of the `--medium` runs of fmce_table1.py, finds their markers under
other smoothers, CQI windows B, thresholds µ and numbers of phases K, and holds each against the step
curve that the same smoother gets. Then trains the digits and 5,000 images of Fashion-MNIST at 16 px
under cosine, constant and step schedules, all else equal. Time: about 12 minutes on one idle CPU
core. Puts one row a curve into results/sensitivity.jsonl. Expected: B moves E_K by a few epochs; the
printed two-tap smoother gives earlier markers than the recursive one; without the cosine's end the
same training converges at another epoch or not at all.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.paper_runs import MEDIUM, REDUCED, ROOT, Case
from experiments.result_rows import read_file
from experiments.run_script import run_script
from experiments.sections.sensitivity_curves import SCHEDULED, SCHEDULES
from fmce.config.io import to_dict
from fmce.config.presets import make_config
from fmce.config.run import RunConfig
from fmce.console.tables import epochs, number, print_table
from fmce.convergence.phases import NoPhasesError, PhaseConfig, find_phases
from fmce.convergence.smoothing import SMOOTHINGS
from fmce.maturity.train_classifier import train_classifier
from fmce.runs.log import read_done, record_result
from fmce.runs.run import Run, open_run

EXPERIMENT = "sensitivity"


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, vary the settings on each curve, record and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/papers"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "sensitivity.jsonl")
    parser.add_argument(
        "--finished", action="store_true", help="only runs that are done, train none"
    )
    parser.add_argument("--rows", action="store_true", help="print recorded rows, train nothing")
    options = parser.parse_args(argv)
    if not options.rows:
        record_schedules(options)
        for name, run in curves(options.out).items():
            record(options.results, "settings", name, run, {"variants": variants(run)})
    print_rows([row for row in read_file(options.results) if row["experiment"] == EXPERIMENT])


def record_schedules(options: argparse.Namespace) -> None:
    """Train each data set under each schedule, as far as it was not, and record a row each."""
    for data in SCHEDULED:
        for schedule in SCHEDULES:
            folder = schedule_folder(options.out, data, schedule)
            if not (options.finished and read_done(folder) is None):
                run = train_classifier(schedule_config(data, schedule), folder)
                record(options.results, f"schedule {schedule}", data, run, schedule_result(run))


def schedule_config(data: str, schedule: str, extra: Sequence[str] = ()) -> RunConfig:
    """Return the training of a data set under a schedule; seed 0, `extra` settings win."""
    settings = () if data == "digits" else REDUCED
    preset = "digits" if data == "digits" else "small"
    return make_config(preset, data, settings=[*settings, f"train.schedule={schedule}", *extra])


def schedule_folder(out: Path, data: str, schedule: str) -> Path:
    """Return where that training's run folder is."""
    return out / "reduced" / f"{data}-{schedule}-seed0"


def curves(out: Path) -> dict[str, Run]:
    """Return the finished runs whose curves are varied: the digits' and those of the medium cases."""
    folders = {"digits": schedule_folder(out, "digits", "cosine")}
    folders |= {case.name: medium_folder(out, case) for case in MEDIUM if case.phases}
    return {
        name: open_run(folder) for name, folder in folders.items() if read_done(folder) is not None
    }


def medium_folder(out: Path, case: Case) -> Path:
    """Return where fmce_table1.py trains a case."""
    return out / case.scale / f"{case.name}-seed0"


def variants(run: Run) -> list[dict[str, Any]]:
    """Return the markers under each changed setting, one setting at a time."""
    base = run.config.phases
    changed: list[tuple[str, PhaseConfig]] = [("as used", base)]
    changed += [
        (f"smoothing {s}", replace(base, smoothing=s)) for s in SMOOTHINGS if s != base.smoothing
    ]
    changed += [(f"B = {b}", replace(base, window=b)) for b in (1, 3, 10)]
    changed += [(f"µ × {f:g}", replace(base, threshold=f * base.threshold)) for f in (0.5, 2, 4)]
    changed += [(f"K = {k}", replace(base, num_phases=k)) for k in (5, 15)]
    return [{"setting": name, **found(run, config)} for name, config in changed]


def found(run: Run, config: PhaseConfig) -> dict[str, Any]:
    """Return the markers of a run's curve under a config, or why there are none."""
    try:
        phases = find_phases(run.losses, config, learning_rates=run.learning_rates)
    except NoPhasesError as reason:
        return {"markers": None, "because": str(reason)}
    return {
        "markers": list(phases.markers),
        "smoothing_distance": phases.smoothing_distance,
        "lr_fraction": phases.lr_fraction,
    }


def schedule_result(run: Run) -> dict[str, Any]:
    """Return a schedule's markers, also at looser thresholds, and where the training ended."""
    base = run.config.phases
    return {
        "schedule": run.config.train.schedule,
        "test_accuracy": (run.done or {})["test_accuracy"],
        "last_loss": run.losses[-1],
        "last_cqi": run.curve[-1]["cqi"],
        "variants": [
            {"setting": f"µ × {f:g}", **found(run, replace(base, threshold=f * base.threshold))}
            for f in (0.5, 1, 2, 4)
        ],
    }


def record(path: Path, what: str, data: str, run: Run, result: Mapping[str, Any]) -> None:
    """Record one row in place of an earlier one."""
    row = {
        "experiment": EXPERIMENT,
        "what": what,
        "data": data,
        "seed": run.config.train.seed,
        "result": result,
        "config": to_dict(run.config),
    }
    record_result(path, row, key=("what", "data", "seed"))


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the markers under each setting, a table a curve."""
    for row in rows:
        lines = [
            (v["setting"], epochs(v["markers"]), number(v.get("smoothing_distance"), 2),
             number(v.get("lr_fraction"), 2))
            for v in row["result"]["variants"]
        ]  # fmt: skip
        title = f"{row['data']}: {row['what']}, µ = {row['config']['phases']['threshold']:g}"
        print_table(title, ("setting", "markers", "to step curve", "lr at E_K"), lines)


if __name__ == "__main__":
    run_script(main)
