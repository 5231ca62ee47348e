"""Digits: FMCE-Net++ against plain training and the controls, over paired seeds."""

from collections.abc import Sequence

from experiments.paper_tables import best_gains
from experiments.result_rows import (
    ARMS,
    Row,
    against_baseline,
    clear,
    missing,
    net_of,
    off_zero,
    percent,
    ral_of,
    result_of,
    signed,
    table,
)

ORDER, COMMAND = 30, "python -m experiments.digits"
WHAT = "FMCE-Net++ and controls"


def covers(row: Row) -> bool:
    """Take the digits' comparison, and FMCE-Net's rows, which know how many test images there are."""
    return row.get("experiment") == "digits" and row["what"] != "original task"


def section(rows: Sequence[Row]) -> list[str]:
    """Return arms, paired differences and the pair at the oracle's own seed."""
    result = result_of(rows, WHAT)
    parts = ["## Digits: FMCE-Net++"]
    if result is None:
        return [*parts, missing(WHAT, COMMAND)]
    return [*parts, chosen(result), arms_table(result), *same_seed(result)]


def chosen(result: Row) -> str:
    """Say how many pairs there are and how RAF was chosen."""
    text = f"{len(result['seeds'])} paired seeds, {result['epochs']} epochs, RAF {result['selection']['raf']:g}"
    candidates = "; ".join(
        f"RAF {c['raf']:g}: {percent(c['validation_accuracy'])}, loss {c['validation_loss']:.4f}"
        for c in result["selection"]["candidates"]
    )
    return (
        f"{text}, chosen on validation images with a seed of its own ({candidates})."
        if candidates
        else f"{text}."
    )


def arms_table(result: Row) -> str:
    """Return the arms' accuracies and their differences from the baseline."""
    against = {c["arm"]: c for c in result["comparisons"]}
    lines = [
        (
            ARMS[arm["arm"]],
            f"{100 * arm['mean']:.2f} ± {100 * arm['sd']:.2f}",
            *against_baseline(against.get(arm["arm"])),
        )
        for arm in result["arms"]
    ]
    header = ("arm", "test accuracy, % ± sd", "− baseline, pp", "95 % interval", "p (Holm)")
    return table(header, lines)


def same_seed(result: Row) -> list[str]:
    """Return the pair at the oracle's own seed, which is no part of the statistics."""
    pair = {row["arm"]: row["test_accuracy"] for row in result["same_seed"]}
    if not {"baseline", "ral"} <= pair.keys():
        return []
    return [
        "At the oracle's own seed, one pair and so without statistics: plain "
        f"{percent(pair['baseline'])}, FMCE-Net++ {percent(pair['ral'])}."
    ]


def reading(rows: Sequence[Row]) -> list[str]:
    """Say whether FMCE-Net++ helps here, and what a comparison of this size could not see."""
    result = result_of(rows, WHAT)
    ral = ral_of(result)
    if result is None or ral is None:
        return []
    said = [
        f"**{'A difference' if off_zero(ral) else 'No gain established'} by FMCE-Net++.** "
        f"{ral['verdict']} {controls_reading(result)}"
    ]
    own = net_of(rows, "image", "test_images")
    if own and ral["interval_low"] is not None:
        images = sum(map(sum, own["confusion"])) // len(own["confusion"])
        said.append(scale_reading(ral, images))
    return said


def scale_reading(ral: Row, images: int) -> str:
    """Say what a comparison on so few test images could not see."""
    half = 50 * (ral["interval_high"] - ral["interval_low"])
    return (
        "**Cannot be judged at this scale: the published gains.** The best RAF of each of the "
        f"paper's rows gains {min(best_gains()):.2f} to {max(best_gains()):.2f} pp, chosen "
        f"after the fact. Here one of the {images} test images is {100 / images:.2f} pp, plain "
        f"training leaves {100 * (1 - ral['mean_baseline']):.2f} pp to gain, and the interval "
        f"reaches {half:.2f} pp to either side."
    )


def controls_reading(result: Row) -> str:
    """Say which controls differ from plain training once p is adjusted for their number."""
    controls = [c for c in result["comparisons"] if c["arm"] != "ral"]
    if not controls:
        return "No controls were run."
    differing = [c for c in controls if clear(c)]
    if not differing:
        return f"None of the {len(controls)} controls differs from plain training either (Holm-adjusted p ≥ 0.05)."
    each = ", ".join(f"{ARMS[c['arm']]} {signed(c['mean_difference'])} pp" for c in differing)
    return f"Controls that differ from plain training (Holm-adjusted p < 0.05): {each}."
