"""The teacher of a function-matching experiment: trained or loaded strictly, evaluated, held against a floor."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fmce.config.distillation import DistillationConfig, NetConfig
from fmce.config.io import defaults_of, to_dict, to_yaml
from fmce.console.tables import percent
from fmce.data.augmentation import EvalBatches
from fmce.distillation.data.pools import DistillationData
from fmce.distillation.experiment import augmentation_of, fit_steps, make_network, make_task
from fmce.engine.runtime import Runtime
from fmce.files import read_json, write_json
from fmce.runs.checkpoint import load_weights, save_weights
from fmce.runs.log import lock_run
from fmce.tasks.distillation import DistillationTask, supervised_step


def make_teacher(
    config: DistillationConfig, out: Path, data: DistillationData, runtime: Runtime, quiet: bool
) -> dict[str, Any]:
    """Train the teacher or load the given one; evaluate it and hold it against the floor."""
    folder, ranks = out / "teacher", runtime.ranks
    if not ranks.on_rank_zero((folder / "teacher.json").exists):
        labelled, resident = data.placed(data.labelled, runtime.device)
        resident = replace(resident, labelled=labelled)
        task = make_task(config, resident)
        given = config.teacher_checkpoint is not None
        # A checkpoint replaces all weights; none are downloaded for it.
        net = replace(config.teacher, weights=None) if given else config.teacher
        teacher = make_network(config, net, resident, config.teacher_seed, auxiliary=True)
        teacher = teacher.to(runtime.device)
        about = teacher_card(config, config.teacher, data)
        if config.teacher_checkpoint is not None:
            load_strictly(teacher, Path(config.teacher_checkpoint), about)
            ranks.on_rank_zero(lambda: folder.mkdir(exist_ok=True))
        else:
            _train_teacher(config, folder, teacher, task, resident, runtime)
        augmentation = augmentation_of(config, data)
        validation = EvalBatches(resident.validation, augmentation, share=ranks.share)
        about["scores"] = task.scores(teacher, validation, runtime)
        ranks.on_rank_zero(lambda: _save_teacher(folder, teacher, about))
    about = ranks.on_rank_zero(lambda: read_json(folder / "teacher.json"))
    scores = dict(about["scores"])
    name = make_task(config, data).score_name
    if scores[name] is None:
        raise ValueError(
            f"the teacher's {name} is undefined: the {len(data.validation)} validation images hold no box to "
            "find; take others, in another folder"
        )
    if scores[name] < config.teacher_floor:
        raise ValueError(
            f"the teacher's {name} on validation images is {scores[name]:.4f}, below the floor "
            f"{config.teacher_floor}; train it longer or take a better one. To lower teacher_floor, write to "
            f"another folder and keep this teacher: --teacher-checkpoint {folder}"
        )
    if not quiet:
        print(
            f"teacher: {name} {percent(scores[name])} on {len(data.validation)} validation images"
        )
    return scores


def _train_teacher(
    config: DistillationConfig,
    folder: Path,
    teacher: nn.Module,
    task: DistillationTask,
    data: DistillationData,
    runtime: Runtime,
) -> None:
    text, defaults = to_yaml(config), defaults_of(DistillationConfig)
    with lock_run(folder, text, defaults=defaults, ranks=runtime.ranks):
        fit_steps(
            folder,
            teacher,
            supervised_step(task, teacher),
            data.labelled,
            augmentation_of(config, data),
            config.teacher_steps,
            config.teacher_seed,
            runtime,
            lambda _result, _rows: {},
        )


def _save_teacher(folder: Path, teacher: nn.Module, about: dict[str, Any]) -> None:
    save_weights(folder / "model.safetensors", teacher.state_dict())
    write_json(folder / "teacher.json", about)  # last: its presence says the teacher is ready


def teacher_card(
    config: DistillationConfig, net: NetConfig, data: DistillationData
) -> dict[str, Any]:
    """Return what is written beside a teacher's weights, to be checked when they are loaded."""
    return {
        "task": config.task,
        "network": to_dict(net),
        "class_names": list(data.class_names),
        "mean": list(data.mean),
        "std": list(data.std),
    }


def load_strictly(teacher: nn.Module, checkpoint: Path, about: dict[str, Any]) -> None:
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
                f"{about[name]}: both must see the same view. Set data.mean and data.std to the "
                "teacher's, or use its labelled images and data seed"
            )
    try:
        teacher.load_state_dict(load_weights(weights_file))
    except RuntimeError as error:
        raise ValueError(
            f"{weights_file} does not fit the teacher: {' '.join(str(error).split())[:300]}"
        ) from error


def load_teacher(config: DistillationConfig, out: Path, data: DistillationData) -> nn.Module:
    """Return the experiment's teacher, frozen and in eval mode."""
    net = replace(config.teacher, weights=None)  # its own weights follow; none are downloaded
    teacher = make_network(config, net, data, config.teacher_seed, auxiliary=True)
    teacher.load_state_dict(load_weights(out / "teacher" / "model.safetensors"))
    return teacher.eval().requires_grad_(False)


def teacher_autocast(
    config: DistillationConfig, runtime: Runtime
) -> Callable[[], AbstractContextManager[None]]:
    """Return what sets the precision of the teacher's forward passes in matching steps.

    Args:
        config: `teacher_precision` "auto" is bfloat16 on a GPU that computes with it, and the
            training's own precision elsewhere.
        runtime: device and precision of the training.
    """
    wanted = config.teacher_precision
    if wanted == "auto":
        gpu = runtime.device.type == "cuda" and torch.cuda.is_bf16_supported()
        wanted = "bfloat16" if gpu else runtime.precision
    # The step is under the training's own autocast already; this one is entered inside it.
    return partial(
        torch.autocast, runtime.device.type, dtype=torch.bfloat16, enabled=wanted == "bfloat16"
    )
