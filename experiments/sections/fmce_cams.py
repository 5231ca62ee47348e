"""FMCE's Grad-CAM over the phases, as numbers; the pictures are fmce_figures.py's."""

from collections.abc import Sequence

from experiments.result_rows import Row, decimal, missing, table
from experiments.sections.fmce_markers import short_name

ORDER, COMMAND = 120, "python -m experiments.fmce_figures --medium"
NAMES = ("gini", "area_above_half_max", "centroid_drift", "overlap")
TITLES = ("Gini", "area above half max", "centroid drift", "overlap with the phase before")


def covers(row: Row) -> bool:
    """Take the numbers of fmce_figures.py."""
    return row.get("experiment") == "fmce_figures"


def section(rows: Sequence[Row]) -> list[str]:
    """Return first, middle and last phase of each case."""
    parts = ["## FMCE: Grad-CAM over the phases"]
    if not rows:
        return [*parts, missing("fmce_figures", COMMAND)]
    note = (
        "Means over test images, the first of each class in turn; maps at their own resolution. Gini: 0 is a "
        "uniform map; drift and overlap are against the phase before."
    )
    lines = [line for row in rows for line in _lines(row)]
    return [*parts, table(("data, network, phase", "epoch", *TITLES), lines), note]


def _lines(row: Row) -> list[tuple[str, ...]]:
    result = row["result"]
    last = len(result["epochs"])
    return [
        (
            f"{short_name(row)}, phase {k}",
            str(result["epochs"][k - 1]),
            *(decimal(result["per_phase"][k - 1][n], 3) for n in NAMES),
        )
        for k in dict.fromkeys((1, 2, (last + 1) // 2, last))
    ]


def reading(rows: Sequence[Row]) -> list[str]:
    """Say whether the focus narrows and settles from the first phase to the last."""
    if not rows:
        return []
    said = []
    for row in rows:
        first, second, *_, last = row["result"]["per_phase"]
        said.append(
            f"{short_name(row)}: Gini {first['gini']:.2f} → {last['gini']:.2f}, overlap with the phase before "
            f"{second['overlap']:.2f} → {last['overlap']:.2f}"
        )
    narrower = sum(
        r["result"]["per_phase"][-1]["gini"] > r["result"]["per_phase"][0]["gini"] for r in rows
    )
    settled = sum(
        r["result"]["per_phase"][-1]["overlap"] > r["result"]["per_phase"][1]["overlap"]
        for r in rows
    )
    return [
        "**Grad-CAM over phases, in numbers.** The paper sees attention settle on the object. From the first "
        f"phase to the last the mean Gini rises in {narrower} of {len(rows)} runs, and the overlap with the phase "
        f"before in {settled} of {len(rows)} ({'; '.join(said)})."
    ]
