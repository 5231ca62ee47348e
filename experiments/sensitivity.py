"""How far settings that the papers leave open, and the learning-rate schedule, decide the markers.

    python -m experiments.sensitivity [--out runs/papers]

Takes the real curves of the digits and of the `--medium` runs of fmce_table1, finds their markers under other
smoothers, CQI windows B, thresholds µ and numbers of phases K, and compares each with the step curve that the
same smoother gets. Then trains the digits and 5,000 images of Fashion-MNIST at 16 px under cosine, constant and
step schedules, all else equal. Time: about 12 minutes on one idle CPU core. If interrupted, rerun the command
to resume. Records one row per curve in results/sensitivity.jsonl. Expected: B moves E_K by a few epochs; the
printed two-tap smoother gives earlier markers than the recursive one; E_K is nearly the same under the three
schedules.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, get_args

from experiments.paper_runs import MEDIUM, REDUCED
from experiments.result_rows import select, table
from experiments.script import options_parser, record, run_script
from experiments.tables.fmce import VARIANT_COLUMNS
from fmce.config.presets import make_config
from fmce.config.run import RunConfig
from fmce.console.tables import print_table
from fmce.convergence.phases import NoPhasesError, PhaseConfig, find_phases
from fmce.convergence.smoothing import Smoothing
from fmce.files import read_json_lines
from fmce.maturity.train_classifier import train_classifier
from fmce.runs.log import read_done
from fmce.runs.run import Run, open_run

SCHEDULED, SCHEDULES = ("digits", "fashion-mnist"), ("cosine", "constant", "step")
EXPERIMENT = "sensitivity"


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, vary the settings on each curve, record and print."""
    parser = options_parser(__doc__, "sensitivity.jsonl", "runs/papers")
    parser.add_argument("--finished", action="store_true", help="only finished runs, train none")
    parser.add_argument("--rows", action="store_true", help="print recorded rows, train nothing")
    options = parser.parse_args(argv)
    save = partial(record, options.results, EXPERIMENT)
    for data, schedule in () if options.rows else product(SCHEDULED, SCHEDULES):
        folder = schedule_folder(options.out, data, schedule)
        if not (options.finished and read_done(folder) is None):
            run = train_classifier(schedule_config(data, schedule), folder)
            save(f"schedule {schedule}", run.config, schedule_result(run), data=data, seed=0)
    for data, run in () if options.rows else curves(options.out).items():
        result, seed = {"variants": variants(run)}, run.config.train.seed
        save("settings", run.config, result, data=data, seed=seed)
    for row in select(read_json_lines(options.results), experiment=EXPERIMENT):
        title = f"{row['data']}: {row['what']}, µ = {row['config']['phases']['threshold']:g}"
        print_table(title, *table(row["result"]["variants"], VARIANT_COLUMNS))


def schedule_config(data: str, schedule: str, extra: Sequence[str] = ()) -> RunConfig:
    """Return the training of a data set under a schedule; seed 0, `extra` settings win."""
    preset, settings = ("digits", []) if data == "digits" else ("small", REDUCED.split())
    return make_config(preset, data, settings=[*settings, f"train.schedule={schedule}", *extra])


def schedule_folder(out: Path, data: str, schedule: str) -> Path:
    """Return where that training's run folder is."""
    return out / "reduced" / f"{data}-{schedule}-seed0"


def curves(out: Path) -> dict[str, Run]:
    """Return the finished runs whose curves are varied: the digits' and those of the medium cases."""
    folders = {"digits": schedule_folder(out, "digits", "cosine")}
    folders |= {case.name: case.folder(out, 0) for case in MEDIUM if case.phases}
    return {
        name: open_run(folder) for name, folder in folders.items() if read_done(folder) is not None
    }


def variants(run: Run) -> list[dict[str, Any]]:
    """Return the markers under each changed setting, one setting at a time."""
    base = run.config.phases
    changed: list[tuple[str, PhaseConfig]] = [("as used", base)]
    changed += [
        (f"smoothing {s}", replace(base, smoothing=s))
        for s in get_args(Smoothing)
        if s != base.smoothing
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


if __name__ == "__main__":
    run_script(main)
