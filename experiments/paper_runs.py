"""The trainings behind the papers' tables, at three scales, and what their scripts share.

`paper`: the papers' networks at 224 px with preset `paper`, most valuable first; for GPUs. `medium`: real
images at their own size, class-balanced subsets of 10,000, with a network for processors; takes hours on a
processor, and is what docs/results.md is made of. `small`: the same with few images, done in minutes.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from experiments.result_rows import Row, Table, select
from experiments.script import options_parser, record
from fmce.config.choices import Keep
from fmce.config.presets import make_config
from fmce.config.run import RunConfig
from fmce.console.tables import print_table
from fmce.engine.loop import TrainingStoppedError
from fmce.engine.runtime import make_runtime, ranks_started
from fmce.files import read_json_lines
from fmce.maturity.train_classifier import train_classifier
from fmce.runs.run import Run

Scale = Literal["small", "medium", "paper"]

SHUFFLENET, RESNET = "torchvision:shufflenet_v2_x1_0", "torchvision:resnet50"


@dataclass(frozen=True)
class Case:
    """A network on a data set with the settings of one scale."""

    scale: Scale
    data: str
    model: str
    settings: str = ""
    """`section.field=value` texts with spaces between them, and none within one."""
    phases: bool = True
    """False for a short run that only shows that the set loads and trains."""
    label: str = ""
    """Tells cases of the same network and data set apart."""

    @property
    def name(self) -> str:
        """Name of its run folders, without the seed."""
        model = "" if self.model == "tiny" else "-" + self.model.partition(":")[2]
        label = f"-{self.label}" if self.label else ""
        return f"{self.data.replace(':', '-')}{model}{label}"

    def folder(self, out: Path, seed: int) -> Path:
        """Return its run folder with a seed."""
        return out / self.scale / f"{self.name}-seed{seed}"

    def config(self, seed: int, extra: Sequence[str] = ()) -> RunConfig:
        """Return the config of its run with a seed; `extra` settings win."""
        own = [f"model.name={self.model}", *self.settings.split(), f"train.seed={seed}", *extra]
        preset = "paper" if self.scale == "paper" else "small"
        return make_config(preset, self.data, settings=own)


# Written out although the preset `small` has the same µ and epochs: these runs are recorded with them.
_LENGTH = "train.epochs=30 phases.threshold=2e-2"
_BALANCED = f"data.train_images=10000 {_LENGTH}"
# Small enough for many trainings: the sweep of FMCE-Net++ and the study of schedules.
REDUCED = (
    "data.train_images=5000 data.image_size=16 data.shift=2 train.batch_size=64 runtime.channels_last=true "
    f"{_LENGTH}"
)
# At 32 px ShuffleNet's maps are 1×1 and say nothing in space; 64 px give 2×2. Fewer images and epochs: it is slow.
_LARGER = (
    "data.image_size=64 data.train_images=2000 train.batch_size=64 train.epochs=24 phases.threshold=4e-2 "
    "runtime.channels_last=true"
)
_SHORT = "train.epochs=12 phases.threshold=0.1 phases.num_phases=5"
# So short that no µ fits all sets: each has its own, a share of how far the loss falls.
_FEW = (
    "data.train_images=1000 train.batch_size=32 train.epochs=16 fmce_net.epochs=5 "
    "phases.relative_threshold=0.065 runtime.channels_last=true"
)
_PHOTOS = "image-folder:imagenette-84"

MEDIUM = (
    Case("medium", "mnist", "tiny", f"data.image_size=28 {_BALANCED}"),
    Case("medium", "fashion-mnist", "tiny", f"data.image_size=28 {_BALANCED}"),
    Case("medium", "cifar10", "tiny", f"data.image_size=32 {_BALANCED}"),
    Case("medium", "fashion-mnist", "tiny", REDUCED, label="16px"),
    Case("medium", "mnist", SHUFFLENET, _LARGER),
    Case("medium", "cifar100", "tiny", f"data.image_size=32 {_SHORT}", phases=False),
    Case("medium", _PHOTOS, "tiny", f"data.image_size=42 {_SHORT}", phases=False),
)
SMALL = (
    Case("small", "mnist", "tiny", f"data.image_size=28 {_FEW}"),
    Case("small", "fashion-mnist", "tiny", f"data.image_size=28 {_FEW}"),
    Case("small", "cifar10", "tiny", f"data.image_size=32 {_FEW}"),
)
_SMALL_SWEPT = f"data.image_size=16 data.shift=2 {_FEW}"
PAPER = (
    *(Case("paper", data, SHUFFLENET) for data in ("cifar10", "mnist", "fashion-mnist")),
    *(Case("paper", data, RESNET) for data in ("cifar10", "mnist", "fashion-mnist")),
    Case("paper", "mini-imagenet", SHUFFLENET),
    Case("paper", "mini-imagenet", RESNET, "train.epochs=150"),
)
# What FMCE-Net++ is swept on where the paper's grid is too much.
SWEPT: Mapping[str, Case] = {
    "small": Case("small", "fashion-mnist", "tiny", _SMALL_SWEPT, label="16px"),
    "medium": next(case for case in MEDIUM if case.settings == REDUCED),
}
CASES: Mapping[Scale, Sequence[Case]] = {"small": SMALL, "medium": MEDIUM, "paper": PAPER}


def paper_parser(doc: str, results: str) -> argparse.ArgumentParser:
    """Return a parser with the options of the scripts of FMCE's and FMCE-Net++'s tables and figures."""
    parser = options_parser(doc, results, "runs/papers")
    add, scale = parser.add_argument, parser.add_mutually_exclusive_group()
    for name, text in (
        ("small", "few images and a small network: minutes on a processor"),
        ("medium", "subsets of 10,000 images and small networks: hours on a processor"),
    ):
        scale.add_argument(
            f"--{name}", action="store_const", const=name, dest="scale", default="paper", help=text
        )
    add("--data", nargs="+", metavar="NAME", help="only these data sets")
    add("--model", nargs="+", metavar="NAME", help="only these networks")
    add("--rows", action="store_true", help="print the table from recorded rows, train nothing")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    text = "change every case, repeatable; give other --results too"
    add(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        dest="settings",
        help=text,
    )
    return parser


def is_asked(options: argparse.Namespace, about: Mapping[str, Any]) -> bool:
    """Return whether a row's or group's data set and network are among those asked for; all by default."""
    wanted = (("data", options.data), ("model", options.model))
    return all(not names or about[field] in names for field, names in wanted)


def rows_of(options: argparse.Namespace, experiment: str) -> list[Row]:
    """Return an experiment's recorded rows of the scale, data sets and networks asked for."""
    rows = select(read_json_lines(options.results), experiment=experiment, scale=options.scale)
    found = [row for row in rows if is_asked(options, row)]
    if not found:
        print(f"no row of {experiment} in {options.results} for these options")
    return found


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, *, together: bool = False
) -> argparse.Namespace:
    """Parse and check the options, and add `cases` and `runtime`; a mistake ends the script with exit code 2.

    `together`: whether processes that torchrun started train each network together; else they are refused.
    """
    options = parser.parse_args(argv)
    if ranks_started() > 1 and not together:
        parser.error("runs in one process; torchrun is for fmce_table1 and fmce_table2")
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
            "the paper's scale needs a GPU and there is none; take --small or --medium, or --device cpu if it may "
            "take weeks"
        )
    options.cases = cases
    try:
        options.runtime = make_runtime(options.device, together=together)
        for case in cases:
            case.config(0, options.settings)
    except ValueError as error:
        parser.error(str(error))
    return options


