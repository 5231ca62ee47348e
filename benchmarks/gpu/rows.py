"""Part 3: rows of the papers at 224 px, most valuable first; each training resumes where a call stopped it."""

import json
import os
import shutil
import traceback
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from benchmarks.gpu.lines import Line, NotAvailableError, Part, outcomes, part_of, read, run_lines
from experiments import distillation_segmentation as segmentation
from experiments.distillation_runs import without_places
from experiments.fmce_table1 import EXPERIMENT as TABLE_1
from experiments.fmce_table1 import WHAT as TRAINING
from experiments.fmce_table2 import EXPERIMENT as TABLE_2
from experiments.fmce_table2 import with_training
from experiments.paper_runs import (
    RESNET,
    SHUFFLENET,
    Case,
    record_case,
    trained,
    training_result,
)
from experiments.result_rows import record_result
from fmce.config.choices import Split
from fmce.config.distillation import DistillationConfig, distillation_preset
from fmce.config.io import to_dict, with_settings
from fmce.config.run import AuxiliaryConfig
from fmce.config.sweep import BASELINE, CONTROLS, TREATMENT
from fmce.console.log import show_messages
from fmce.distillation.distill import distill
from fmce.engine.runtime import make_runtime
from fmce.files import write_json
from fmce.fmce_net_pp.arms import arm_config, plain_config
from fmce.maturity.train_classifier import train_classifier
from fmce.maturity.train_fmce_net import train_fmce_net
from fmce.runs.run import Run

SPLITS: tuple[Split, ...] = ("map", "image", "test")
RAFS = (0.9, 0.8, 0.75)
CONTROL_RAF = 0.9
SEEDS = (1, 2, 3)
# So that a curve that flattens too late for µ still has phases; the row says whether it converged.
_PHASES = ("phases.if_not_converged=last",)
# Epochs of CIFAR-10 (the paper: 150), each with the seconds that must be left after it: for FMCE-Net, or to end.
LENGTHS = (
    (150, 150.0),
    *((epochs, 90.0) for epochs in (100, 85, 75)),
    *((epochs, 60.0) for epochs in (60, 50, 40, 30)),
)
_SHORT = 100
# Of an epoch, beside its steps: validation, measures of the modules, a checkpoint.
_BETWEEN_EPOCHS = 1.2
_IMAGES, _MAPS = 45_000, 450_000
_NET_EPOCHS = (10, 5, 3, 2)


def paper_cases() -> list[Case]:
    """Return networks and data sets, most valuable first."""
    first = [Case("paper", name, SHUFFLENET) for name in ("cifar10", "cifar100", "mnist")]
    first.append(Case("paper", "fashion-mnist", SHUFFLENET))
    return [*first, *(replace(case, model=RESNET) for case in first)]


def tiny_cases() -> list[Case]:
    """Return the same shape of plan on scikit-learn's digits."""
    settings = (
        'data.image_size=8 data.shift=1 model.options={"width":4} train.epochs=4 train.batch_size=256 '
        "train.learning_rate=5e-3 phases.num_phases=2 phases.threshold=0.1 phases.smoothing=none "
        "phases.window=1 fmce_net.epochs=1"
    )
    return [Case("small", "digits", "tiny", settings)]


def lines(part: Part) -> list[Line]:
    """Return the plan."""
    first, *others = tiny_cases() if part.tiny else paper_cases()
    need = 0.0 if part.tiny else 20.0
    plan = [Line(f"Table I, {first.name}", partial(table_1, part, first), need)]
    plan += [
        Line(f"Table II, {first.name}, split {split}", partial(table_2, part, first, split), need)
        for split in SPLITS
    ]
    for seed in SEEDS[:1] if part.tiny else SEEDS:
        arms = [(BASELINE, 1.0), *((TREATMENT, raf) for raf in RAFS)]
        arms += [(control, CONTROL_RAF) for control in CONTROLS]
        for arm, raf in arms:
            name = f"FMCE-Net++, {first.name}, {arm}, RAF {raf:g}, seed {seed}"
            plan.append(Line(name, partial(train_one_arm, part, first, arm, raf, seed), need))
    plan += [Line(f"Table I, {c.name}", partial(table_1, part, c), need) for c in others]
    plan.append(Line("function matching, CamVid, full size", partial(camvid, part), need))
    return [replace(line, resumes=True) for line in plan]


