"""The teacher of an experiment: trained, or loaded strictly; evaluated and compared with a floor."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from fmce.config.distillation import DistillationConfig
from fmce.config.io import defaults_of, to_dict, to_yaml
from fmce.console.log import logger
from fmce.console.tables import percent
from fmce.digests import check_file, file_digest, read_record, write_record
from fmce.distillation import inputs
from fmce.distillation.experiment import Experiment, fit_steps
from fmce.engine.runtime import Runtime
from fmce.models.features import eval_mode
from fmce.runs.checkpoint import save_weights
from fmce.runs.log import lock_run
from fmce.runs.weights import load_into, weights_file
from fmce.tasks.distillation import supervised_step


def make_teacher(experiment: Experiment, runtime: Runtime) -> dict[str, Any]:
    """Train the teacher or load the given one, unless that is done; return its scores on validation images."""
    card_file, ranks = experiment.teacher_folder / "teacher.json", runtime.ranks
    if not ranks.on_rank_zero(card_file.exists):
        _train_or_load(experiment, runtime)
    remedy = f"delete {experiment.teacher_folder} and repeat the command"
    card = ranks.on_rank_zero(lambda: read_record(card_file, ("scores",), remedy))
    scores = dict(card["scores"])
    name, count = experiment.task.score_name, len(experiment.data.validation)
    _check_floor(name, scores[name], experiment)
    if ranks.is_main:
        logger.info("teacher: %s %s on %d validation images", name, percent(scores[name]), count)
    return scores


def _train_or_load(experiment: Experiment, runtime: Runtime) -> None:
    config, folder, task = experiment.config, experiment.teacher_folder, experiment.task
    labelled, data = inputs.on_device(experiment.data.labelled, experiment.data, runtime.device)
    given = config.teacher_checkpoint  # replaces all weights, so none are downloaded for it
    teacher = experiment.make_teacher(pretrained=given is None).to(runtime.device)
    card = teacher_card(experiment)
    if given is not None:
        load_strictly(teacher, Path(given), experiment)
        runtime.ranks.on_rank_zero(lambda: folder.mkdir(exist_ok=True))
    else:
        text, defaults = to_yaml(config), defaults_of(DistillationConfig)
        step, budget = supervised_step(task, teacher), config.teacher_steps
        seed = config.teacher_seed
        with lock_run(folder, text, defaults=defaults, ranks=runtime.ranks):
            fit_steps(experiment, folder, teacher, step, labelled, budget, seed, runtime)
    batches = inputs.evaluation_batches(data.validation, data, runtime)
    if given is not None:
        first = next(iter(batches.epoch(0)))
        with torch.inference_mode(), eval_mode(teacher):
            inputs.refuse_infinite(task.outputs(teacher, runtime.to_device(first.images)))
    card["scores"] = task.scores(teacher, batches, runtime)
    if given is not None:  # a copy of what is refused must not claim the folder
        _check_floor(task.score_name, card["scores"][task.score_name], experiment)

    def save() -> None:
        save_weights(folder / "model.safetensors", teacher.state_dict())
        card["sha256"] = file_digest(folder / "model.safetensors")
        write_record(folder / "teacher.json", card)  # last: then the teacher is ready

    runtime.ranks.on_rank_zero(save)


def _check_floor(name: str, score: float | None, experiment: Experiment) -> None:
    floor, count = experiment.config.teacher_floor, len(experiment.data.validation)
    if score is None:
        raise ValueError(
            f"the teacher's {name} is undefined: none of the {count} validation images holds a box to find; "
            "choose other images, and another folder"
        )
    if score < floor:
        remedy = (
            "train it longer or take a better one. To lower teacher_floor, write to another folder and keep "
            f"this teacher: --teacher-checkpoint {experiment.teacher_folder}"
        )
        if experiment.config.teacher_checkpoint is not None:
            remedy = "give a better one, or lower teacher_floor"
        raise ValueError(
            f"the teacher's {name} on validation images is {score:.4f}, below the floor {floor}; {remedy}"
        )


def teacher_card(experiment: Experiment) -> dict[str, Any]:
    """Return what is written beside a teacher's weights, to be checked when they are loaded."""
    config, data = experiment.config, experiment.data
    return {
        "task": config.task,
        "network": to_dict(config.teacher),
        "class_names": list(data.class_names),
        "mean": list(data.mean),
        "std": list(data.std),
    }


def load_strictly(teacher: nn.Module, checkpoint: Path, experiment: Experiment) -> None:
    """Load a teacher whose task, class order and normalisation are this experiment's.

    `checkpoint` is a file of safetensors or `torch.save` with `teacher.json` beside it, or the folder of both.
    """
    file = weights_file(checkpoint)
    card_file = file.parent / "teacher.json"
    if not card_file.exists():
        raise ValueError(
            f"{card_file} is missing; beside a teacher's weights write a JSON with task, class_names, mean "
            "and std (0–1 scale, per channel), so that they can be checked against the student's"
        )
    theirs, ours = read_record(card_file), teacher_card(experiment)
    if "sha256" in theirs:  # not in one written by hand
        check_file(file, theirs["sha256"], "take another copy of this teacher")
    for name in ("task", "class_names"):
        if theirs.get(name) != ours[name]:
            raise ValueError(
                f"{card_file}: the teacher's {name} is {theirs.get(name)}, expected this experiment's {ours[name]}"
            )
    inputs.check_normalisation(theirs, experiment.data, card_file)
    load_into(teacher, file, "the teacher")
