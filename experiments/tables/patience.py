"""Function matching on real data: scores over steps, what decides them, and what labels would buy."""

from collections.abc import Sequence

from experiments.paper_tables import gap_closed
from experiments.result_rows import Column, Row, Table, interval, signed, spread, table
from experiments.tables.distillation import NAMES, network
from fmce.metrics.statistics import mean_sd, paired_comparison

Group = Sequence[Row]
"""The rows of one experiment, one per seed."""
ARMS = tuple(NAMES)[1:]
CASES = {
    "fashion-mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "camvid": "CamVid",
    "kitti": "KITTI",
}
SETUP: dict[str, Column] = {
    "data": lambda row: CASES[row["case"]],
    "teacher": lambda row: network(row["config"]["teacher"]),
    "student": lambda row: network(row["config"]["student"]),
    "size, px": lambda row: "{height}×{width}".format(**row["config"]["data"]),
    "labelled images": ("result.images.labelled", ""),
    "unlabelled": ("result.images.unlabelled", ""),
    "validation images": ("result.images.validation", ""),
    "steps of the teacher": ("config.teacher_steps.steps", ""),
    "images per step": ("config.student_steps.batch_size", ""),
    "learning rate": ("config.student_steps.learning_rate", "g"),
    "measured": lambda row: f"{row['date']}, torch {row['environment']['torch']}",
}


def groups(rows: Sequence[Row], part: str) -> list[Group]:
    """Return the experiments of a part in the order of their first rows, the rows of each by seed."""
    found: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        if row.get("experiment") == "patience" and row["part"] == part:
            found.setdefault((row["case"], row["multiple"], row["what"]), []).append(row)
    return [sorted(group, key=lambda row: row["seed"]) for group in found.values()]


def lengths(rows: Sequence[Row]) -> list[Group]:
    """Return the experiments of all lengths, case by case, short before long."""
    order = list(CASES)
    return sorted(
        groups(rows, "lengths"),
        key=lambda group: (order.index(group[0]["case"]), group[0]["multiple"]),
    )


def values(group: Group, arm: str, name: str = "score") -> dict[int, float]:
    """Return what an arm's students came to, by seed."""
    return {
        row["seed"]: row["result"]["arms"][arm][name]
        for row in group
        if arm in row["result"]["arms"]
    }


def mean(group: Group, arm: str, name: str = "score") -> float:
    """Return the mean over an arm's students."""
    return mean_sd(list(values(group, arm, name).values()))[0]


def mean_and_spread(group: Group, arm: str, name: str = "score") -> str:
    """Format the mean and the standard deviation of an arm's students in percent."""
    found = list(values(group, arm, name).values())
    if not found:
        return "–"
    average, deviation = mean_sd(found)
    return spread({"mean": average, "sd": deviation if len(found) > 1 else None})


def share(group: Group, supervised: Group | None = None) -> float | None:
    """Return the share of the gap that function matching closes; None where there is no gap.

    Args:
        group: Experiment with the arm.
        supervised: Where the supervised arm is, if not in `group`; of its seeds those of `group` count.
    """
    seeds = values(group, "function_matching")
    base = [row for row in supervised or group if row["seed"] in seeds]
    if not base or not values(base, "supervised"):
        return None
    teacher = group[0]["result"]["teacher"]
    found = {"teacher": teacher, "supervised": mean(base, "supervised")}
    found["function_matching"] = mean(group, "function_matching")
    return gap_closed(found) if teacher > found["supervised"] else None


def shown_share(found: float | None) -> str:
    """Format a share of the gap closed."""
    return "–" if found is None else f"{found:.2f}"


def difference(baseline: dict[int, float], treatment: dict[int, float]) -> str:
    """Format the mean paired difference in points with its interval, over the seeds that both have."""
    seeds = sorted(baseline.keys() & treatment.keys())
    if not seeds:
        return "–"
    pairs = [baseline[s] for s in seeds], [treatment[s] for s in seeds]
    if len(seeds) == 1:
        return f"{signed(pairs[1][0] - pairs[0][0])} (one pair)"
    found = paired_comparison(*pairs).to_dict()
    return f"{signed(found['mean_difference'] or 0.0)} ({interval(found)})"


