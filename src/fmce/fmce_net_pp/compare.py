"""`fmce compare`: FMCE-Net++ against its baseline and its controls, over paired seeds (methods of FMCE-Net++)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from fmce.config.io import defaults_of, to_dict
from fmce.config.run import AuxiliaryConfig, RunConfig
from fmce.console.progress import Progress
from fmce.console.tables import number, percent, print_table
from fmce.engine.jobs.run import run_jobs
from fmce.engine.runtime import Runtime, cores, make_runtime
from fmce.files import write_json
from fmce.fmce_net_pp.arms import (
    BASELINE,
    CONTROLS,
    TREATMENT,
    Length,
    arm_config,
    base_config,
    best_on_validation,
    check_is_that_arm,
    train_arm,
    treatment_with,
)
from fmce.fmce_net_pp.statistics import arm_cells, comparisons, epoch_seconds, summaries
from fmce.maturity.auxiliary import check_target_phase
from fmce.runs.log import lock_run, mark_done, read_done, read_metrics
from fmce.runs.run import Run, open_run

# Fields of the auxiliary loss that the comparison itself sets.
_OWN = ("kind", "oracle", "oracle_split", "oracle_digest", "oracle_weights", "raf", "same_seed")


@dataclass(frozen=True)
class Comparison:
    """What is compared. Seeds are those of the arms; the oracle's own must not be among them."""

    oracle: str
    """Run folder whose FMCE-Net is the oracle."""
    rafs: tuple[float, ...] = (0.9, 0.75)
    """Candidates; the best on validation images is taken."""
    seeds: tuple[int, ...] = (1, 2, 3)
    selection_seed: int = 100
    """Seed of the runs that choose RAF; they are no part of the arms."""
    controls: bool = True
    same_seed: bool = False
    """Also pair the two arms at the oracle's own seed, reported apart."""
    length: Length = "convergence"
    """Epochs of every arm: the oracle's convergence epoch E_K (paper), or its full M."""
    oracle_split: Literal["map", "image", "run", "test"] = "map"
    settings: tuple[str, ...] = ()
    """`auxiliary.field=value` for FMCE-Net++ and its controls, such as a cheaper form; all else is the oracle's."""

    def __post_init__(self) -> None:
        for setting in self.settings:
            _check_setting(setting)
        if not self.rafs or any(not 0 <= raf < 1 for raf in self.rafs):
            raise ValueError(
                f"RAF candidates must be in [0, 1), got {list(self.rafs)}; 1 is the baseline itself"
            )
        if len(set(self.seeds)) < 2 or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"expected at least two different seeds, got {list(self.seeds)}")
        if min(*self.seeds, self.selection_seed) < 0:
            raise ValueError(
                f"seeds must be 0 or more, got {list(self.seeds)}, {self.selection_seed}"
            )
        if self.selection_seed in self.seeds:
            raise ValueError(
                f"the selection seed {self.selection_seed} must not be among the arms' {list(self.seeds)}"
            )


def _check_setting(setting: str) -> None:
    section, _, name = setting.partition("=")[0].strip().partition(".")
    if section != "auxiliary":
        raise ValueError(
            f"expected auxiliary.FIELD=VALUE, got {setting!r}: the arms differ in the loss alone, all else is the "
            "oracle run's; fmce sweep compares other settings, each with an oracle of its own"
        )
    if name in _OWN:
        raise ValueError(
            f"auxiliary.{name} is set by the comparison itself, got {setting!r}; use the options for oracle, RAF and "
            "seeds"
        )


