"""The results of an experiment: rows, arms, the share of the gap closed, verdicts, sizes, example predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fmce.data.augmentation import EvalBatches
from fmce.data.detection.boxes import image_boxes, pack_boxes
from fmce.data.frames.pool import FramePool
from fmce.digests import write_arrays, write_record
from fmce.distillation import inputs
from fmce.distillation.data.dataset import damaged_images
from fmce.distillation.data.pools import POOLS
from fmce.distillation.experiment import Experiment
from fmce.engine.distributed.ranks import ALONE
from fmce.engine.runtime import Runtime
from fmce.metrics.detection import TEACHER_SCORE
from fmce.metrics.network_cost import for_inference, measure_network
from fmce.metrics.statistics import mean_sd, paired_comparison
from fmce.runs.log import mark_done, read_done, read_metrics
from fmce.tasks.detection import DetectionTask
from fmce.tasks.distillation import DistillationTask, SegmentationTask

_CURVE = ("steps", "agreement", "agreement_held_out", "kl_to_teacher")
# Validation images whose predictions the report shows.
_EXAMPLES = 4


def conclude(experiment: Experiment, teacher: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    """Write `distill.json` and example predictions of an experiment whose arms are finished, in one process."""
    runtime = replace(runtime, ranks=ALONE)
    result = distillation_result(experiment, teacher)
    result["networks"] = _network_costs(experiment, runtime)
    if experiment.config.task != "classify":
        result["predictions_sha256"] = _write_examples(experiment, runtime)
    write_record(experiment.folder / "distill.json", result)
    mark_done(experiment.folder, {"teacher": teacher})
    return result


def distillation_result(experiment: Experiment, teacher: dict[str, Any]) -> dict[str, Any]:
    """Gather what all arms of a finished experiment recorded, beside the teacher's scores."""
    config, task = experiment.config, experiment.task
    name = task.score_name
    rows = []
    for seed in config.seeds:
        for arm in config.arms:
            folder, kept = experiment.student_folder(arm, seed), (name, *_CURVE)
            done = read_done(folder) or {}
            curve = [{k: row[k] for k in kept if k in row} for row in read_metrics(folder)]
            score = done["scores"][name]
            rows.append({"arm": arm, "seed": seed, "score": score, **done, "curve": curve})
    return {
        "task": config.task,
        "score_name": name,
        "agreement_name": task.agreement_name,
        "teacher": teacher,
        "images": {pool: len(getattr(experiment.data, pool)) for pool in POOLS},
        "damaged": _damaged(experiment),
        "steps": config.student_steps.steps,
        "rows": rows,
        "arms": _summaries(rows, task.agreement_name),
        "gap_closed": gap_closed(rows, teacher[name]),
        "comparisons": _comparisons(rows),
    }


def _damaged(experiment: Experiment) -> dict[str, Any]:
    """Return how many images of each pool were damaged, and the first; none where none was.

    Frames left in files are met in training: the most that one training met, named in its log.
    """
    damaged, config = damaged_images(experiment.folder), experiment.config
    if isinstance(experiment.data.unlabelled, FramePool) and "function_matching" in config.arms:
        runs = [experiment.student_folder("function_matching", seed) for seed in config.seeds]
        met = max(row.get("damaged_frames", 0) for run in runs for row in read_metrics(run))
        if met:
            damaged["unlabelled"] = {"count": met, "first": None}
    return damaged


