"""What came out of a function-matching experiment: rows, arms, share of the gap closed, verdicts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fmce.config.distillation import DistillationConfig
from fmce.console.tables import number, percent, print_table
from fmce.data.frames.pool import FramePool
from fmce.distillation.data.dataset import damaged_images
from fmce.distillation.data.pools import DistillationData
from fmce.distillation.experiment import arm_folder, make_task
from fmce.metrics.statistics import mean_sd, paired_comparison
from fmce.runs.log import read_done, read_metrics

_CURVE = ("steps", "agreement", "agreement_unlabelled", "kl_to_teacher")


def distillation_result(
    config: DistillationConfig, out: Path, data: DistillationData, teacher: dict[str, Any]
) -> dict[str, Any]:
    """Gather what all arms recorded; the contents of `distill.json`.

    Args:
        config: the experiment.
        out: its folder, with every arm finished.
        data: its images.
        teacher: the teacher's scores.
    """
    task = make_task(config, data)
    name = task.score_name
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
                        {k: row[k] for k in (name, *_CURVE) if k in row}
                        for row in read_metrics(arm_folder(out, arm, seed))
                    ],
                }
            )
    return {
        "task": config.task,
        "score_name": name,
        "agreement_name": task.agreement_name,
        "teacher": teacher,
        "images": {
            p: len(getattr(data, p)) for p in ("labelled", "unlabelled", "held_out", "validation")
        },
        "damaged": _damaged(config, out, data),
        "steps": config.student_steps.steps,
        "rows": rows,
        "arms": _summaries(rows, task.agreement_name),
        "gap_closed": gap_closed(rows, teacher[name]),
        "comparisons": _comparisons(rows),
    }


def _damaged(config: DistillationConfig, out: Path, data: DistillationData) -> dict[str, Any]:
    """Return how many images of each pool were damaged, and the first; none where none was.

    Frames left in files are met in training: the most that one training met, named in its log.
    """
    damaged = damaged_images(out)
    if isinstance(data.unlabelled, FramePool) and "function_matching" in config.arms:
        runs = [arm_folder(out, "function_matching", seed) for seed in config.seeds]
        met = max(row.get("damaged_frames", 0) for run in runs for row in read_metrics(run))
        if met:
            damaged["unlabelled"] = {"count": met, "first": None}
    return damaged


def gap_closed(rows: Sequence[Mapping[str, Any]], teacher_score: float) -> float | None:
    """Return (function_matching − supervised) / (teacher − supervised) of the arms' means.

    None where an arm is missing or the teacher is no better than the supervised student.
    """
    means = _means(rows)
    if (
        not {"function_matching", "supervised"} <= means.keys()
        or teacher_score <= means["supervised"]
    ):
        return None
    return float(
        (means["function_matching"] - means["supervised"]) / (teacher_score - means["supervised"])
    )


def _summaries(rows: Sequence[Mapping[str, Any]], agreement_name: str) -> list[dict[str, Any]]:
    summaries = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        mine = [row for row in rows if row["arm"] == arm]
        mean, sd = mean_sd([row["score"] for row in mine])
        pools = mine[0]["agreement"].keys()
        alike = {p: _mean([row["agreement"][p][agreement_name] for row in mine]) for p in pools}
        spread = None if len(mine) < 2 else sd
        summaries.append({"arm": arm, "mean": mean, "sd": spread, "agreement": alike})
    return summaries


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(row["arm"], []).append(row["score"])
    return {arm: mean_sd(values)[0] for arm, values in scores.items()}


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean, None where a value is undefined, as AP is where a teacher finds nothing."""
    known = [value for value in values if value is not None]
    return mean_sd(known)[0] if len(known) == len(values) else None


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
