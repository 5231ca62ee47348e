"""`fmce distill`: a compact student learns to be its teacher (function matching), beside two other arms.

supervised: labels only. labelled: imitates the teacher on the labelled images. funmatch: imitates it
on labelled and unlabelled images. All have the same steps, optimiser, schedule and initial weights.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from fmce.commands.show import number, percent, print_table
from fmce.configs import to_dict, to_yaml
from fmce.data.batch import ViewBatch
from fmce.data.pools import ImagePool, MatchingData
from fmce.data.views import PlainBatches, PoolBatches, Views
from fmce.engine.checkpoint import delete_checkpoints, load_weights
from fmce.engine.files import read_json, write_json
from fmce.engine.jobs import run_jobs
from fmce.engine.loop import EpochResult, StepOutput
from fmce.engine.progress import Progress
from fmce.engine.resumable import fit_in_folder
from fmce.engine.runlog import mark_done, open_for_writing, read_done, read_metrics
from fmce.engine.runtime import Runtime, cores, make_runtime
from fmce.engine.seeding import seed_epoch
from fmce.matching_config import Arm, MatchingConfig, NetConfig, StepsConfig
from fmce.matching_data import prepare_matching_data, read_matching_data
from fmce.metrics.statistics import mean_sd, paired_comparison
from fmce.models.build import build_model, import_function
from fmce.models.checks import unsafe_in_channels_last
from fmce.models.pspnet import pspnet
from fmce.tasks.match_teacher import (
    ClassifyTask,
    MatchingTask,
    SegmentTask,
    agreement,
    matching_step,
    supervised_step,
)


def distill(
    config: MatchingConfig,
    out: Path,
    *,
    jobs: int | None = None,
    runtime: Runtime | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train or load the teacher, train all arms over the seeds, evaluate and compare them.

    Args:
        config: the experiment.
        out: its folder; each training is a run folder in it, none is repeated.
        jobs: trainings at a time; by default as many as cores, one on a GPU.
        runtime: device and precision.
        quiet: print nothing.

    Returns:
        The contents of `distill.json`.

    Raises:
        ValueError: data or models do not fit, or the teacher is below `teacher_floor`.
    """
    runtime = runtime or make_runtime()
    jobs = jobs or (cores() if runtime.device.type == "cpu" else 1)
    with open_for_writing(out, to_yaml(config)):
        data = prepare_matching_data(out, config.task, config.data)
        _check_pools(config, data)
        teacher_score = _make_teacher(config, out, data, runtime, quiet)
        arguments = {}
        with Progress(
            "training arms", len(config.arms) * len(config.seeds), quiet=quiet
        ) as progress:
            for seed in config.seeds:
                for arm in config.arms:
                    folder = arm_folder(out, arm, seed)
                    if read_done(folder) is None:
                        arguments[folder.name] = (
                            config,
                            out,
                            arm,
                            seed,
                            str(runtime.device),
                            runtime.precision,
                        )
                    else:
                        progress.advance(f"{folder.name} was done")
            run_jobs(train_arm, arguments, jobs, progress)
        result = _result(config, out, data, teacher_score)
        if config.task == "segment":
            _write_predictions(config, out, data, runtime)
        write_json(out / "distill.json", result)
        mark_done(out, {"teacher": teacher_score})
    if not quiet:
        print_result(result)
    return result


