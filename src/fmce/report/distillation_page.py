"""One self-contained HTML page of a function-matching experiment, from its folder's files."""

from pathlib import Path
from typing import Any

import numpy as np

from fmce.config.io import read_yaml
from fmce.console.log import logger
from fmce.digests import read_arrays, read_record, read_record_or_none, read_sealed
from fmce.report.arm_figures import comparison_figure, progress_figure
from fmce.report.picture_figures import boxes_figure, predictions_figure
from fmce.report.run_page import inline, recorded_versions, template

# The meaning of agreement, by task, in the words of the page.
_AGREEMENT = {
    "classify": "the fraction of images on which student and teacher have the same answer",
    "segment": "the fraction of pixels on which student and teacher have the same answer",
    "detect": "the AP of the student's boxes with the teacher's (score from 0.3 on) as truth",
}
# Scores by class that a teacher may have, and their headings.
_CLASS_SCORES = {"iou": "IoU", "ap_by_class": "AP"}


def distillation_page(experiment: Path) -> str:
    """Return the report of a folder of `fmce distill` as HTML."""
    result = read_record(
        experiment / "distill.json", ("score_name", "rows", "teacher"), "repeat fmce distill"
    )
    if not read_yaml(experiment / "config.yaml"):
        raise ValueError(
            f"{experiment / 'config.yaml'} is empty: it is damaged; put the original back"
        )
    exported = read_record_or_none(experiment / "student" / "export.json", "repeat fmce export")
    name, rows, teacher = result["score_name"], result["rows"], result["teacher"]
    label = f"{name} on validation (%)"
    arms = comparison_figure(rows, "score", label=label, teacher=teacher[name])
    context = {
        "experiment": str(experiment),
        "result": result,
        "verdict": verdict(result),
        "classes": class_table(result),
        "class_score": next((v for k, v in _CLASS_SCORES.items() if k in teacher), None),
        "places": _AGREEMENT[result["task"]],
        "arms_picture": inline(arms, "Scores by arm"),
        "progress_picture": inline(progress_figure(result), "Score and agreement over steps"),
        "predictions_picture": _predictions(experiment, result),
        "compared_arm": compared_arm(result),
        "export": exported,
        "networks": result.get("networks") or exported,
        "config": read_sealed(experiment / "config.yaml"),
        "versions": recorded_versions(experiment),
    }
    return str(template("distillation.html.j2").render(context))


def verdict(result: dict[str, Any]) -> str:
    """Describe the outcome in words, and say so where a difference is not distinguishable from zero."""
    name, share = result["score_name"], result["gap_closed"]
    teacher, arms = result["teacher"][name], {arm["arm"]: arm for arm in result["arms"]}
    sentences = [f"The teacher reaches {100 * teacher:.2f} % {name}."]
    sentences += [f"{c['arm']} against supervised: {c['verdict']}" for c in result["comparisons"]]
    if share is not None and share < 0:
        sentences.append(
            "Function matching ends below the supervised student, further from the teacher by "
            f"{-100 * share:.0f} % of the gap."
        )
    elif share is not None:
        sentences.append(f"Function matching closes {100 * share:.0f} % of the gap to the teacher.")
    elif "supervised" in arms and teacher <= arms["supervised"]["mean"]:
        sentences.append(
            "The teacher is no better than the supervised student, so there is no gap to close."
        )
    if {"supervised", "function_matching"} <= arms.keys():
        matched, supervised = arms["function_matching"], arms["supervised"]
        sentences += _compare_agreement(
            result["task"], matched["agreement"], supervised["agreement"]
        )
    return " ".join(sentences)


def _compare_agreement(
    task: str, matched: dict[str, float | None], supervised: dict[str, float | None]
) -> list[str]:
    """Describe how often the matched and the supervised student answer as the teacher does."""
    pools = {"validation": "on validation", "held_out": "on unlabelled images kept aside"}
    # A detector's agreement is undefined where its teacher finds nothing.
    each = [
        f"{100 * ours:.1f} % {where} (supervised {100 * theirs:.1f} %)"
        for pool, where in pools.items()
        if (ours := matched.get(pool)) is not None and (theirs := supervised.get(pool)) is not None
    ]
    subject = "The matched student answers as the teacher does"
    if task == "detect":
        subject = "With the teacher's boxes as truth the matched student's AP is"
    return [f"{subject} {' and '.join(each)}."] if each else []


def class_table(result: dict[str, Any]) -> list[tuple[str, list[float | None]]]:
    """Return for each class the teacher's IoU or AP and every arm's mean; empty without classes."""
    score = next((name for name in _CLASS_SCORES if name in result["teacher"]), None)
    if score is None:
        return []
    table = []
    for name, teacher in result["teacher"][score].items():
        cells: list[float | None] = [teacher]
        for arm in result["arms"]:
            rows = [r for r in result["rows"] if r["arm"] == arm["arm"]]
            known = [v for r in rows if (v := r["scores"][score][name]) is not None]
            cells.append(float(np.mean(known)) if known else None)
        table.append((name, cells))
    return table


def compared_arm(result: dict[str, Any]) -> str:
    """Return the arm whose disagreement with the teacher is drawn: function matching, where it was run."""
    arms = [arm["arm"] for arm in result["arms"]]
    return "function_matching" if "function_matching" in arms else str(arms[-1])


def _predictions(experiment: Path, result: dict[str, Any]) -> Any:
    file = experiment / "predictions.npz"
    if not file.exists():
        if result.get("predictions_sha256"):
            logger.warning("%s is missing; the page is made without pictures", file)
        return None
    columns = read_arrays(file, result.get("predictions_sha256"), "repeat fmce distill")
    images = columns.pop("images")
    classes = [name for name, _scores in class_table(result)]
    if result["task"] == "detect":
        figure = boxes_figure(images, columns, classes)
    else:
        columns["disagreement"] = columns[compared_arm(result)] != columns["teacher"]
        figure = predictions_figure(images, columns, len(classes))
    return inline(figure, "Predictions of teacher and students")
