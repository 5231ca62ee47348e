"""Function matching for detection, beside the slides' table."""

from collections.abc import Sequence

from experiments.result_rows import Row
from experiments.sections.distillation import (
    absent,
    agreement,
    beside_slides,
    name_of,
    network,
    slides,
    verdict,
    whole_rows,
)

ORDER, COMMAND = 210, "python -m experiments.distillation_detection --small"
REAL = "python -m experiments.distillation_detection --real"
PREFIX = "detection by function matching on "
EXPECTED = {"built-in scenes": COMMAND, "KITTI": REAL}


def covers(row: Row) -> bool:
    """Take the rows of the experiment."""
    return row.get("experiment") == "distillation_detection"


def section(rows: Sequence[Row]) -> list[str]:
    """Return the table beside the slides', what was measured with what, and agreement."""
    parts = ["## Function matching: detection", *absent(rows, PREFIX, EXPECTED)]
    if whole := whole_rows(rows):
        parts += [
            beside_slides(whole, "AP", slides("detection_map"), digits=1),
            *(set_up(row) for row in whole),
            agreement(whole, "AP with the teacher's boxes as truth"),
        ]
    return parts


def set_up(row: Row) -> str:
    """Say with what a row was measured."""
    config, result, machine = row["config"], row["result"], row["environment"]
    images, size = result["images"], config["data"]
    nets = " teaches ".join(network(config[net]) for net in ("teacher", "student"))
    boxes = result["teacher"]["boxes"]
    return (
        f"*{name_of(row)}*: {nets} at {size['height']}×{size['width']} px; {images['labelled']} "
        f"labelled images, {images['unlabelled']} more without labels for function matching; teacher "
        f"{config['teacher_steps']['steps']} and students {result['steps']} steps of "
        f"{config['student_steps']['batch_size']} images, the last checkpoint; {len(config['seeds'])} "
        f"seeds; {images['validation']} validation images with {boxes} boxes. Measured {row['date']} with "
        f"torch {machine['torch']} on {machine['gpu'] or str(machine['cores']) + ' CPU cores'}."
    )


def reading(rows: Sequence[Row]) -> list[str]:
    """Say for each experiment whether the slides' effect shows."""
    return [verdict(row, slides("detection_map")) for row in whole_rows(rows)]
