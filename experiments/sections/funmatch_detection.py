"""Function matching for detection, beside the slides' table."""

from collections.abc import Sequence

from paper_tables import paper_table
from result_rows import (
    Row,
    decimal,
    interval,
    missing,
    off_zero,
    percent,
    result_of,
    signed,
    table,
)

from sections.funmatch import NAMES, gap, network, scores, with_spread

ORDER, COMMAND = 210, "python experiments/funmatch_detection.py --small"
REAL = "python experiments/funmatch_detection.py --real"
PREFIX = "detection by function matching on "
EXPECTED = {"built-in scenes": COMMAND, "KITTI": REAL}


def covers(row: Row) -> bool:
    """Take the rows of the experiment."""
    return row.get("experiment") == "funmatch_detection"


def section(rows: Sequence[Row]) -> list[str]:
    """Return the table beside the slides', what was measured with what, and agreement."""
    whole = [row for row in rows if set(NAMES) <= scores(row).keys()]
    absent = [
        missing(f"{PREFIX}{name}", command)
        for name, command in EXPECTED.items()
        if result_of(rows, f"{PREFIX}{name}") is None
    ]
    parts = ["## Function matching: detection", *absent]
    if whole:
        parts += [beside_slides(whole), *(set_up(row) for row in whole), agreement(whole)]
    return parts


def slides() -> dict[str, float]:
    """Return the slides' AP by our names of the arms, in percent."""
    published: dict[str, float] = dict(paper_table("function_matching")["detection_map"])
    return {"labelled" if name == "distill" else name: v for name, v in published.items()}


def name_of(row: Row) -> str:
    """Return the data set of a row."""
    return str(row["what"]).removeprefix(PREFIX)


def beside_slides(rows: Sequence[Row]) -> str:
    """Return one column an experiment, the slides' first."""
    theirs = slides()
    header = ("", "slides: BDD100K, AP", *(f"{name_of(row)}, AP" for row in rows))
    lines = [
        (label, f"{theirs[arm]:.1f}", *(with_spread(row, arm) for row in rows))
        for arm, label in NAMES.items()
    ]
    shares = [row["result"]["gap_closed"] for row in rows]
    closed = ("share of the gap closed", f"{gap(theirs):.2f}", *(decimal(s, 2) for s in shares))
    return table(header, [*lines, closed])


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


def agreement(rows: Sequence[Row]) -> str:
    """Return each arm's AP with the teacher's boxes as truth."""
    pools = {"validation": "validation", "held_out_frames": "unlabelled, kept aside"}
    header = (
        "AP with the teacher's boxes as truth",
        *(f"{name_of(row)}: {p}" for row in rows for p in pools.values()),
    )
    lines = []
    for arm in ("supervised", "labelled", "funmatch"):
        found = [{a["arm"]: a["agreement"] for a in row["result"]["arms"]}[arm] for row in rows]
        shares = [one.get(pool) for one in found for pool in pools]
        cells = ["–" if share is None else percent(share) for share in shares]
        lines.append((NAMES[arm], *cells))
    return table(header, lines)


def reading(rows: Sequence[Row]) -> list[str]:
    """Say for each experiment whether the slides' effect shows."""
    return [verdict(row) for row in rows if set(NAMES) <= scores(row).keys()]


def verdict(row: Row) -> str:
    """Judge one experiment by its paired interval, not by its mean."""
    result, name = row["result"], name_of(row)
    matched = next((c for c in result["comparisons"] if c["arm"] == "funmatch"), None)
    if matched is None:
        return (
            f"**Cannot be judged: detection by function matching on {name}**, with a single seed."
        )
    share = result["gap_closed"]
    closed = (
        "the teacher is no better than the supervised student, so there is no gap to close"
        if share is None
        else f"share of the gap closed {share:.2f}"
    )
    numbers = (
        f"The matched student is {signed(matched['mean_difference'])} pp from the supervised one "
        f"({100 * matched['confidence']:.0f} % interval {interval(matched)}, {matched['n']} seeds); {closed}, "
        f"slides {gap(slides()):.2f}."
    )
    if off_zero(matched) and matched["mean_difference"] > 0:
        return f"**Reproduces in kind: detection by function matching on {name}.** {numbers}"
    if off_zero(matched):
        return f"**Does not reproduce: detection by function matching on {name}.** {numbers}"
    return f"**No gain established: detection by function matching on {name}.** {numbers}"