def compare(
    plan: Comparison,
    out: Path,
    *,
    jobs: int | None = None,
    runtime: Runtime | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Choose RAF on validation images, train all arms over the seeds, and compare them pair by pair.

    Args:
        plan: arms and seeds.
        out: folder of the comparison; each training is a run folder in `out/runs`, none is repeated.
        jobs: trainings at a time; by default as many as cores, one on a GPU.
        runtime: device and precision.
        quiet: print nothing.

    Returns:
        The contents of `compare.json`.

    Raises:
        FileNotFoundError: the oracle run has no phases or no FMCE-Net.
        ValueError: a seed is the oracle's own.
    """
    runtime = runtime or make_runtime()
    if jobs is not None and jobs < 1:
        raise ValueError(f"expected at least 1 training at a time, got --jobs {jobs}")
    oracle = open_run(plan.oracle)
    _check_oracle(oracle, plan)
    jobs = jobs or (cores() if runtime.device.type == "cpu" else 1)
    base = base_config(oracle, plan.length)
    text = yaml.safe_dump(_plain(plan), sort_keys=False)
    with lock_run(out, text, defaults=defaults_of(Comparison)):
        candidates = {
            _raf_name(raf): _arm(base, plan, TREATMENT, raf, plan.selection_seed)
            for raf in plan.rafs
        }
        if len(plan.rafs) == 1:
            candidates = {}
        with Progress("training arms", len(candidates) + _num_arms(plan)) as progress:
            _train_all(out / "selection", candidates, jobs, runtime, progress, read_test=False)
            selection = _selection(out / "selection", plan)
            arms = _arms(base, plan, selection["raf"], oracle.config.train.seed)
            _train_all(out / "runs", arms, jobs, runtime, progress, read_test=True)
        result = _result(out, plan, selection, arms, base.train.epochs)
        write_json(out / "compare.json", result)
        mark_done(out, {"raf": result["raf"]})
    if not quiet:
        print_comparison(result)
    return result


def _check_oracle(oracle: Run, plan: Comparison) -> None:
    treatment = _treatment(oracle.config, plan, plan.rafs[0], plan.seeds[0])
    net = oracle.fmce_net(plan.oracle_split, treatment.oracle_width)
    check_target_phase(treatment, net.num_phases)
    last = oracle.phases.convergence_epoch
    if plan.controls and last not in oracle.epochs:
        raise FileNotFoundError(
            f"{oracle.path} has no checkpoint of epoch {last}, which the control feature_matching needs; "
            "train the oracle's run again, or leave the controls out (--no-controls)"
        )
    seed = oracle.config.train.seed
    if seed in (*plan.seeds, plan.selection_seed):
        raise ValueError(
            f"seed {seed} is the oracle's own: an arm of that seed may only be pulled to its own checkpoint. "
            "Leave it out of the seeds; --same-seed adds that pair, reported apart"
        )


def _num_arms(plan: Comparison) -> int:
    per_seed = 2 + (len(CONTROLS) if plan.controls else 0)
    return per_seed * len(plan.seeds) + (2 if plan.same_seed else 0)


def _arms(base: RunConfig, plan: Comparison, raf: float, oracle_seed: int) -> dict[str, RunConfig]:
    names = [BASELINE, TREATMENT, *(CONTROLS if plan.controls else ())]
    arms = {
        _arm_name(arm, seed): _arm(base, plan, arm, raf, seed)
        for seed in plan.seeds
        for arm in names
    }
    if plan.same_seed:
        for arm in (BASELINE, TREATMENT):
            arms[_arm_name(arm, oracle_seed)] = _arm(base, plan, arm, raf, oracle_seed)
    return arms


def _arm(base: RunConfig, plan: Comparison, arm: str, raf: float, seed: int) -> RunConfig:
    return arm_config(base, arm, seed, _treatment(base, plan, raf, seed))


def _treatment(base: RunConfig, plan: Comparison, raf: float, seed: int) -> AuxiliaryConfig:
    auxiliary = AuxiliaryConfig(
        kind="ral",
        oracle=str(Path(plan.oracle).resolve()),
        oracle_split=plan.oracle_split,
        raf=raf,
        same_seed=seed not in (*plan.seeds, plan.selection_seed),
    )
    return treatment_with(auxiliary, plan.settings, base)


def _train_all(
    folder: Path,
    configs: Mapping[str, RunConfig],
    jobs: int,
    runtime: Runtime,
    progress: Progress,
    *,
    read_test: bool,
) -> None:
    place, waiting = (str(runtime.device), runtime.precision), {}
    for name, config in configs.items():
        if read_done(folder / name) is not None:
            check_is_that_arm(folder / name, config, runtime.precision)
            progress.advance(f"{name} was done")
            continue
        waiting[name] = (config, folder / name, *place, read_test, "markers")
    run_jobs(train_arm, waiting, jobs, progress)


def _selection(folder: Path, plan: Comparison) -> dict[str, Any]:
    """Return the RAF of highest validation accuracy; the lower validation loss decides between equals."""
    if len(plan.rafs) == 1:
        return {"raf": plan.rafs[0], "candidates": []}
    rows = []
    for raf in plan.rafs:
        last = read_metrics(folder / _raf_name(raf))[-1]
        rows.append(
            {
                "raf": raf,
                "seed": plan.selection_seed,
                "validation_accuracy": last["validation_accuracy"],
                "validation_loss": last["validation_loss"],
            }
        )
    return {"raf": best_on_validation(rows)["raf"], "candidates": rows}


def _result(
    out: Path,
    plan: Comparison,
    selection: dict[str, Any],
    arms: Mapping[str, RunConfig],
    epochs: int,
) -> dict[str, Any]:
    rows = []
    for name, config in arms.items():
        done = read_done(out / "runs" / name) or {}
        last = read_metrics(out / "runs" / name)[-1]
        rows.append(
            {
                "arm": name.rsplit("-seed", 1)[0],
                "seed": config.train.seed,
                "test_accuracy": done["test_accuracy"],
                "test_loss": done["test_loss"],
                "validation_accuracy": last["validation_accuracy"],
                "auxiliary_loss": last.get("auxiliary_loss"),
                "epoch_seconds": epoch_seconds(out / "runs" / name),
            }
        )
    paired = [row for row in rows if row["seed"] in plan.seeds]
    return {
        "oracle": plan.oracle,
        "raf": selection["raf"],
        "selection": selection["candidates"],
        "epochs": epochs,
        "length": plan.length,
        "seeds": list(plan.seeds),
        "settings": list(plan.settings),
        "rows": rows,
        "arms": summaries(paired),
        "comparisons": comparisons(paired),
        "same_seed": [row for row in rows if row["seed"] not in plan.seeds],
    }


def print_comparison(result: Mapping[str, Any]) -> None:
    """Print arms, paired differences and the verdict in words."""
    if result["selection"]:
        rows = [
            (row["raf"], percent(row["validation_accuracy"]), number(row["validation_loss"]))
            for row in result["selection"]
        ]
        print_table("RAF, chosen on validation images", ("RAF", "accuracy", "loss"), rows)
    against = {c["arm"]: c for c in result["comparisons"]}
    seeds = len(result["seeds"])
    arms = [arm_cells(arm, against.get(arm["arm"]), seeds) for arm in result["arms"]]
    title = f"Test accuracy, {seeds} paired seeds, {result['epochs']} epochs, RAF {result['raf']}"
    print_table(
        title, ("arm", "mean ± sd", "− baseline", "95 % interval", "p (Holm)", "epoch time"), arms
    )
    print(f"FMCE-Net++ against its baseline: {against[TREATMENT]['verdict']}")


def _plain(plan: Comparison) -> dict[str, Any]:
    values = to_dict(plan)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def _arm_name(arm: str, seed: int) -> str:
    return f"{arm}-seed{seed}"


def _raf_name(raf: float) -> str:
    return f"raf{raf!r}"
