"""One self-contained HTML page of a function-matching experiment, from its folder's files."""

from pathlib import Path
from typing import Any

import numpy as np

from fmce.report.matching_figures import (
    arms_figure,
    class_table,
    predictions_figure,
    progress_figure,
)
from fmce.report.page import inline, read_json_or_none, template


def matching_page(experiment: Path) -> str:
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
        "arms_picture": inline(arms_figure(result), "Scores by arm"),
        "progress_picture": inline(progress_figure(result), "Score and agreement over steps"),
        "predictions_picture": _predictions(experiment, result),
        "export": exported,
        "networks": result.get("networks") or exported,
        "config": (experiment / "config.yaml").read_text(encoding="utf-8"),
        "versions": read_json_or_none(experiment / "versions.json") or {},
    }
    return str(template("matching.html.j2").render(context))


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
    sentences += _agreement_in_words(result["arms"])
    return " ".join(sentences)


def _gap_in_words(share: float) -> str:
    if share < 0:
        return (
            "Function matching ends below the supervised student, further from the teacher by "
            f"{-100 * share:.0f} % of the gap."
        )
    return f"Function matching closes {100 * share:.0f} % of the gap to the teacher."


def _agreement_in_words(arms: list[dict[str, Any]]) -> list[str]:
    """Say how often the matched and the supervised student answer as the teacher does."""
    shares = {arm["arm"]: arm["agreement"] for arm in arms}
    if not {"supervised", "funmatch"} <= shares.keys():
        return []
    pools = {"validation": "on validation", "held_out_frames": "on unlabelled images kept aside"}
    each = [
        f"{100 * shares['funmatch'][pool]:.1f} % {where} (supervised {100 * shares['supervised'][pool]:.1f} %)"
        for pool, where in pools.items()
        if pool in shares["funmatch"]
    ]
    return [f"The matched student answers as the teacher does {' and '.join(each)}."]


def _predictions(experiment: Path, result: dict[str, Any]) -> Any:
    file = experiment / "predictions.npz"
    if not file.exists():
        return None
    with np.load(file) as arrays:
        columns = {name: arrays[name] for name in arrays.files if name != "images"}
        figure = predictions_figure(arrays["images"], columns, len(result["teacher"]["iou"]))
    return inline(figure, "Predictions of teacher and students")
