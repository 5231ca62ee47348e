"""One self-contained HTML page of a function-matching experiment, from its folder's files."""

from pathlib import Path
from typing import Any

import numpy as np

from fmce.files import read_json_or_none
from fmce.report.distillation_figures import (
    CLASS_SCORES,
    arms_figure,
    boxes_figure,
    class_table,
    predictions_figure,
    progress_figure,
)
from fmce.report.run_page import inline, template

# What agreement is, by task, in the words of the page.
_PLACES = {
    "classify": "the share of images on which student and teacher have the same answer",
    "segment": "the share of pixels on which student and teacher have the same answer",
    "detect": "the AP of the student's boxes with the teacher's (score from 0.3 on) as truth",
}


def distillation_page(experiment: Path) -> str:
    """Return the report of an experiment as HTML.

    Args:
        experiment: folder of `fmce distill`.

    Raises:
        FileNotFoundError: the folder holds no finished experiment.
    """
    result = read_json_or_none(experiment / "distill.json")
    if result is None:
        raise FileNotFoundError(
            f"{experiment} has no distill.json; run: fmce distill --out {experiment}"
        )
    exported = read_json_or_none(experiment / "student" / "export.json")
    context = {
        "experiment": str(experiment),
        "result": result,
        "verdict": verdict(result),
        "classes": class_table(result),
        "class_score": next((v for k, v in CLASS_SCORES.items() if k in result["teacher"]), None),
        "places": _PLACES[result["task"]],
        "arms_picture": inline(arms_figure(result), "Scores by arm"),
        "progress_picture": inline(progress_figure(result), "Score and agreement over steps"),
        "predictions_picture": _predictions(experiment, result),
        "compared_arm": compared_arm(result),
        "export": exported,
        "networks": result.get("networks") or exported,
        "config": (experiment / "config.yaml").read_text(encoding="utf-8"),
        "versions": read_json_or_none(experiment / "versions.json") or {},
    }
    return str(template("distillation.html.j2").render(context))


def verdict(result: dict[str, Any]) -> str:
    """Say in words what came out; plain when a difference is not distinguishable from zero."""
    name = result["score_name"]
    means = {arm["arm"]: arm["mean"] for arm in result["arms"]}
    sentences = [f"The teacher reaches {100 * result['teacher'][name]:.2f} % {name}."]
    sentences += [f"{c['arm']} against supervised: {c['verdict']}" for c in result["comparisons"]]
    teacher = result["teacher"][name]
    if result["gap_closed"] is not None:
        sentences.append(_gap_in_words(result["gap_closed"]))
    elif teacher <= means.get("supervised", 0):
        sentences.append(
            "The teacher is no better than the supervised student, so there is no gap to close."
        )
    sentences += _agreement_in_words(result["task"], result["arms"])
    return " ".join(sentences)


def _gap_in_words(share: float) -> str:
    if share < 0:
        return (
            "Function matching ends below the supervised student, further from the teacher by "
            f"{-100 * share:.0f} % of the gap."
        )
    return f"Function matching closes {100 * share:.0f} % of the gap to the teacher."


def _agreement_in_words(task: str, arms: list[dict[str, Any]]) -> list[str]:
    """Say how alike the matched and the supervised student answer to the teacher."""
    shares = {arm["arm"]: arm["agreement"] for arm in arms}
    if not {"supervised", "function_matching"} <= shares.keys():
        return []
    pools = {"validation": "on validation", "held_out_frames": "on unlabelled images kept aside"}
    pairs = {
        where: (shares["function_matching"].get(pool), shares["supervised"].get(pool))
        for pool, where in pools.items()
    }
    # A detector's is undefined where its teacher finds nothing.
    each = [
        f"{100 * matched:.1f} % {where} (supervised {100 * supervised:.1f} %)"
        for where, (matched, supervised) in pairs.items()
        if matched is not None and supervised is not None
    ]
    said = (
        "With the teacher's boxes as truth the matched student's AP is"
        if task == "detect"
        else "The matched student answers as the teacher does"
    )
    return [f"{said} {' and '.join(each)}."] if each else []


def compared_arm(result: dict[str, Any]) -> str:
    """Return the arm whose disagreement with the teacher is drawn: function matching, where it was run."""
    arms = [arm["arm"] for arm in result["arms"]]
    return "function_matching" if "function_matching" in arms else str(arms[-1])


def _predictions(experiment: Path, result: dict[str, Any]) -> Any:
    file = experiment / "predictions.npz"
    if not file.exists():
        return None
    with np.load(file) as arrays:
        # Folders written earlier hold a disagreement too, of whichever arm was last.
        others = ("images", "disagreement")
        columns = {name: arrays[name] for name in arrays.files if name not in others}
        if result["task"] == "segment":
            columns["disagreement"] = columns[compared_arm(result)] != columns["teacher"]
        classes = [name for name, _scores in class_table(result)]
        if result["task"] == "detect":
            figure = boxes_figure(arrays["images"], columns, classes)
        else:
            figure = predictions_figure(arrays["images"], columns, len(classes))
    return inline(figure, "Predictions of teacher and students")
