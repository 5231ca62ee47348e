"""Digits: the original task, its markers, and what they owe to smoother and learning rate."""

from collections.abc import Sequence

from experiments.result_rows import Row, missing, numbers, percent, result_of, setting, table

ORDER, COMMAND = 10, "python -m experiments.digits"


def covers(row: Row) -> bool:
    """Take the digits' plain trainings."""
    return row.get("experiment") == "digits" and row["what"] == "original task"


def section(rows: Sequence[Row]) -> list[str]:
    """Return training and markers, one group of lines a seed."""
    parts = ["## Digits: original task and phases"]
    if not rows:
        return [*parts, missing("original task", COMMAND)]
    lines = []
    for row in rows:
        one = row["result"]
        lines += [
            (f"seed {one['seed']}", numbers(one["markers"])),
            ("same curve, unsmoothed", numbers(one["unsmoothed_markers"])),
            ("same curve, debiased average", numbers(one["debiased_markers"])),
            ("step curve, same smoothing", numbers(one["step_curve_markers"])),
        ]
    notes = [seed_note(row["result"]) for row in rows]
    return [*parts, setting(rows[0]), table(("curve", "markers (epochs)"), lines), *notes]


def seed_note(one: Row) -> str:
    """Say how well a seed's run classifies and what made its markers."""
    distance = one["smoothing_distance"]
    smoother = (
        "the step curve has no markers"
        if distance is None
        else f"its markers are {distance:.1f} epochs from the step curve's on average"
        f"{' (below 2: the smoother makes them)' if distance < 2 else ''}"
    )
    return (
        f"Seed {one['seed']}: test accuracy {percent(one['test_accuracy'])}; {smoother}; at the "
        f"convergence epoch the learning rate was {one['lr_fraction']:.2f} of its peak."
    )


def reading(rows: Sequence[Row]) -> list[str]:
    """Say what markers owe to smoother and learning rate rather than to training."""
    one = result_of(rows, "original task")
    if one is None or one["smoothing_distance"] is None:
        return []
    driven = one["smoothing_distance"] < 2
    return [
        f"**{'Not from training' if driven else 'Only partly from training'}: the markers.** A curve "
        "that drops to its last value in one step and stays there, smoothed alike, has markers "
        f"{one['smoothing_distance']:.1f} epochs away on average. Without smoothing the same curve's "
        f"last marker is epoch {(one['unsmoothed_markers'] or ['none'])[-1]} instead of "
        f"{one['markers'][-1]}. At that epoch the cosine schedule has brought the learning rate to "
        f"{one['lr_fraction']:.2f} of its peak."
    ]
