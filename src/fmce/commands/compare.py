"""`fmce compare`: FMCE-Net++ against its baseline and its controls, over paired seeds (methods of FMCE-Net++)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from fmce.commands.show import number, percent, print_table
from fmce.commands.train import as_recorded, settled
from fmce.configs import AuxiliaryConfig, RunConfig, defaults_of, to_dict
from fmce.engine.files import write_json
from fmce.engine.jobs import run_jobs
from fmce.engine.progress import Progress
from fmce.engine.runlog import mark_done, open_for_writing, read_done, read_metrics
from fmce.engine.runtime import Runtime, cores, make_runtime
from fmce.metrics.statistics import holm, mean_sd, paired_comparison
from fmce.run_folder import Run, open_run

Length = Literal["convergence", "full"]

BASELINE, TREATMENT = "baseline", "ral"
CONTROLS = ("random_oracle", "phase_1", "scaled_rate", "feature_matching")


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

    def __post_init__(self) -> None:
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
    base = _base_config(oracle, plan)
    text = yaml.safe_dump(_plain(plan), sort_keys=False)
    with open_for_writing(out, text, defaults=defaults_of(Comparison)):
        candidates = {
            _raf_name(raf): _arm(base, plan, TREATMENT, raf, plan.selection_seed)
            for raf in plan.rafs
        }
        if len(plan.rafs) == 1:
            candidates = {}
        with Progress("training arms", len(candidates) + _num_arms(plan), quiet=quiet) as progress:
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
    oracle.scorer(plan.oracle_split)
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


def _base_config(oracle: Run, plan: Comparison) -> RunConfig:
    config = oracle.config
    epochs = (
        oracle.phases.convergence_epoch if plan.length == "convergence" else config.train.epochs
    )
    return replace(config, train=replace(config.train, epochs=epochs), auxiliary=AuxiliaryConfig())


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
    """Return one training's config; arms of one seed share initial weights, data order and length."""
    train = replace(base.train, seed=seed)
    if arm == BASELINE:
        return replace(base, train=train)
    if arm == "scaled_rate":
        # Scaling the loss would be no control: Adam divides the scale out again.
        return replace(
            base, train=replace(train, learning_rate=train.learning_rate * max(raf, 1e-6))
        )
    oracle = str(Path(plan.oracle).resolve())
    auxiliary = AuxiliaryConfig(
        kind="ral",
        oracle=oracle,
        oracle_split=plan.oracle_split,
        raf=raf,
        same_seed=seed not in (*plan.seeds, plan.selection_seed),
    )
    changes: Mapping[str, dict[str, Any]] = {
        TREATMENT: {},
        "random_oracle": {"oracle_weights": "random"},
        "phase_1": {"target_phase": 1},
        "feature_matching": {"kind": "feature_matching"},
    }
    return replace(base, train=train, auxiliary=replace(auxiliary, **changes[arm]))


def _train_all(
    folder: Path,
    configs: Mapping[str, RunConfig],
    jobs: int,
    runtime: Runtime,
    progress: Progress,
    *,
    read_test: bool,
) -> None:
    waiting = {}
    for name, config in configs.items():
        if read_done(folder / name) is not None:
            _check_is_that_arm(folder / name, config, runtime)
            progress.advance(f"{name} was done")
            continue
        waiting[name] = (config, folder / name, str(runtime.device), runtime.precision, read_test)
    run_jobs(_train_one, waiting, jobs, progress)


def _check_is_that_arm(folder: Path, config: RunConfig, runtime: Runtime) -> None:
    """Refuse a finished arm of another length, precision or oracle: it would be paired with unlike ones."""
    # As `train` records it: the oracle's own `runtime` section holds where this call names nothing else.
    wanted, _ = settled(config, make_runtime(str(runtime.device), runtime.precision))
    if open_run(folder).config != as_recorded(wanted):
        raise ValueError(
            f"{folder} was trained with another config, oracle or precision than this comparison has now; "
            "compare into a new folder, or delete that one to train it again"
        )


