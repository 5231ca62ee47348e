"""The trainings behind the papers' tables, at three scales, and what their scripts share.

`paper`: the papers' networks at 224 px with preset `paper`, most valuable first; for GPUs. `medium`: real
images at their own size, class-balanced subsets of 10,000, with a network for processors; hours on a
processor, and what docs/results.md is made of. `small`: the same with few images, done in minutes. A
finished run folder is taken as it is and an unfinished one goes on, so every script may be given again
at any time.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from experiments.result_rows import read_file
from fmce.config.choices import Keep
from fmce.config.io import to_dict
from fmce.config.presets import make_config
from fmce.config.run import RunConfig
from fmce.engine.loop import TrainingStoppedError
from fmce.engine.runtime import Runtime, make_runtime, ranks_started
from fmce.maturity.train_classifier import train_classifier
from fmce.runs.log import record_result
from fmce.runs.run import Run

Scale = Literal["small", "medium", "paper"]

ROOT = Path(__file__).resolve().parent.parent
SHUFFLENET, RESNET = "torchvision:shufflenet_v2_x1_0", "torchvision:resnet50"


@dataclass(frozen=True)
class Case:
    """A network on a data set with the settings of one scale."""

    scale: Scale
    data: str
    model: str
    settings: tuple[str, ...] = ()
    phases: bool = True
    """False: a short run that shows only that the set loads and trains."""
    label: str = ""
    """Tells cases of the same network and data set apart."""

    @property
    def name(self) -> str:
        """Name of its run folders, without the seed."""
        model = "" if self.model == "tiny" else "-" + self.model.partition(":")[2]
        label = f"-{self.label}" if self.label else ""
        return f"{self.data.replace(':', '-')}{model}{label}"

    def config(self, seed: int, extra: Sequence[str] = ()) -> RunConfig:
        """Return the config of its run with a seed; `extra` settings win."""
        own = [f"model.name={self.model}", *self.settings, f"train.seed={seed}", *extra]
        preset = "paper" if self.scale == "paper" else "small"
        return make_config(preset, self.data, settings=own)


# Written out although the preset `small` has the same µ and epochs: these runs are recorded with them.
_LENGTH = ("train.epochs=30", "phases.threshold=2e-2")
_BALANCED = ("data.train_images=10000", *_LENGTH)
# Small enough for many trainings: the sweep of FMCE-Net++ and the study of schedules.
REDUCED = (
    *("data.train_images=5000", "data.image_size=16", "data.shift=2", "train.batch_size=64"),
    *("runtime.channels_last=true", *_LENGTH),
)
_SHORT = ("train.epochs=12", "phases.threshold=0.1", "phases.num_phases=5")

MEDIUM = (
    Case("medium", "mnist", "tiny", ("data.image_size=28", *_BALANCED)),
    Case("medium", "fashion-mnist", "tiny", ("data.image_size=28", *_BALANCED)),
    Case("medium", "cifar10", "tiny", ("data.image_size=32", *_BALANCED)),
    Case("medium", "fashion-mnist", "tiny", REDUCED, label="16px"),
    # At 32 px its maps are 1×1 and say nothing in space; 64 px give 2×2. Fewer images and epochs: it is slow.
    Case(
        "medium",
        "mnist",
        SHUFFLENET,
        (
            *("data.image_size=64", "data.train_images=2000", "train.batch_size=64"),
            *("train.epochs=24", "phases.threshold=4e-2", "runtime.channels_last=true"),
        ),
    ),
    Case("medium", "cifar100", "tiny", ("data.image_size=32", *_SHORT), phases=False),
    Case(
        "medium",
        "image-folder:imagenette-84",
        "tiny",
        ("data.image_size=42", *_SHORT),
        phases=False,
    ),
)
# So short that no µ fits all sets: each has its own, a share of how far the loss falls.
_FEW = (
    *("data.train_images=1000", "train.batch_size=32", "train.epochs=16", "fmce_net.epochs=5"),
    *("phases.relative_threshold=0.065", "runtime.channels_last=true"),
)
SMALL = (
    Case("small", "mnist", "tiny", ("data.image_size=28", *_FEW)),
    Case("small", "fashion-mnist", "tiny", ("data.image_size=28", *_FEW)),
    Case("small", "cifar10", "tiny", ("data.image_size=32", *_FEW)),
)
SMALL_SWEEP = Case(
    *("small", "fashion-mnist", "tiny"), ("data.image_size=16", "data.shift=2", *_FEW), label="16px"
)
PAPER = (
    *(Case("paper", data, SHUFFLENET) for data in ("cifar10", "mnist", "fashion-mnist")),
    *(Case("paper", data, RESNET) for data in ("cifar10", "mnist", "fashion-mnist")),
    Case("paper", "mini-imagenet", SHUFFLENET),
    Case("paper", "mini-imagenet", RESNET, ("train.epochs=150",)),
)


# What FMCE-Net++ is swept on where the paper's grid is too much.
SWEPT: Mapping[str, Case] = {
    "small": SMALL_SWEEP,
    "medium": next(case for case in MEDIUM if case.settings == REDUCED),
}
CASES: Mapping[Scale, Sequence[Case]] = {"small": SMALL, "medium": MEDIUM, "paper": PAPER}


def missing_cases(rows: Sequence[Mapping[str, Any]], *, phases_only: bool = False) -> list[str]:
    """Return the names of the medium cases that none of these rows is of."""
    there = {row.get("case") for row in rows}
    wanted = [case for case in MEDIUM if case.phases or not phases_only]
    return [case.name for case in wanted if case.name not in there]


def options_parser(doc: str, results: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all these scripts have.

    Args:
        doc: the script's docstring; its first line becomes the help's.
        results: name of its file under results/.
    """
    parser = argparse.ArgumentParser(
        description=doc.splitlines()[0], epilog=doc.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument(
        "--small",
        action="store_const",
        const="small",
        dest="scale",
        default="paper",
        help="few images and a small network: minutes on a processor",
    )
    scale.add_argument(
        "--medium",
        action="store_const",
        const="medium",
        dest="scale",
        help="subsets of 10,000 images and small networks: hours on a processor",
    )
    add("--data", nargs="+", metavar="NAME", help="only these data sets")
    add("--model", nargs="+", metavar="NAME", help="only these networks")
    add("--out", type=Path, default=Path("runs/papers"), help="folder of the runs (%(default)s)")
    add("--results", type=Path, default=ROOT / "results" / results, help="file of the rows")
    add("--rows", action="store_true", help="print the table from recorded rows, train nothing")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", dest="settings",
        help="change every case, repeatable; give other --results too")  # fmt: skip
    return parser


