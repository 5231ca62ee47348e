"""FMCE's Table II: FMCE-Net by split on the papers' data sets, beside the published rows."""

from collections.abc import Sequence

from experiments.paper_runs import missing_cases
from experiments.paper_tables import net_accuracies, paper_table
from experiments.result_rows import Row, decimal, missing, percent, table
from experiments.sections.fmce_markers import short_name

ORDER, COMMAND = 110, "python -m experiments.fmce_table2 --medium"
NAMES = ("accuracy", "precision", "recall", "f1", "mae", "spearman")
GUESSING = 0.1  # of ten phases
HEADER = ("FMCE-Net", *NAMES)
LABELS = {
    "held_out": "held out",
    "test_images": "test images",
    "map_split_on_other_run": "split map's net on the other run",
}


def covers(row: Row) -> bool:
    """Take the FMCE-Nets of fmce_table2.py."""
    return row.get("experiment") == "fmce_table2"


def section(rows: Sequence[Row]) -> list[str]:
    """Return both columns."""
    parts = ["## FMCE, Table II: FMCE-Net on the papers' data sets"]
    if not rows:
        return [*parts, missing("fmce_table2", COMMAND)]
    note = (
        "Splits as above; *run* holds out a whole run of another seed. Published names: R is ResNet-50, S "
        "is ShuffleNet v2; the paper does not say its split."
    )
    absent = missing_cases(rows, phases_only=True)
    left = [missing(f"fmce_table2, {name}", COMMAND) for name in absent]
    return [*parts, *left, table(HEADER, score_lines(rows)), note]


def score_lines(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return a line for each published row of the data sets and for each measurement of ours."""
    lines = []
    for data in dict.fromkeys(row["data"] for row in rows):
        lines += [
            (f"paper: {name}", *(decimal(v) for v in values), "–", "–")
            for name, *values in paper_table("fmce_table_2")["rows"]
            if name.partition("-")[0] == {"cifar10": "CIFAR", "mnist": "MNIST"}.get(data)
        ]
        for row in rows:
            if row["data"] == data:
                lines += _row_lines(row)
    return lines


def _row_lines(row: Row) -> list[tuple[str, ...]]:
    """Return the measurements of one FMCE-Net: held-out maps, test images, another run."""
    result = row["result"]
    name = f"here: {short_name(row)}, split {result['split']}"
    return [
        (f"{name}: {label}", *(decimal(result[key][n]) for n in NAMES))
        for key, label in LABELS.items()
        if result.get(key)
    ]


def reading(rows: Sequence[Row]) -> list[str]:
    """Say within which bounds FMCE-Net knows a phase, in its own run and in another."""
    own = [r for r in rows if r["result"]["split"] in ("map", "image")]
    other = [r for r in rows if r["result"]["split"] == "run"]
    return [*_own_run(own), *_other_run(other)]


def _own_run(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    values = [row["result"]["held_out"]["accuracy"] for row in rows]
    low, high = min(net_accuracies()), max(net_accuracies())
    each = "; ".join(
        f"{short_name(row)}, split {row['result']['split']} "
        f"{percent(row['result']['held_out']['accuracy'])}"
        for row in rows
    )
    verdict = (
        "Reproduces"
        if min(values) >= low
        else "Reproduces in part"
        if max(values) >= low
        else "Does not reproduce"
    )
    small = (
        " Our maps are those of a small network on small images, and FMCE-Net saw each of them a few times only."
        if all(row["scale"] != "paper" for row in rows)
        else ""
    )
    return [
        f"**{verdict}: Table II on real data.** Held-out maps of the same run: {each}. Published: "
        f"{percent(low)} to {percent(high)}.{small}"
    ]


def _other_run(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    held, moved = (
        [row["result"][key] for row in rows] for key in ("held_out", "map_split_on_other_run")
    )
    off = [one["mae"] for one in held]
    best = max(one["accuracy"] for one in (*held, *moved))
    verdict = "Does not carry over" if best < 2 * GUESSING else "Partly carries over"
    return [
        f"**{verdict} to another run, on real data.** Trained on one seed's run and asked "
        f"about another's, FMCE-Net names {_span([one['accuracy'] for one in held])} of the phases "
        f"(split run) and {_span([one['accuracy'] for one in moved])} (split map's net); guessing gives "
        f"{percent(GUESSING)}. It is {min(off):.1f} to {max(off):.1f} phases off."
    ]


def _span(values: Sequence[float]) -> str:
    return f"{percent(min(values))} to {percent(max(values))}"
