"""Function matching beside the slides' table: segmentation and classification, and detection."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

from experiments.paper_tables import gap_closed, slides
from experiments.result_rows import (
    Column,
    Row,
    Table,
    interval,
    measured,
    percent,
    select,
    signed,
    spread,
    table,
    value,
)

Task = Literal["matching", "detection"]
"""Segmentation and classification, or detection."""
NAMES = {
    "teacher": "large (teacher), supervised",
    "supervised": "compact, supervised",
    "distilled": "compact, distilled on labelled images",
    "function_matching": "compact, function matching",
}
SCORES = {"miou": "mIoU", "accuracy": "accuracy", "ap": "AP"}
POOLS = {"validation": "validation", "held_out": "unlabelled, kept aside"}
SETUP: dict[str, Column] = {
    "teacher": lambda row: network(row["config"]["teacher"]),
    "student": lambda row: network(row["config"]["student"]),
    "size, px": lambda row: "{height}×{width}".format(**row["config"]["data"]),
    "labelled images": ("result.images.labelled", ""),
    "unlabelled images, for function matching": ("result.images.unlabelled", ""),
    "steps of the teacher": ("config.teacher_steps.steps", ""),
    "steps of each student": ("result.steps", ""),
    "images per step": ("config.student_steps.batch_size", ""),
    "student seeds": lambda row: str(len(row["config"]["seeds"])),
    "validation images": ("result.images.validation", ""),
    "boxes in them": ("result.teacher.boxes", ""),
    "measured": measured,
}


def experiments(rows: Sequence[Row], task: Task) -> list[Row]:
    """Return the rows of a task that have the teacher and all three arms."""
    names = ("detection",) if task == "detection" else ("segmentation", "classification")
    found = [row for name in names for row in select(rows, experiment=f"distillation_{name}")]
    return [row for row in found if set(NAMES) - {"teacher"} <= arms(row["result"]).keys()]


def arms(result: Row) -> dict[str, Row]:
    """Return the arms of a result by name."""
    return {arm["arm"]: arm for arm in result["arms"]}


def place(row: Row) -> str:
    """Return the data of a row, which follows "… function matching on "."""
    return str(row["what"]).partition(" on ")[2]


def network(net: Row) -> str:
    """Name a network with what tells teacher and student apart."""
    options = net["options"].get("encoder_options", net["options"])
    listed = ", ".join(f"{key} {number}" for key, number in options.items())
    return f"`{net['name']}`" + (f" ({listed})" if listed else "")


def score_table(rows: Sequence[Row], task: Task) -> Table:
    """Return scores in percent, one column per experiment, the slides' first."""
    rows = experiments(rows, task)
    score, form = ("AP", ".1f") if task == "detection" else ("mIoU", ".2f")
    published = slides("detection_map" if task == "detection" else "segmentation_miou")
    gained = published["function_matching"] - published["supervised"]
    lines = {arm: [label, format(published[arm], form)] for arm, label in NAMES.items()}
    lines["gain"] = ["function matching − supervised, pp (95 % interval)", f"{gained:+{form}}"]
    lines["share"] = ["share of the gap closed", f"{gap_closed(published):.2f}"]
    for result in (row["result"] for row in rows):
        lines["teacher"].append(f"{100 * result['teacher'][result['score_name']]:.2f}")
        for name, arm in arms(result).items():
            lines[name].append(spread(arm))
        gain = next(c for c in result["comparisons"] if c["arm"] == "function_matching")
        lines["gain"].append(f"{signed(gain['mean_difference'])} ({interval(gain)})")
        lines["share"].append(value(result, "gap_closed", ".2f"))
    names = [f"{place(row)}, {SCORES[row['result']['score_name']]}" for row in rows]
    return Table(("", f"slides: BDD100K, {score}", *names), list(lines.values()))


def setup_table(rows: Sequence[Row], task: Task) -> Table:
    """Return with what each experiment was measured, one column per experiment."""
    rows = experiments(rows, task)
    cells = zip(SETUP, *table(rows, SETUP).lines, strict=True)
    return Table(("", *map(place, rows)), [line for line in cells if set(line[1:]) != {"–"}])


def agreement_table(rows: Sequence[Row], task: Task) -> Table:
    """Return how nearly each arm answers as the teacher does, on validation images and on the pool's kind."""
    rows = experiments(rows, task)
    measure = (
        "AP with the teacher's boxes as truth"
        if task == "detection"
        else "same answer as the teacher"
    )
    header = [f"{place(row)}: {label}" for row in rows for label in POOLS.values()]
    lines = [
        (
            NAMES[arm],
            *(
                value(arms(row["result"])[arm]["agreement"], pool, "%")
                for row in rows
                for pool in POOLS
            ),
        )
        for arm in list(NAMES)[1:]
    ]
    return Table((measure, *header), lines)


matching_scores = partial(score_table, task="matching")
matching_setups = partial(setup_table, task="matching")
matching_agreement = partial(agreement_table, task="matching")
detection_scores = partial(score_table, task="detection")
detection_setups = partial(setup_table, task="detection")
detection_agreement = partial(agreement_table, task="detection")


def pool_table(rows: Sequence[Row]) -> Table:
    """Return function matching on CamVid with its own unlabelled frames alone, and with those of other places."""
    columns: dict[str, Column] = {
        "unlabelled images": lambda row: "CamVid's own" if "own" in row["what"] else "all folders",
        "number": ("result.images.unlabelled", ""),
        "mIoU, %": lambda row: spread(arms(row["result"])["function_matching"]),
        "same answer, validation": lambda row: percent(
            arms(row["result"])["function_matching"]["agreement"]["validation"]
        ),
    }
    return table([row for row in rows if " on CamVid" in row.get("what", "")], columns)


def length_table(rows: Sequence[Row]) -> Table:
    """Return score and agreement against the length of the schedule, the slides' last figure."""
    lines = [
        (
            place(row),
            str(length["steps"]),
            NAMES[arm["arm"]],
            value(arm, "mean", "%"),
            *(value(arm, f"agreement.{pool}", "%") for pool in POOLS),
        )
        for row in experiments(rows, "matching")
        for length in row["result"].get("lengths", [])
        for arm in length["arms"]
    ]
    return Table(("data", "steps", "arm", "score", "agreement", "agreement, unlabelled"), lines)


def step_table(rows: Sequence[Row]) -> Table:
    """Return what a step costs over a bare loop."""
    columns: dict[str, Column] = {
        "step": lambda row: f"{row['model']}, {row['device']}",
        "÷ bare loop": ("step_over_bare", ".3f"),
        "÷ bare loop drawing views too": ("step_over_bare_with_views", ".3f"),
        "bare step, ms": lambda row: f"{1000 * row['bare_step_seconds']:.1f}",
    }
    return table(select(rows, benchmark="matching_step"), columns)