def options_of(part: Part, case: Case) -> Namespace:
    """Return what the experiments' functions are told: where runs and rows lie, and how passes are computed."""
    return Namespace(
        out=part.state / "runs",
        results=part.out / "results.jsonl",
        runtime=make_runtime(part.device),
        settings=() if case.scale == "small" else settings_of(part, case),
        scale=case.scale,
    )


def settings_of(part: Part, case: Case) -> Sequence[str]:
    """Return how a case is trained on this machine."""
    chosen = choose(part)
    own = ["train.epochs=" + str(chosen["epochs"])] if case.data.startswith("cifar") else []
    return (*chosen["runtime"], *_PHASES, *own)


def choose(part: Part) -> dict[str, Any]:
    """Return the fastest way to train that was measured, and a length that fits; kept for later calls."""
    file = part.state / "settings.json"
    if file.exists():
        return dict(json.loads(file.read_text()))
    seconds: dict[tuple[str, ...], float] = {}
    for name, row in _speeds(part).items():
        if name.startswith("training step, shufflenet") and row["status"] == "done":
            compiled = name.endswith("compile")
            settings = [f"runtime.precision={row['precision']}"]
            settings += ["runtime.channels_last=true"] * ("channels_last" in name)
            settings += ["runtime.compile=true"] * compiled
            settings += ["runtime.cuda_graphs=true"] * name.endswith("CUDA graphs")
            epoch = 1.05 * _IMAGES / row["images_per_second"] + _BETWEEN_EPOCHS
            seconds[tuple(settings)] = epoch * _SHORT + row["seconds"] * compiled
    plain = ("runtime.precision=bfloat16", "runtime.channels_last=true")
    best = min(seconds, key=lambda s: seconds[s], default=plain)
    hundred = seconds.get(best, 1e9)
    fits = [n for n, rest in LENGTHS if hundred * n / _SHORT + rest < part.seconds_left]
    # What fits no length is trained over several calls.
    epochs = part.epochs or (fits[0] if fits else _SHORT)
    chosen = {"runtime": list(best), "epochs": epochs}
    write_json(file, chosen)
    return chosen


def _speeds(part: Part) -> dict[str, dict[str, Any]]:
    for folder in (part.out, part.state):
        if (folder / "speed.jsonl").exists():
            return outcomes(read(folder / "speed.jsonl"))
    return {}


def table_1(part: Part, case: Case) -> dict[str, Any]:
    """Train the original task and find its markers."""
    options = options_of(part, case)
    try:
        run = trained(case, 0, options)
    except FileNotFoundError as error:
        raise NotAvailableError(str(error)) from error
    except Exception:
        if not passes_as_they_are(part, case):
            raise
        traceback.print_exc()
        options = options_of(part, case)
        run = trained(case, 0, options)
    result = training_result(run)
    record_case(options, TABLE_1, TRAINING, case, run, result)
    return {"test_accuracy": result["test_accuracy"], "markers": result["markers"]}


def passes_as_they_are(part: Part, case: Case) -> bool:
    """Compile and record no more of what is trained from now on, where that was asked for and no epoch came of it."""
    chosen, folder = choose(part), part.state / "runs" / case.scale / f"{case.name}-seed0"
    faster = {"runtime.compile=true", "runtime.cuda_graphs=true"} & set(chosen["runtime"])
    if not faster or any(folder.glob("checkpoints/epoch_*")):
        return False
    chosen["runtime"] = [s for s in chosen["runtime"] if s not in faster]
    write_json(part.state / "settings.json", chosen)
    shutil.rmtree(folder, ignore_errors=True)
    return True


def finished(part: Part, case: Case) -> Run:
    """Return a case's run with phases.

    Raises:
        NotAvailableError: It is not trained to its end, or has none.
    """
    folder = part.state / "runs" / case.scale / f"{case.name}-seed0"
    if not (folder / "phases.json").exists():
        raise NotAvailableError(f"{folder.name} has no phases yet")
    return Run(folder, case.config(0, options_of(part, case).settings))