def is_asked(options: argparse.Namespace, about: Mapping[str, Any]) -> bool:
    """Return whether a row's or group's data set and network are among those asked for; all by default."""
    wanted = (("data", options.data), ("model", options.model))
    return all(not names or about[field] in names for field, names in wanted)


def rows_of(options: argparse.Namespace, experiment: str) -> list[dict[str, Any]]:
    """Return an experiment's recorded rows of the scale, data sets and networks asked for."""
    rows = [row for row in read_file(options.results) if row["experiment"] == experiment]
    found = [row for row in rows if row["scale"] == options.scale and is_asked(options, row)]
    if not found:
        print(f"no row of {experiment} in {options.results} for these options")
    return found


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, *, together: bool = False
) -> argparse.Namespace:
    """Parse and check; adds `cases` and `runtime`. What is wrong ends the script with exit code 2.

    Args:
        parser: from `options_parser`.
        argv: None is the command line's.
        together: whether processes that torchrun started train each network together; else they are refused.
    """
    options = parser.parse_args(argv)
    if ranks_started() > 1 and not together:
        parser.error("runs in one process; torchrun is for fmce_table1.py and fmce_table2.py")
    all_cases = cases = tuple(CASES[options.scale])
    for field, wanted in (("data", options.data), ("model", options.model)):
        known = list(dict.fromkeys(getattr(case, field) for case in all_cases))
        unknown = sorted(set(wanted or ()) - set(known))
        if unknown:
            parser.error(f"--{field} {unknown[0]}: expected some of {', '.join(known)}")
        cases = tuple(c for c in cases if not wanted or getattr(c, field) in wanted)
    if not cases:
        parser.error("no case has both this --data and this --model")
    on_processors = options.scale != "paper"
    if not (on_processors or options.rows or options.device != "auto" or torch.cuda.is_available()):
        parser.error(
            "the paper's scale wants a GPU and there is none; take --small or --medium, or say --device cpu "
            "if weeks do not matter"
        )
    options.cases = cases
    try:
        options.runtime = make_runtime(options.device, together=together)
        for case in cases:
            case.config(0, options.settings)
    except ValueError as error:
        parser.error(str(error))
    return options