def length_table(rows: Sequence[Row]) -> Table:
    """Return the scores of all arms at each length."""
    lines = [
        (
            CASES[group[0]["case"]],
            f"{group[0]['multiple']}×: {group[0]['result']['steps']}",
            str(len(group)),
            *(mean_and_spread(group, arm) for arm in ARMS),
            f"{100 * group[0]['result']['teacher']:.2f}",
            difference(values(group, "supervised"), values(group, "function_matching")),
            shown_share(share(group)),
        )
        for group in lengths(rows)
    ]
    gain = "matching − supervised, pp (95 % interval)"
    header = ("data", "steps", "seeds", "supervised", "distilled", "function matching", "teacher")
    return Table((*header, gain, "gap closed"), lines)


def agreement_table(rows: Sequence[Row]) -> Table:
    """Return how often each arm answers as the teacher does on unlabelled images kept aside."""
    lines = [
        (
            CASES[group[0]["case"]],
            str(group[0]["result"]["steps"]),
            *(mean_and_spread(group, arm, "held_out") for arm in ARMS),
        )
        for group in lengths(rows)
    ]
    return Table(("data", "steps", "supervised", "distilled", "function matching"), lines)


def decider_table(rows: Sequence[Row]) -> Table:
    """Return function matching with one thing changed at a time, beside it as it is with equal steps."""
    at_length = {(g[0]["case"], g[0]["multiple"]): g for g in lengths(rows)}
    lines = []
    for group in groups(rows, "deciders"):
        base = at_length.get((group[0]["case"], group[0]["multiple"]), [])
        own = group if values(group, "supervised") else base
        lines.append(
            (
                group[0]["what"],
                str(group[0]["result"]["images"]["unlabelled"]),
                str(len(group)),
                mean_and_spread(group, "function_matching"),
                difference(values(base, "function_matching"), values(group, "function_matching")),
                shown_share(share(group, own)),
                mean_and_spread(group, "function_matching", "validation"),
            )
        )
    header = ("changed", "unlabelled images", "seeds", "score", "− as it is, pp (95 % interval)")
    return Table((*header, "gap closed", "agreement, validation"), lines)


def label_table(rows: Sequence[Row]) -> Table:
    """Return supervised students with more labels beside the matched one with few."""
    at_length = {(g[0]["case"], g[0]["multiple"]): g for g in lengths(rows)}
    lines = []
    for group in groups(rows, "labels"):
        base = at_length.get((group[0]["case"], group[0]["multiple"]), [])
        matched = values(base, "function_matching")
        lines.append(
            (
                str(group[0]["result"]["images"]["labelled"]),
                str(len(group)),
                mean_and_spread(group, "supervised"),
                difference(matched, values(group, "supervised")),
            )
        )
    header = ("labels", "seeds", "supervised", "− matched with few labels, pp (95 % interval)")
    return Table(header, lines)


def teacher_table(rows: Sequence[Row]) -> Table:
    """Return function matching with a better teacher, beside it as it is with equal steps."""
    at_length = {(g[0]["case"], g[0]["multiple"]): g for g in lengths(rows)}
    lines = []
    for group in groups(rows, "teachers"):
        base = at_length.get((group[0]["case"], group[0]["multiple"]), [])
        supervised, before = (values(base, arm) for arm in ("supervised", "function_matching"))
        for teacher, matched in (("as it is", base), (group[0]["what"], group)):
            scores = values(matched, "function_matching")
            if not scores:
                continue
            lines.append(
                (
                    CASES[group[0]["case"]],
                    str(group[0]["result"]["steps"]),
                    teacher,
                    f"{100 * matched[0]['result']['teacher']:.2f}",
                    mean_and_spread(base, "supervised"),
                    mean_and_spread(matched, "function_matching"),
                    difference(supervised, scores),
                    "–" if matched is base else difference(before, scores),
                    shown_share(share(matched, base)),
                    mean_and_spread(matched, "function_matching", "validation"),
                )
            )
    gains = ("− supervised, pp (95 % interval)", "− matched as it is, pp (95 % interval)")
    header = ("data", "steps", "teacher", "its score", "supervised", "function matching", *gains)
    return Table((*header, "gap closed", "agreement, validation"), lines)


def setting_table(rows: Sequence[Row]) -> Table:
    """Return the scores by which the learning rate was chosen."""
    lines = [
        (
            group[0]["what"],
            str(group[0]["result"]["steps"]),
            *(mean_and_spread(group, arm) for arm in ("supervised", "function_matching")),
        )
        for group in groups(rows, "settings")
    ]
    return Table(("setting", "steps", "supervised", "function matching"), lines)


def setup_table(rows: Sequence[Row]) -> Table:
    """Return with what each case was measured."""
    first = {group[0]["case"]: group[0] for group in lengths(rows)}
    return table(first.values(), SETUP)