def _by_arm(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    arms = dict.fromkeys(row["arm"] for row in rows)
    return {arm: [row for row in rows if row["arm"] == arm] for arm in arms}


def _scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    return {arm: [row["score"] for row in own] for arm, own in _by_arm(rows).items()}


def gap_closed(rows: Sequence[Mapping[str, Any]], teacher_score: float) -> float | None:
    """Return (function_matching − supervised) / (teacher − supervised) of the arms' means.

    None where an arm is missing or the teacher is no better than the supervised student.

    >>> rows = [{"arm": "supervised", "score": 0.5}, {"arm": "function_matching", "score": 0.6}]
    >>> round(gap_closed(rows, teacher_score=0.7), 6)
    0.5
    """
    means = {arm: mean_sd(scores)[0] for arm, scores in _scores(rows).items()}
    supervised, matched = means.get("supervised"), means.get("function_matching")
    if supervised is None or matched is None or teacher_score <= supervised:
        return None
    return float((matched - supervised) / (teacher_score - supervised))


def _summaries(rows: Sequence[Mapping[str, Any]], agreement_name: str) -> list[dict[str, Any]]:
    summaries = []
    for arm, own in _by_arm(rows).items():
        mean, sd = mean_sd([row["score"] for row in own])
        agreement = {
            pool: _mean([row["agreement"][pool][agreement_name] for row in own])
            for pool in own[0]["agreement"]
        }
        spread = None if len(own) < 2 else sd
        summaries.append({"arm": arm, "mean": mean, "sd": spread, "agreement": agreement})
    return summaries


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean, None where a value is undefined, as AP is where a teacher finds nothing."""
    known = [value for value in values if value is not None]
    return mean_sd(known)[0] if len(known) == len(values) else None


def _comparisons(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compare the distilled arms with the supervised one, seed by seed; empty with fewer than two seeds."""
    scores = _scores(rows)
    supervised = scores.pop("supervised", [])
    if len(supervised) < 2:
        return []
    results = {arm: paired_comparison(supervised, values) for arm, values in scores.items()}
    return [
        {"arm": arm, **r.to_dict(), "verdict": r.verdict(scale=100, unit="pp")}
        for arm, r in results.items()
    ]


def _network_costs(experiment: Experiment, runtime: Runtime) -> dict[str, Any]:
    """Measure teacher and student, each without its auxiliary head, on one image."""
    config = experiment.config
    networks = {
        "teacher": experiment.load_teacher(),
        # Only its size counts, so none of its weights are loaded.
        "student": experiment.make_student("function_matching", config.seeds[0], pretrained=False),
    }
    image = torch.zeros(1, 3, config.data.height, config.data.width, device=runtime.device)
    with runtime.autocast():
        costs = {
            name: measure_network(for_inference(network).to(runtime.device), image)
            for name, network in networks.items()
        }
    return {"device": str(runtime.device), "precision": runtime.precision, **costs}


def _write_examples(experiment: Experiment, runtime: Runtime) -> str:
    """Keep all networks' predictions on the first validation images, for the report's pictures; return a digest."""
    data, task = experiment.data, experiment.task
    few = data.validation.select(range(min(_EXAMPLES, len(data.validation))))
    assert few.targets is not None
    networks = {"teacher": experiment.load_teacher()}
    networks |= {arm: experiment.load_student(arm) for arm in experiment.config.arms}
    batches = inputs.evaluation_batches(few, data, runtime)
    columns = {"truth": few.targets}
    for name, network in networks.items():
        columns[name] = _predictions(task, network.to(runtime.device), batches, runtime)
    arrays: dict[str, Any] = {name: values.numpy() for name, values in columns.items()}
    images = few.images.permute(0, 2, 3, 1).numpy()  # (N,H,W,3)
    return write_arrays(experiment.folder / "predictions.npz", {"images": images, **arrays})


@torch.inference_mode()
def _predictions(
    task: DistillationTask, network: nn.Module, batches: EvalBatches, runtime: Runtime
) -> Tensor:
    """Return class maps (B,H,W), or packed boxes (B,M,6) of a score worth drawing."""
    if isinstance(task, DetectionTask):
        found = task.predict(network, batches, runtime)
        sure = [
            {k: v[one["scores"] >= TEACHER_SCORE].tolist() for k, v in one.items()} for one in found
        ]
        return pack_boxes([image_boxes(one["boxes"], one["labels"]) for one in sure])
    assert isinstance(task, SegmentationTask)
    logits = [task.outputs(network, runtime.to_device(batch.images)) for batch in batches.epoch()]
    return torch.cat(logits).argmax(1).cpu()
