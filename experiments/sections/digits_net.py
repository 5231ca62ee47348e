"""Digits: FMCE-Net within the run it was trained on, and on another seed's."""

from collections.abc import Sequence

from experiments.paper_tables import net_accuracies
from experiments.result_rows import Row, decimal, missing, net_of, percent, table

ORDER, COMMAND = 20, "python -m experiments.digits"


def covers(row: Row) -> bool:
    """Take the digits' FMCE-Nets."""
    return row.get("experiment") == "digits" and row["what"].startswith("FMCE-Net, ")


def section(rows: Sequence[Row]) -> list[str]:
    """Return the metrics of each split, held out, on test images and on the other run."""
    names = ("accuracy", "precision", "recall", "f1", "mae", "spearman", "kappa")
    lines = []
    for split in ("map", "image"):
        for key, label in (
            ("held_out", "held out"),
            ("test_images", "test images"),
            ("other", "test images, other seed's run"),
        ):
            metrics = net_of(rows, split, key)
            if metrics:
                lines.append((f"split {split}: {label}", *(decimal(metrics[n]) for n in names)))
    parts = ["## Digits: FMCE-Net"]
    if not lines:
        return [*parts, missing("FMCE-Net, split map", COMMAND)]
    note = (
        "Split *map* is the paper's random 3:1 over maps; *image* holds whole images out; test "
        "images were used in no training. Accuracy to F1 as in the paper; MAE in phases, Spearman "
        "and quadratic kappa because phases are ordered."
    )
    published = (
        "Published (FMCE, Table II, split over maps, other data sets), accuracy: "
        + ", ".join(f"{value:.4f}" for value in net_accuracies())
        + "."
    )
    return [*parts, table(("maps", *names), lines), note, published]


def reading(rows: Sequence[Row]) -> list[str]:
    """Compare FMCE-Net within its run with the paper, and across runs with chance."""
    own, other = net_of(rows, "image", "held_out"), net_of(rows, "image", "other")
    return [*_within(own), *_across(other)]


def _within(own: Row | None) -> list[str]:
    if not own:
        return []
    published = net_accuracies()
    held = own["accuracy"] >= min(published)
    return [
        f"**{'Reproduces' if held else 'Does not reproduce'}: FMCE-Net tells the phases of its "
        f"own run apart.** It names {percent(own['accuracy'])} of the maps of images it never "
        f"saw. The paper has {percent(min(published))} to {percent(max(published))}, on other data "
        "sets and with a split whose two sides share images."
    ]


def _across(other: Row | None) -> list[str]:
    if not other:
        return []
    chance = 1 / len(other["confusion"])
    near = other["accuracy"] < 2 * chance
    return [
        f"**{'Does not carry over' if near else 'Partly carries over'} to another run.** On the "
        f"maps of a run that differs in nothing but its seed, the same FMCE-Net names "
        f"{percent(other['accuracy'])} of the phases (guessing: {percent(chance)}) and is "
        f"{other['mae']:.2g} phases off on average. "
        + (
            "It recognises checkpoints; it does not measure maturity. "
            if near
            else "Part of what it has learned is common to runs. "
        )
        + "The paper does not try another run."
    ]
