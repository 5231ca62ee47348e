"""Function matching for segmentation and classification, beside the slides' table."""

from collections.abc import Mapping, Sequence

from experiments.paper_tables import paper_table
from experiments.result_rows import (
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

ORDER, COMMAND = 200, "python -m experiments.distillation_segmentation --small"
REAL = "python -m experiments.distillation_segmentation --real"
CLASSIFY = "python -m experiments.distillation_classification"
STEP = "python -m benchmarks.matching_step --record"
PREFIX = "function matching on "
# What each row is called on the page, and what makes it; others of the same experiments follow.
EXPECTED = {"built-in scenes": COMMAND, "CamVid": REAL, "CIFAR-10": CLASSIFY}
OWN_FRAMES = "CamVid, own frames only"
SCORES = {"miou": "mIoU", "accuracy": "accuracy", "ap": "AP"}
NAMES = {
    "teacher": "large (teacher), supervised",
    "supervised": "compact, supervised",
    "distilled": "compact, distilled on labelled images",
    "function_matching": "compact, function matching",
}


def covers(row: Row) -> bool:
    """Take the rows of both experiments and of the step benchmark."""
    names = ("distillation_segmentation", "distillation_classification")
    return row.get("experiment") in names or row.get("benchmark") == "matching_step"


def section(rows: Sequence[Row]) -> list[str]:
    """Return the table beside the slides', agreement, training length and step time."""
    parts = ["## Function matching", *absent(rows, PREFIX, EXPECTED)]
    if whole := whole_rows(rows):
        parts += [
            beside_slides(whole, "mIoU", slides(), digits=2),
            *(set_up(row) for row in whole),
            agreement(whole, "same answer as the teacher"),
        ]
    return [*parts, *own_frames(rows), *lengths(rows), *step_time(rows)]


def absent(rows: Sequence[Row], prefix: str, expected: Mapping[str, str]) -> list[str]:
    """Name the experiments that have no row, each with the command that makes one."""
    return [
        missing(f"{prefix}{name}", command)
        for name, command in expected.items()
        if result_of(rows, f"{prefix}{name}") is None
    ]


def whole_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that have the teacher and all three arms."""
    return [row for row in rows if set(NAMES) <= scores(row).keys()]


def scores(row: Row) -> dict[str, float]:
    """Return the teacher's score and each arm's mean, fractions."""
    result = row.get("result")
    if not result:
        return {}
    means = {arm["arm"]: arm["mean"] for arm in result["arms"]}
    return {"teacher": result["teacher"][result["score_name"]], **means}


def slides(score: str = "segmentation_miou") -> dict[str, float]:
    """Return the slides' scores by our names of the arms, in percent."""
    return dict(paper_table("function_matching")[score])


def gap(values: dict[str, float]) -> float:
    """Return (function_matching − supervised) / (teacher − supervised).

    >>> gap({"teacher": 65.0, "supervised": 61.0, "function_matching": 64.0})
    0.75
    """
    return (values["function_matching"] - values["supervised"]) / (
        values["teacher"] - values["supervised"]
    )


def beside_slides(
    rows: Sequence[Row], score: str, theirs: Mapping[str, float], *, digits: int
) -> str:
    """Return one column an experiment, the slides' first, whose score has so many digits."""
    header = (
        "",
        f"slides: BDD100K, {score}",
        *(f"{name_of(row)}, {SCORES[row['result']['score_name']]}" for row in rows),
    )
    lines = [
        (label, f"{theirs[arm]:.{digits}f}", *(with_spread(row, arm) for row in rows))
        for arm, label in NAMES.items()
    ]
    shares = [row["result"]["gap_closed"] for row in rows]
    closed = ("share of the gap closed", f"{gap(theirs):.2f}", *(decimal(s, 2) for s in shares))
    return table(header, [*lines, closed])


def name_of(row: Row) -> str:
    """Return the data set of a row, which follows "… function matching on "."""
    return str(row["what"]).partition(" on ")[2]


def with_spread(row: Row, arm: str) -> str:
    """Format a score in percent, with the seeds' sd."""
    sd = {a["arm"]: a["sd"] for a in row["result"]["arms"]}.get(arm)
    value = f"{100 * scores(row)[arm]:.2f}"
    return value if sd is None else f"{value} ± {100 * sd:.2f}"


def set_up(row: Row) -> str:
    """Say with what a row was measured."""
    config, result, machine = row["config"], row["result"], row["environment"]
    images, size = result["images"], config["data"]
    nets = " teaches ".join(network(config[net]) for net in ("teacher", "student"))
    return (
        f"*{name_of(row)}*: {nets} at {size['height']}×{size['width']} px; {images['labelled']} "
        f"labelled images for the teacher and every arm, {images['unlabelled']} more without labels for "
        f"function matching; {result['steps']} steps of {config['student_steps']['batch_size']} images, "
        f"the last checkpoint; {len(config['seeds'])} seeds, {images['validation']} validation images. "
        f"Measured {row['date']} with torch {machine['torch']} on "
        f"{machine['gpu'] or str(machine['cores']) + ' CPU cores'}."
    )


def network(net: Row) -> str:
    """Name a network with what tells teacher and student apart."""
    options = net["options"].get("encoder_options", net["options"])
    told = ", ".join(f"{key} {value}" for key, value in options.items())
    return f"`{net['name']}`" + (f" ({told})" if told else "")


def agreement(rows: Sequence[Row], measure: str) -> str:
    """Return how nearly each arm answers as the teacher does."""
    pools = {"validation": "validation", "held_out_frames": "unlabelled, kept aside"}
    header = (
        measure,
        *(f"{name_of(r)}: {p}" for r in rows for p in pools.values()),
    )
    lines = []
    for arm in ("supervised", "distilled", "function_matching"):
        found = [{a["arm"]: a["agreement"] for a in row["result"]["arms"]}[arm] for row in rows]
        shares = [one.get(pool) for one in found for pool in pools]
        cells = ["–" if share is None else percent(share) for share in shares]
        lines.append((NAMES[arm], *cells))
    return table(header, lines)


def own_frames(rows: Sequence[Row]) -> list[str]:
    """Compare pools: CamVid's own frames alone, and with the frames of other places and cameras."""
    alone, mixed = (result_of(rows, f"{PREFIX}{name}") for name in (OWN_FRAMES, "CamVid"))
    if alone is None or mixed is None:
        return []
    matched = {a["arm"]: a for a in alone["arms"]}["function_matching"]
    return [
        f"With CamVid's own {alone['images']['unlabelled']} frames alone as the pool, the same teacher, "
        f"seeds and steps give {100 * matched['mean']:.2f}"
        + ("" if matched["sd"] is None else f" ± {100 * matched['sd']:.2f}")
        + f" % and {percent(matched['agreement']['validation'])} agreement on validation images; with the "
        f"{mixed['images']['unlabelled']} images of all folders "
        f"{percent({a['arm']: a['mean'] for a in mixed['arms']}['function_matching'])}."
    ]


def lengths(rows: Sequence[Row]) -> list[str]:
    """Return score and agreement against the length of the schedule, the slides' last figure."""
    lines = [
        (
            name_of(row),
            f"{one['steps']}",
            arm["arm"],
            percent(arm["mean"]),
            *(percent(arm["agreement"][p]) for p in ("validation", "held_out_frames")),
        )
        for row in rows
        for one in row.get("result", {}).get("lengths", [])
        for arm in one["arms"]
    ]
    if not lines:
        return []
    header = ("schedules of other lengths", "steps", "arm", "score", "agreement", "unlabelled")
    return [table(header, lines)]


def step_time(rows: Sequence[Row]) -> list[str]:
    """Return what a step costs over a bare loop."""
    found = [row for row in rows if row.get("benchmark") == "matching_step"]
    if not found:
        return [missing("matching_step", STEP)]
    lines = [
        (
            f"{row['model']}, {row['device']}",
            decimal(row["step_over_bare"], 3),
            decimal(row["step_over_bare_with_views"], 3),
            f"{1000 * row['bare_step_seconds']:.1f}",
        )
        for row in found
    ]
    header = ("matching step", "÷ bare loop", "÷ bare loop drawing views too", "bare step, ms")
    note = (
        "Bare is teacher forward and student step in plain PyTorch on views that lie ready; sides take "
        "turns, the ratio is the median. Aim: at most 1.05."
    )
    return [table(header, lines), note]


def reading(rows: Sequence[Row]) -> list[str]:
    """Say for each experiment whether the slides' effect shows."""
    return [*(verdict(row, slides()) for row in whole_rows(rows)), *pool_reading(rows)]


def verdict(row: Row, theirs: Mapping[str, float]) -> str:
    """Judge one experiment by its paired interval, not by its mean."""
    result, name = row["result"], row["what"]
    matched = next((c for c in result["comparisons"] if c["arm"] == "function_matching"), None)
    if matched is None:
        return f"**Cannot be judged: {name}**, with a single seed."
    share = result["gap_closed"]
    closed = (
        "the teacher is no better than the supervised student, so there is no gap to close"
        if share is None
        else f"share of the gap closed {share:.2f}"
    )
    numbers = (
        f"The matched student is {signed(matched['mean_difference'])} pp from the supervised one "
        f"({100 * matched['confidence']:.0f} % interval {interval(matched)}, {matched['n']} seeds); {closed}, slides "
        f"{gap(theirs):.2f}.{apart(row)}"
    )
    if off_zero(matched) and matched["mean_difference"] > 0:
        return f"**Reproduces in kind: {name}.** {numbers}"
    if off_zero(matched):
        return f"**Does not reproduce: {name}.** {numbers}"
    return f"**No gain established: {name}.** {numbers}"


def apart(row: Row) -> str:
    """Say how often both students answer as the teacher does on images of the pool's own kind.

    For boxes that is no share of positions, and the table says it.
    """
    if row["experiment"] == "distillation_detection":
        return ""
    shares = {arm["arm"]: arm["agreement"].get("held_out_frames") for arm in row["result"]["arms"]}
    if None in (shares["function_matching"], shares["supervised"]):
        return ""
    return (
        f" On unlabelled images kept aside it answers as the teacher does at {percent(shares['function_matching'])} "
        f"of the positions, the supervised one at {percent(shares['supervised'])}."
    )


def pool_reading(rows: Sequence[Row]) -> list[str]:
    """Say what the pool's other cameras did, where both pools were tried."""
    alone, mixed = (result_of(rows, f"{PREFIX}{name}") for name in (OWN_FRAMES, "CamVid"))
    if alone is None or mixed is None:
        return []
    own, all_ = (
        {a["arm"]: a["mean"] for a in r["arms"]}["function_matching"] for r in (alone, mixed)
    )
    return [
        f"**Which images are in the pool matters.** On CamVid the matched student reaches {percent(own)} "
        f"with CamVid's own frames and {percent(all_)} with those of other places and cameras added. The "
        "slides' unlabelled frames come from the same source as their labelled ones."
    ]