def table_2(part: Part, case: Case, split: Split) -> dict[str, Any]:
    """Train and measure the FMCE-Net of a split."""
    run, options = finished(part, case), options_of(part, case)
    config = run.config.fmce_net
    if not part.tiny:
        config = replace(config, epochs=net_epochs(part))
    runtime = replace(make_runtime(part.device, "bfloat16"), channels_last=True)
    result = train_fmce_net(run, split, config=config, runtime=runtime)
    what = f"FMCE-Net, split {split}"
    record_case(options, TABLE_2, what, case, run, with_training(result, config))
    held_out = result["held_out"] or {}
    return {
        "held_out": held_out.get("accuracy"),
        "test_images": result["test_images"]["accuracy"],
        "epochs": config.epochs,
    }


def net_epochs(part: Part) -> int:
    """Return how long FMCE-Net is trained: as long as fits for all splits; kept for later calls."""
    file, chosen = part.state / "settings.json", choose(part)
    if "net_epochs" not in chosen:
        row = _speeds(part).get("FMCE-Net from the stream, shufflenet_v2_x1_0", {})
        rate = row.get("images_per_second", 20_000.0)
        each = part.seconds_left / len(SPLITS)
        fits = [e for e in _NET_EPOCHS if (0.8 * e + 0.6) * _MAPS / rate < each]
        chosen["net_epochs"] = fits[0] if fits else _NET_EPOCHS[-1]
        write_json(file, chosen)
    return int(chosen["net_epochs"])


def train_one_arm(part: Part, case: Case, arm: str, raf: float, seed: int) -> dict[str, Any]:
    """Train the baseline, FMCE-Net++ or a control, as long as the oracle's run took to converge."""
    oracle, options = finished(part, case), options_of(part, case)
    if not oracle.fmce_net_file("map").exists():
        raise NotAvailableError(f"{oracle.path.name} has no FMCE-Net of split map yet")
    treatment = AuxiliaryConfig(kind="ral", oracle=str(oracle.path.resolve()), raf=raf)
    base = plain_config(oracle, "convergence")
    config = arm_config(base, arm, seed, treatment)
    folder = part.state / "runs" / "arms" / f"{case.name}-{arm}-raf{raf:g}-seed{seed}"
    done = dict(train_classifier(config, folder, runtime=options.runtime, keep="last").done or {})
    row = {
        "experiment": "fmce_net_pp_arms",
        "what": f"{arm}, RAF {raf:g}",
        "scale": case.scale,
        "case": case.name,
        "seed": seed,
        "result": done,
        "config": to_dict(config),
    }
    record_result(options.results, row, key=("experiment", "what", "scale", "case", "seed"))
    return {"test_accuracy": done["test_accuracy"], "epochs": config.train.epochs}


def camvid(part: Part) -> dict[str, Any]:
    """Function matching of ResNet-101 by ResNet-18, on CamVid at its own size."""
    out = part.state / "runs" / "camvid"
    config = tiny_matching() if part.tiny else _full_camvid(out)
    precision: Literal["float32", "bfloat16"] = "float32" if part.tiny else "bfloat16"
    result = distill(config, out, jobs=1, runtime=make_runtime(part.device, precision))
    row = {
        "experiment": "distillation_segmentation",
        "what": "function matching on CamVid, full size",
        "seed": list(config.seeds),
        "result": result,
        "config": without_places(to_dict(config)),
    }
    record_result(part.out / "results.jsonl", row, key=("what",))
    return {"teacher": result["teacher"]["miou"], "arms": result["arms"]}


def _full_camvid(out: Path) -> DistillationConfig:
    data = Path(os.environ["FMCE_DATA"])
    if not (data / "camvid").is_dir():
        raise NotAvailableError(f"no folder camvid in {data}")
    config = segmentation.full_size(segmentation.real_config(data, out), None)
    return replace(config, seeds=(1,))


def tiny_matching() -> DistillationConfig:
    """Return function matching of a few steps on drawn scenes."""
    steps = "{steps: 2, batch_size: 2, interval: 2}"
    settings = [
        "data={height: 16, width: 24, labelled: 4, unlabelled: 4, held_out: 2, validation: 2}",
        f"teacher_steps={steps}",
        f"student_steps={steps}",
        "seeds=[1]",
    ]
    return with_settings(distillation_preset("scenes"), settings)


def main() -> None:
    """Train what is not trained yet."""
    part = part_of()
    show_messages()
    run_lines(part.out / "rows.jsonl", lines(part), part)


if __name__ == "__main__":
    main()