def _train_one(
    config: RunConfig, folder: Path, device: str, precision: str, read_test: bool
) -> None:
    from fmce.commands.train import train

    train(
        config,
        folder,
        runtime=make_runtime(device, precision),
        keep="markers",
        read_test=read_test,
        quiet=True,
    )


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
    best = max(rows, key=lambda row: (row["validation_accuracy"], -row["validation_loss"]))
    return {"raf": best["raf"], "candidates": rows}


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
                "epoch_seconds": _epoch_seconds(out / "runs" / name),
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
        "rows": rows,
        "arms": _summaries(paired),
        "comparisons": _comparisons(paired),
        "same_seed": [row for row in rows if row["seed"] not in plan.seeds],
    }


def _epoch_seconds(folder: Path) -> float:
    """Return the median time of an epoch; with several trainings at a time it is a rough one."""
    return float(np.median([row["time_seconds"] for row in read_metrics(folder)]))


def _summaries(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    summaries = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        mine = [row for row in rows if row["arm"] == arm]
        mean, sd = mean_sd([row["test_accuracy"] for row in mine])
        seconds = float(np.median([row["epoch_seconds"] for row in mine]))
        summaries.append({"arm": arm, "mean": mean, "sd": sd, "epoch_seconds": seconds})
    baseline = next(s["epoch_seconds"] for s in summaries if s["arm"] == BASELINE)
    for summary in summaries:
        summary["time_over_baseline"] = summary["epoch_seconds"] / baseline
    return summaries


def _comparisons(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compare every other arm with the baseline, p adjusted by Holm over all of them."""
    values = {
        arm: [row["test_accuracy"] for row in rows if row["arm"] == arm]
        for arm in dict.fromkeys(row["arm"] for row in rows)
    }
    baseline = values.pop(BASELINE)
    results = {arm: paired_comparison(baseline, treatment) for arm, treatment in values.items()}
    adjusted = holm(np.array([r.p_value for r in results.values()]))
    return [
        {
            "arm": arm,
            **result.to_dict(),
            "p_holm": None if np.isnan(p) else float(p),
            "verdict": result.verdict(scale=100, unit="pp", adjusted_p=float(p)),
        }
        for (arm, result), p in zip(results.items(), adjusted, strict=True)
    ]


def print_comparison(result: Mapping[str, Any]) -> None:
    """Print arms, paired differences and the verdict in words."""
    if result["selection"]:
        rows = [
            (row["raf"], percent(row["validation_accuracy"]), number(row["validation_loss"]))
            for row in result["selection"]
        ]
        print_table("RAF, chosen on validation images", ("RAF", "accuracy", "loss"), rows)
    against = {c["arm"]: c for c in result["comparisons"]}
    arms = [
        (
            arm["arm"],
            f"{100 * arm['mean']:.2f} ± {100 * arm['sd']:.2f} %",
            *_difference(against.get(arm["arm"])),
            f"{arm['time_over_baseline']:.2f} ×",
        )
        for arm in result["arms"]
    ]
    title = f"Test accuracy, {len(result['seeds'])} paired seeds, {result['epochs']} epochs, RAF {result['raf']}"
    print_table(
        title, ("arm", "mean ± sd", "− baseline", "95 % interval", "p (Holm)", "epoch time"), arms
    )
    print(f"FMCE-Net++ against its baseline: {against[TREATMENT]['verdict']}")


def _difference(against: Mapping[str, Any] | None) -> tuple[str, str, str]:
    if against is None:
        return "–", "–", "–"
    difference = f"{100 * against['mean_difference']:+.2f} pp"
    if against["interval_low"] is None:
        return difference, "all equal", "–"
    low, high = (100 * against[f"interval_{end}"] for end in ("low", "high"))
    return difference, f"{low:+.2f} … {high:+.2f}", number(against["p_holm"], 2)


def _plain(plan: Comparison) -> dict[str, Any]:
    values = to_dict(plan)
    return values | {"rafs": list(plan.rafs), "seeds": list(plan.seeds)}


def _arm_name(arm: str, seed: int) -> str:
    return f"{arm}-seed{seed}"


def _raf_name(raf: float) -> str:
    return f"raf{raf!r}"