def each_case(options: argparse.Namespace, work: Callable[[Case], None]) -> list[str]:
    """Do every case, so that hours of others do not wait for one whose data is missing or that has no phases.

    Args:
        options: says by its `rows` that nothing is to be done.
        work: does a case.

    Returns:
        What could not be done, with the reason.
    """
    failed = []
    for case in () if options.rows else options.cases:
        try:
            work(case)
        except (ValueError, OSError, TrainingStoppedError, torch.OutOfMemoryError) as error:
            failed.append(f"{case.name}: {error}")
            if options.runtime.ranks.is_main:
                print(f"not done: {failed[-1]}", flush=True)
    return failed


def end(failed: Sequence[str]) -> None:
    """End a script whose cases were not all done as one that failed.

    Raises:
        ValueError: says what was not done.
    """
    if failed:
        raise ValueError(f"{len(failed)} not done: {'; '.join(failed)}")


def trained(case: Case, seed: int, options: argparse.Namespace) -> Run:
    """Return the case's run with a seed, trained as far as it was not."""
    folder = options.out / case.scale / f"{case.name}-seed{seed}"
    runtime: Runtime = options.runtime
    # A network of the paper's takes 5 to 100 MB a checkpoint, and there are 100 to 250 of them.
    keep: Keep = "all" if options.scale != "paper" else "markers"
    return train_classifier(case.config(seed, options.settings), folder, runtime=runtime, keep=keep)


def with_phases(run: Run) -> Run:
    """Return a run that has phases.

    Raises:
        ValueError: it has none; says why and what to change.
    """
    if not run.has_phases:
        raise ValueError(
            f"{run.path} has no phases, which this table is about: "
            f"{(run.done or {}).get('no_phases_because')}. Another threshold or length goes into another "
            "--out with --set phases.threshold=… or --set train.epochs=…"
        )
    return run


def training_result(run: Run) -> dict[str, Any]:
    """Return what a plain training came to: accuracy, markers and what made them, time."""
    done = run.done or {}
    result: dict[str, Any] = {
        "test_accuracy": done["test_accuracy"],
        "train_images": len(run.setup.data.train),
        "test_images": len(run.setup.data.test),
        "epochs": done["epochs"],
        "last_loss": run.losses[-1],
        "seconds": sum(line["time_seconds"] for line in run.curve),
        "markers": None,
    }
    if not run.has_phases:
        return result | {"no_phases_because": done["no_phases_because"]}
    phases = run.phases
    return result | {
        "markers": list(phases.markers),
        "converged": phases.converged,
        "step_curve_markers": phases.step_curve_markers,
        "unsmoothed_markers": phases.unsmoothed_markers,
        "debiased_markers": phases.debiased_markers,
        "smoothing_distance": phases.smoothing_distance,
        "lr_fraction": phases.lr_fraction,
    }


def record(
    options: argparse.Namespace, experiment: str, what: str, case: Case, run: Run, result: Any
) -> None:
    """Record one row in place of an earlier one of the same case, seed and name, by the first process alone."""
    if not options.runtime.ranks.is_main:
        return
    row = {
        "experiment": experiment,
        "what": what,
        "scale": case.scale,
        "case": case.name,
        "data": case.data,
        "model": case.model,
        "seed": run.config.train.seed,
        "result": result,
        "config": to_dict(run.config),
    }
    key = ("experiment", "what", "scale", "case", "seed")
    record_result(options.results, row, key=key)
    print(f"recorded: {case.name}, seed {run.config.train.seed}: {what}", flush=True)