def run_cases(
    options: argparse.Namespace, work: Callable[[Case], None], show: Callable[[], None]
) -> None:
    """Do every case, then print what was recorded: no case waits for one without data or phases.

    Raises:
        ValueError: If some cases could not be done; says which and why.
    """
    failed, is_main = [], options.runtime.ranks.is_main
    for case in () if options.rows else options.cases:
        try:
            work(case)
        except (ValueError, OSError, TrainingStoppedError, torch.OutOfMemoryError) as error:
            failed.append(f"{case.name}: {error}")
            if is_main:
                print(f"not done: {failed[-1]}", flush=True)
    if is_main:
        show()
    if failed:
        raise ValueError(f"{len(failed)} not done: {'; '.join(failed)}")


def print_rows(
    options: argparse.Namespace,
    experiment: str,
    title: str,
    table: Callable[[Sequence[Row]], Table],
) -> None:
    """Print an experiment's recorded rows as a table."""
    print_table(title, *table(rows_of(options, experiment)))


def trained(case: Case, seed: int, options: argparse.Namespace) -> Run:
    """Return the case's run with a seed, trained as far as it was not."""
    # A checkpoint of the paper's networks takes 5 to 100 MB, and there are 100 to 250 of them.
    keep: Keep = "all" if options.scale != "paper" else "markers"
    config = case.config(seed, options.settings)
    folder = case.folder(options.out, seed)
    return train_classifier(config, folder, runtime=options.runtime, keep=keep)


def with_phases(run: Run) -> Run:
    """Return the run, which must have phases."""
    if not run.has_phases:
        raise ValueError(
            f"{run.path} has no phases, which this table needs: {(run.done or {}).get('no_phases_because')}. For "
            "another threshold or length choose another --out and --set phases.threshold=… or train.epochs=…"
        )
    return run


def training_result(run: Run) -> dict[str, Any]:
    """Return what a plain training came to: accuracy, markers and what made them, time."""
    done = run.done or {}
    result = {
        "test_accuracy": done["test_accuracy"],
        "train_images": len(run.setup.data.train),
        "test_images": len(run.setup.data.test),
        "epochs": done["epochs"],
        "last_loss": run.losses[-1],
        "seconds": sum(line["time_seconds"] for line in run.curve),
    }
    if run.has_phases:
        return result | marker_results(run)
    return result | {"markers": None, "no_phases_because": done["no_phases_because"]}


def marker_results(run: Run) -> dict[str, Any]:
    """Return a run's markers and what made them."""
    phases = run.phases
    return {
        "markers": list(phases.markers),
        "converged": phases.converged,
        "step_curve_markers": phases.step_curve_markers,
        "unsmoothed_markers": phases.unsmoothed_markers,
        "debiased_markers": phases.debiased_markers,
        "smoothing_distance": phases.smoothing_distance,
        "lr_fraction": phases.lr_fraction,
    }


def record_case(
    options: argparse.Namespace, experiment: str, what: str, case: Case, run: Run, result: Any
) -> None:
    """Record one row of a case, by the first process alone."""
    if options.runtime.ranks.is_main:
        about: dict[str, Any] = {
            "scale": case.scale,
            "case": case.name,
            "data": case.data,
            "model": case.model,
        }
        about["seed"] = run.config.train.seed
        record(options.results, experiment, what, run.config, result, **about)