def train_arm(
    config: MatchingConfig, out: Path, arm: Arm, seed: int, device: str, precision: str
) -> None:
    """Train one student in its own run folder and evaluate it; goes on after a kill.

    Args:
        config: the experiment.
        out: its folder, with data and teacher in place.
        arm: what the student learns from.
        seed: initial weights, order of images and views; the same in every arm.
        device: where.
        precision: of forward passes.
    """
    runtime = make_runtime(device, precision)
    data = read_matching_data(out).to(runtime.device)
    task = make_task(config, data)
    student = make_network(config, config.student, data, seed, auxiliary=arm == "supervised")
    teacher = load_teacher(config, out, data)
    student, teacher = student.to(runtime.device), teacher.to(runtime.device)
    folder = arm_folder(out, arm, seed)
    text = yaml.safe_dump({"arm": arm, "seed": seed, **to_dict(config)}, sort_keys=False)
    with open_for_writing(folder, text):
        if read_done(folder) is not None:
            return
        pool = data.labelled if arm != "funmatch" else data.labelled.unlabelled() + data.unlabelled
        _fit(
            folder,
            student,
            _step_of(arm, task, student, teacher, config),
            pool,
            views_of(config, data),
            config.student_steps,
            seed,
            runtime,
            _measure(config, task, student, teacher, data, runtime),
        )
        mark_done(folder, _evaluation(config, task, student, teacher, data, runtime))
        delete_checkpoints(folder / "checkpoints", keep={num_intervals(config.student_steps)})


def _step_of(
    arm: Arm, task: MatchingTask, student: nn.Module, teacher: nn.Module, config: MatchingConfig
) -> Callable[[ViewBatch], StepOutput]:
    if arm == "supervised":
        return supervised_step(task, student)
    return matching_step(
        task,
        student,
        teacher,
        temperature=config.temperature,
        blend=config.student_steps.mixup,
    )


def _fit(
    folder: Path,
    model: nn.Module,
    step: Callable[[ViewBatch], StepOutput],
    pool: ImagePool,
    views: Views,
    budget: StepsConfig,
    seed: int,
    runtime: Runtime,
    measure: Callable[[EpochResult, list[dict[str, Any]]], Mapping[str, Any]],
    quiet: bool = True,
) -> None:
    batches = PoolBatches(pool, views, budget.batch_size, budget.interval, seed=seed)
    fit_in_folder(
        folder,
        model,
        step,
        batches,
        epochs=num_intervals(budget),
        learning_rate=budget.learning_rate,
        seed=seed,
        runtime=runtime,
        measure=measure,
        title=f"training {folder.name}",
        quiet=quiet,
    )


def _make_teacher(
    config: MatchingConfig, out: Path, data: MatchingData, runtime: Runtime, quiet: bool
) -> dict[str, Any]:
    """Train the teacher or load the given one; evaluate it and hold it against the floor."""
    folder = out / "teacher"
    if not (folder / "teacher.json").exists():
        resident = data.to(runtime.device)
        task = make_task(config, resident)
        teacher = make_network(
            config, config.teacher, resident, config.teacher_seed, auxiliary=True
        )
        teacher = teacher.to(runtime.device)
        about = _about(config, config.teacher, data)
        if config.teacher_checkpoint is not None:
            _load_strictly(teacher, Path(config.teacher_checkpoint), about)
            folder.mkdir(exist_ok=True)
        else:
            _train_teacher(config, folder, teacher, task, resident, runtime, quiet)
        validation = PlainBatches(resident.validation, views_of(config, data))
        scores = task.scores(teacher, validation, runtime)
        _save_teacher(folder, teacher, about | {"scores": scores})
    about = read_json(folder / "teacher.json")
    scores = dict(about["scores"])
    name = make_task(config, data).score_name
    if scores[name] < config.teacher_floor:
        raise ValueError(
            f"the teacher's {name} on validation images is {scores[name]:.4f}, below the floor "
            f"{config.teacher_floor}; train it longer, take a better one, or lower teacher_floor"
        )
    if not quiet:
        print(
            f"teacher: {name} {percent(scores[name])} on {len(data.validation)} validation images"
        )
    return scores


def _train_teacher(
    config: MatchingConfig,
    folder: Path,
    teacher: nn.Module,
    task: MatchingTask,
    data: MatchingData,
    runtime: Runtime,
    quiet: bool,
) -> None:
    with open_for_writing(folder, to_yaml(config)):
        _fit(
            folder,
            teacher,
            supervised_step(task, teacher),
            data.labelled,
            views_of(config, data),
            config.teacher_steps,
            config.teacher_seed,
            runtime,
            lambda _result, _rows: {},
            quiet=quiet,
        )


