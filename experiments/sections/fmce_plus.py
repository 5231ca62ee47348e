"""FMCE-Net++'s Table I: accuracy by RAF with plain training and controls, beside the published rows."""

from collections.abc import Sequence
from typing import Any

from experiments.paper_tables import DATA_NAMES, MODEL_NAMES, published_accuracies
from experiments.result_rows import (
    ARMS,
    Row,
    against_baseline,
    clear,
    difference,
    missing,
    percent,
    table,
)

ORDER, COMMAND = 130, "python -m experiments.fmce_net_pp_table1 --medium"
HEADER = (
    *("arm", "here, %", "− plain, pp", "95 % interval", "p (Holm)"),
    *(f"paper, {name}" for name in MODEL_NAMES.values()),
)


def covers(row: Row) -> bool:
    """Take the sweeps of fmce_net_pp_table1.py and the numbers of fmce_net_pp_figures.py."""
    return row.get("experiment") in ("fmce_net_pp_table1", "fmce_net_pp_figures")


def sweeps_of(rows: Sequence[Row]) -> list[Row]:
    """Return the sweeps among the rows."""
    return [row for row in rows if row["experiment"] == "fmce_net_pp_table1"]


def section(rows: Sequence[Row]) -> list[str]:
    """Return both columns of each sweep."""
    parts = ["## FMCE-Net++, Table I"]
    sweeps = sweeps_of(rows)
    if not sweeps:
        return [*parts, missing("fmce_net_pp_table1", COMMAND)]
    for row in sweeps:
        parts += [about(row), table(HEADER, accuracy_lines(row))]
    return parts + [_cam_line(row) for row in rows if row["experiment"] == "fmce_net_pp_figures"]


def about(row: Row) -> str:
    """Say what was swept and which RAF was selected."""
    result = row["result"]
    settings = ", ".join(f"`{one}`" for one in row["config"]["settings"])
    name = (
        f"{DATA_NAMES.get(row['data'], row['data'])}, {MODEL_NAMES.get(row['model'], row['model'])}"
    )
    chosen = ""
    if result["selection"]:
        each = "; ".join(
            f"RAF {c['raf']:g}: {percent(c['validation_accuracy'])}"
            for c in result["selection"]["candidates"]
            if "validation_accuracy" in c
        )
        chosen = f" Selected on validation images: RAF {result['selection']['raf']:g} ({each})."
    failed = f" {result['failed']} trainings failed." if result["failed"] else ""
    return (
        f"{name}; {settings}; {len(result['seeds'])} paired seeds, {result['epochs']} epochs (the "
        f"oracle's E_K), test accuracy.{chosen}{failed}"
    )


def accuracy_lines(row: Row) -> list[tuple[str, ...]]:
    """Return a line an arm: ours with its paired difference, and the paper's two at that RAF."""
    published = [published_accuracies(row["data"], model) for model in MODEL_NAMES]
    against = {c["arm"]: c for c in row["result"]["comparisons"]}
    return [
        (
            arm_name(arm["arm"]),
            mean_cell(arm, len(row["result"]["seeds"])),
            *against_baseline(against.get(arm["arm"])),
            *(_published_cell(one, raf_of(arm["arm"])) for one in published),
        )
        for arm in row["result"]["arms"]
    ]


def mean_cell(arm: Row, seeds: int) -> str:
    """Format an arm's mean ± sd in percent, and of how many seeds it is where some are missing."""
    spread = "" if arm["sd"] is None else f" ± {100 * arm['sd']:.2f}"
    few = f" ({arm['n']} of {seeds} seeds)" if arm.get("n", seeds) < seeds else ""
    return f"{100 * arm['mean']:.2f}{spread}{few}"


def _published_cell(accuracies: dict[float, tuple[float, float]], raf: float | None) -> str:
    if raf is None or raf not in accuracies:
        return "–"
    mean, sd = accuracies[raf]
    return f"{mean:.2f} ± {sd:.2f}"


def raf_of(arm: str) -> float | None:
    """Return an arm's RAF: 1 for plain training, None for a control.

    >>> raf_of("raf0.75"), raf_of("baseline"), raf_of("phase_1")
    (0.75, 1.0, None)
    """
    if arm == "baseline":
        return 1.0
    return float(arm.removeprefix("raf").split()[0]) if arm.startswith("raf") else None


def arm_name(arm: str) -> str:
    """Return an arm's name in words."""
    return ARMS[arm] if arm in ARMS else f"FMCE-Net++, RAF {raf_of(arm):g}"


def _cam_line(row: Row) -> str:
    pairs = zip(row["result"]["arms"], row["result"]["per_arm"], strict=True)
    each = ", ".join(f"{arm} {numbers['gini']:.3f}" for arm, numbers in pairs)
    return f"Grad-CAM over RAF (first seed, mean Gini of {row['result']['images']} images): {each}."


def reading(rows: Sequence[Row]) -> list[str]:
    """Say what the sweep can tell of a gain."""
    return [_verdict(row) for row in sweeps_of(rows)]


def _verdict(row: Row) -> str:
    comparisons: list[dict[str, Any]] = row["result"]["comparisons"]
    treated = [c for c in comparisons if c["arm"].startswith("raf")]
    controls = [c for c in comparisons if not c["arm"].startswith("raf")]
    data = DATA_NAMES.get(row["data"], row["data"])
    if not treated:
        return f"**Nothing to compare by FMCE-Net++ on {data}:** no training with its loss was finished."
    gains = [c for c in treated if clear(c) and c["mean_difference"] > 0]
    losses = [c for c in treated if clear(c) and c["mean_difference"] < 0]
    best = max(treated, key=lambda c: c["mean_difference"])
    differing = [ARMS[c["arm"]] for c in controls if clear(c)]
    said = (
        f"{len(gains)} of {len(treated)} RAFs are clearly above plain training"
        if gains
        else "no RAF is clearly above plain training"
    )
    worse = f", {len(losses)} clearly below" if losses else ""
    differ = f"differing from it: {', '.join(differing)}" if differing else "none differs clearly"
    return (
        f"**{'A gain' if gains else 'No gain established'} by FMCE-Net++ on {data}.** Of {len(treated)} RAFs "
        f"over {len(row['result']['seeds'])} paired seeds {said}{worse} (Holm-adjusted p < 0.05). The best on "
        f"test images after the fact, {arm_name(best['arm'])}, differs by {difference(best)}"
        f". Controls: {differ}. With so few seeds a gain of the published size can go unseen."
    )
