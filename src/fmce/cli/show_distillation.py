"""What the commands of method 3 print."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fmce.console.tables import number, percent, print_table

_COSTS = ("parameters", "multiply_adds", "weights_mib", "latency_ms")
_LABEL_COUNTS = {
    "images_without_labels": "images have no labels and count as images without objects",
    "labels_without_image": "labelled images are not in the folder and do not count",
}


def show_result(result: Mapping[str, Any]) -> None:
    """Print the arms beside the teacher, the verdicts, and the share of the gap closed."""
    name = result["score_name"]
    rows: list[tuple[str, ...]] = [("teacher", percent(result["teacher"][name]), "–", "–")]
    for arm in result["arms"]:
        spread = "" if arm["sd"] is None else f" ± {100 * arm['sd']:.2f}"
        alike = [percent(arm["agreement"].get(p)) for p in ("validation", "held_out")]
        rows.append((arm["arm"], f"{100 * arm['mean']:.2f}{spread} %", *alike))
    title = f"{name} after {result['steps']} steps, and agreement with the teacher"
    print_table(title, ("arm", name, "agreement", "on unlabelled frames"), rows)
    for comparison in result["comparisons"]:
        print(f"{comparison['arm']} against supervised: {comparison['verdict']}")
    if result["gap_closed"] is not None:
        share = number(result["gap_closed"], 3)
        print(f"share of the gap to the teacher closed by function matching: {share}")


def show_predictions(out: Path, result: Mapping[str, Any]) -> None:
    """Print scores where there are any, and what was written."""
    for key, meaning in _LABEL_COUNTS.items():
        if result.get(key):
            print(f"warning: {result[key]} {meaning}")
    detect, scores = result["task"] == "detect", result["scores"]
    if scores is not None:
        name, key, by_class = ("AP", "ap", "ap_by_class") if detect else ("mIoU", "miou", "iou")
        rows = [(class_name, percent(value)) for class_name, value in scores[by_class].items()]
        title = f"{result['network']}: {name} {percent(scores[key])}"
        print_table(title, ("class", name if detect else "IoU"), rows)
    unreadable = len(result["unreadable"])
    left_out = f"; {unreadable} unreadable images are left out" if unreadable else ""
    if detect:
        file = out / "predictions_official.json"
        print(f"boxes of {result['images']} images written to {file}{left_out}")
    else:
        print(f"{result['images']} masks of train ids written to {out}{left_out}")


def show_export(out: Path, result: Mapping[str, Any]) -> None:
    """Print both networks' size and speed, and how exactly each form gives the network's outputs."""
    rows = [
        (name, *(number(result[net][name], 4) for net in ("teacher", "student"))) for name in _COSTS
    ]
    print_table("Teacher and student, one image, this machine", ("", "teacher", "student"), rows)
    for form, difference in result["relative_differences"].items():
        print(f"{form}: outputs differ by {difference:.1e} of the largest")
    print(f"written to {out}")


def show_frames(out: Path, result: Mapping[str, Any]) -> None:
    """Print what the shards hold, and the damaged videos."""
    print(
        f"{out}: {result['frames']} frames of {result['videos']} videos, "
        f"{result['bytes'] / 2**20:.1f} MiB; {result['packed']} packed in {result['seconds']:.0f} s"
    )
    for video, reason in result["damaged"].items():
        print(f"damaged and left out, {video}: {reason}")