def _save_teacher(folder: Path, teacher: nn.Module, about: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    weights = {k: v.detach().cpu().contiguous().clone() for k, v in teacher.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    write_json(folder / "teacher.json", about)  # last: its presence says the teacher is ready


def _about(config: MatchingConfig, net: NetConfig, data: MatchingData) -> dict[str, Any]:
    return {
        "task": config.task,
        "network": to_dict(net),
        "class_names": list(data.class_names),
        "mean": list(data.mean),
        "std": list(data.std),
    }


def _load_strictly(teacher: nn.Module, checkpoint: Path, about: dict[str, Any]) -> None:
    """Load a teacher whose class order and normalisation are those of this experiment."""
    weights_file = checkpoint / "model.safetensors" if checkpoint.is_dir() else checkpoint
    card = weights_file.parent / "teacher.json"
    if not card.exists():
        raise ValueError(
            f"{card} is missing; beside a teacher's weights write a JSON with task, class_names, mean "
            "and std (0–1 scale, per channel), so that they can be checked against the student's"
        )
    theirs = read_json(card)
    for name in ("task", "class_names"):
        if theirs.get(name) != about[name]:
            raise ValueError(
                f"the teacher's {name} is {theirs.get(name)}, here it is {about[name]}"
            )
    for name in ("mean", "std"):
        known = torch.tensor(theirs.get(name, []), dtype=torch.float64)
        if known.shape != (3,) or (known - torch.tensor(about[name])).abs().max() > 1e-3:
            raise ValueError(
                f"the teacher expects images normalised with {name} {theirs.get(name)}, the student gets "
                f"{about[name]}: both must see the same view. Use the teacher's labelled images or its data seed"
            )
    try:
        teacher.load_state_dict(load_weights(weights_file))
    except RuntimeError as error:
        raise ValueError(
            f"{weights_file} does not fit the teacher: {' '.join(str(error).split())[:300]}"
        ) from error


def load_teacher(config: MatchingConfig, out: Path, data: MatchingData) -> nn.Module:
    """Return the experiment's teacher, frozen and in eval mode."""
    teacher = make_network(config, config.teacher, data, config.teacher_seed, auxiliary=True)
    teacher.load_state_dict(load_weights(out / "teacher" / "model.safetensors"))
    return teacher.eval().requires_grad_(False)


def load_student(
    config: MatchingConfig, out: Path, data: MatchingData, arm: Arm, seed: int
) -> nn.Module:
    """Return a trained student in eval mode."""
    student = make_network(config, config.student, data, seed, auxiliary=arm == "supervised")
    last = num_intervals(config.student_steps)
    weights = load_weights(arm_folder(out, arm, seed) / "checkpoints" / f"epoch_{last:04d}")
    student.load_state_dict(weights)
    return student.eval()


def make_task(config: MatchingConfig, data: MatchingData) -> ClassifyTask | SegmentTask:
    """Return the task of an experiment."""
    if config.task == "classify":
        return ClassifyTask(len(data.class_names))
    return SegmentTask(len(data.class_names), data.class_names)


def make_network(
    config: MatchingConfig, net: NetConfig, data: MatchingData, seed: int, *, auxiliary: bool
) -> nn.Module:
    """Build a network with the initial weights of a seed.

    Args:
        config: the experiment.
        net: which network.
        data: says how many classes.
        seed: draws the weights; an auxiliary head is drawn last, so that it changes no other.
        auxiliary: whether a PSPNet gets its auxiliary head.
    """
    seed_epoch(seed, 0)
    model = _build(config, net, len(data.class_names), auxiliary)
    # A third faster on CPUs, more on GPUs with bf16; the values are the same up to rounding.
    if unsafe_in_channels_last(model, torch.device("cpu")) is None:
        model = model.to(memory_format=torch.channels_last)
    return model


def _build(config: MatchingConfig, net: NetConfig, classes: int, auxiliary: bool) -> nn.Module:
    if config.task == "classify":
        return build_model(net.name, classes, options=net.options, weights=net.weights)
    kind, _, name = net.name.partition(":")
    if kind == "pspnet":
        return pspnet(name, classes, weights=net.weights, auxiliary=auxiliary, **net.options)
    model = import_function(kind, name)(num_classes=classes, **net.options)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{net.name} returned {type(model).__name__}, expected a torch.nn.Module")
    return model


def views_of(config: MatchingConfig, data: MatchingData) -> Views:
    """Return how views are drawn, with the labelled images' statistics."""
    section = config.views
    return Views(data.mean, data.std, section.zoom, section.flip, section.brightness)


def arm_folder(out: Path, arm: str, seed: int) -> Path:
    """Return the run folder of a student."""
    return out / "runs" / f"{arm}-seed{seed}"


def num_intervals(budget: StepsConfig) -> int:
    """Return how many intervals, each with a checkpoint, a budget has."""
    return budget.steps // budget.interval


def _check_pools(config: MatchingConfig, data: MatchingData) -> None:
    if "funmatch" in config.arms and len(data.unlabelled) == 0:
        raise ValueError(
            "the funmatch arm needs unlabelled images and there are none; name folders "
            "(data.folders), label fewer images (data.labelled), or leave the arm out"
        )
    if config.student_steps.batch_size > len(data.labelled) * 8:
        raise ValueError(
            f"a batch of {config.student_steps.batch_size} would repeat {len(data.labelled)} labelled "
            "images many times; lower student_steps.batch_size"
        )


def _measure(
    config: MatchingConfig,
    task: MatchingTask,
    student: nn.Module,
    teacher: nn.Module,
    data: MatchingData,
    runtime: Runtime,
) -> Callable[[EpochResult, list[dict[str, Any]]], dict[str, Any]]:
    """Return what follows each interval: score and agreement on validation images."""
    validation = PlainBatches(data.validation, views_of(config, data))
    classes = len(data.class_names)

    def measure(result: EpochResult, _rows: list[dict[str, Any]]) -> dict[str, Any]:
        alike = agreement(task, classes, student, teacher, validation, runtime)
        return {
            "steps": result.epoch * config.student_steps.interval,
            task.score_name: task.scores(student, validation, runtime)[task.score_name],
            "agreement": alike["argmax_agreement"],
            "kl_to_teacher": alike["mean_kl"],
        }

    return measure


def _evaluation(
    config: MatchingConfig,
    task: MatchingTask,
    student: nn.Module,
    teacher: nn.Module,
    data: MatchingData,
    runtime: Runtime,
) -> dict[str, Any]:
    views, classes = views_of(config, data), len(data.class_names)
    pools = {"validation": data.validation, "held_out_frames": data.held_out}
    return {
        "scores": task.scores(student, PlainBatches(data.validation, views), runtime),
        "agreement": {
            name: agreement(task, classes, student, teacher, PlainBatches(pool, views), runtime)
            for name, pool in pools.items()
            if len(pool)
        },
    }


def _result(
    config: MatchingConfig, out: Path, data: MatchingData, teacher: dict[str, Any]
) -> dict[str, Any]:
    name = make_task(config, data).score_name
    rows = []
    for seed in config.seeds:
        for arm in config.arms:
            done = read_done(arm_folder(out, arm, seed)) or {}
            rows.append(
                {
                    "arm": arm,
                    "seed": seed,
                    "score": done["scores"][name],
                    **done,
                    "curve": [
                        {k: row[k] for k in ("steps", name, "agreement", "kl_to_teacher")}
                        for row in read_metrics(arm_folder(out, arm, seed))
                    ],
                }
            )
    return {
        "task": config.task,
        "score_name": name,
        "teacher": teacher,
        "images": {
            p: len(getattr(data, p)) for p in ("labelled", "unlabelled", "held_out", "validation")
        },
        "steps": config.student_steps.steps,
        "rows": rows,
        "arms": _summaries(rows),
        "gap_closed": gap_closed(rows, teacher[name]),
        "comparisons": _comparisons(rows),
    }


def _write_predictions(
    config: MatchingConfig, out: Path, data: MatchingData, runtime: Runtime, count: int = 4
) -> None:
    """Keep class maps of the first validation images for the report's pictures."""
    few = data.validation.select(range(min(count, len(data.validation))))
    (batch,) = PlainBatches(few, views_of(config, data)).epoch()
    task, seed = make_task(config, data), config.seeds[0]
    networks = {"teacher": load_teacher(config, out, data)}
    networks |= {arm: load_student(config, out, data, arm, seed) for arm in config.arms}
    assert few.targets is not None
    columns = {"truth": few.targets}
    with torch.inference_mode():
        for name, network in networks.items():
            logits = task.logits(network.to(runtime.device), batch.images.to(runtime.device))
            columns[name] = logits.argmax(1).cpu()
    matched = config.arms[-1]
    columns["disagreement"] = columns[matched] != columns["teacher"]
    arrays: dict[str, Any] = {name: ids.numpy() for name, ids in columns.items()}
    np.savez_compressed(
        out / "predictions.npz", images=few.images.permute(0, 2, 3, 1).numpy(), **arrays
    )


def gap_closed(rows: Sequence[Mapping[str, Any]], teacher_score: float) -> float | None:
    """Return (funmatch − supervised) / (teacher − supervised) of the arms' means.

    None where an arm is missing or the teacher is no better than the supervised student.
    """
    means = {arm["arm"]: arm["mean"] for arm in _summaries(rows)}
    if not {"funmatch", "supervised"} <= means.keys() or teacher_score <= means["supervised"]:
        return None
    return float((means["funmatch"] - means["supervised"]) / (teacher_score - means["supervised"]))


def _summaries(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    summaries = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        mine = [row for row in rows if row["arm"] == arm]
        mean, sd = mean_sd([row["score"] for row in mine])
        pools = mine[0]["agreement"].keys()
        alike = {
            p: mean_sd([row["agreement"][p]["argmax_agreement"] for row in mine])[0] for p in pools
        }
        spread = None if len(mine) < 2 else sd
        summaries.append({"arm": arm, "mean": mean, "sd": spread, "agreement": alike})
    return summaries


def _comparisons(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compare the matching arms with the supervised one, seed by seed; empty with fewer than two seeds."""
    scores = {
        arm: [row["score"] for row in rows if row["arm"] == arm]
        for arm in dict.fromkeys(row["arm"] for row in rows)
    }
    supervised = scores.pop("supervised", [])
    if len(supervised) < 2:
        return []
    results = {arm: paired_comparison(supervised, values) for arm, values in scores.items()}
    return [
        {"arm": arm, **r.to_dict(), "verdict": r.verdict(scale=100, unit="pp")}
        for arm, r in results.items()
    ]


def print_result(result: Mapping[str, Any]) -> None:
    """Print the arms beside the teacher and the verdict in words."""
    name = result["score_name"]
    rows: list[tuple[str, ...]] = [("teacher", percent(result["teacher"][name]), "–", "–")]
    for arm in result["arms"]:
        spread = "" if arm["sd"] is None else f" ± {100 * arm['sd']:.2f}"
        alike = [percent(arm["agreement"].get(p)) for p in ("validation", "held_out_frames")]
        rows.append((arm["arm"], f"{100 * arm['mean']:.2f}{spread} %", *alike))
    title = f"{name} after {result['steps']} steps, and agreement with the teacher"
    print_table(title, ("arm", name, "agreement", "on unlabelled frames"), rows)
    for comparison in result["comparisons"]:
        print(f"{comparison['arm']} against supervised: {comparison['verdict']}")
    if result["gap_closed"] is not None:
        print(
            f"share of the gap to the teacher closed by function matching: {number(result['gap_closed'], 3)}"
        )
