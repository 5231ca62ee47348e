"""Says in words what the rows under results/ support and what they cannot; used by results_page.py."""

from collections.abc import Sequence

from result_rows import (
    ARMS,
    PUBLISHED_GAINS,
    PUBLISHED_NET,
    Row,
    net_of,
    percent,
    ral_of,
    result_of,
    signed,
)


def reading(rows: Sequence[Row]) -> list[str]:
    """Say in words what the rows support."""
    said = [*net_reading(rows), *marker_reading(rows), *plus_reading(rows)]
    return [
        "## What this says",
        "\n".join(f"- {one}" for one in said or ["Nothing yet: the rows are missing."]),
    ]


def net_reading(rows: Sequence[Row]) -> list[str]:
    """Compare FMCE-Net within its run with the paper, and across runs with chance."""
    own, other = net_of(rows, "image", "held_out"), net_of(rows, "image", "other")
    said = []
    low, high = percent(min(PUBLISHED_NET)), percent(max(PUBLISHED_NET))
    if own:
        held = own["accuracy"] >= min(PUBLISHED_NET)
        said.append(
            f"**{'Reproduces' if held else 'Does not reproduce'}: FMCE-Net tells the phases of its "
            f"own run apart.** It names {percent(own['accuracy'])} of the maps of images it never "
            f"saw. The paper has {low} to {high}, on other data sets and with a split whose two "
            "sides share images."
        )
    if other:
        chance = 1 / len(other["confusion"])
        near = other["accuracy"] < 2 * chance
        said.append(
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
        )
    return said


def marker_reading(rows: Sequence[Row]) -> list[str]:
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
        f"{one['lr_fraction']:.2f} of its peak, so CQI measures the schedule too."
    ]


def plus_reading(rows: Sequence[Row]) -> list[str]:
    """Say whether FMCE-Net++ helps here, and what a comparison of this size could not see."""
    result = result_of(rows, "FMCE-Net++ and controls")
    ral = ral_of(result)
    if result is None or ral is None:
        return []
    clear = ral["interval_low"] > 0 or ral["interval_high"] < 0
    half = 50 * (ral["interval_high"] - ral["interval_low"])
    said = [
        f"**{'A difference' if clear else 'No gain established'} by FMCE-Net++.** "
        f"{ral['verdict']} {controls_reading(result)}"
    ]
    own = net_of(rows, "image", "test_images")
    if own:
        images = sum(map(sum, own["confusion"])) // len(own["confusion"])
        said.append(
            "**Cannot be judged at this scale: the published gains.** The best RAF of each of the "
            f"paper's rows gains {min(PUBLISHED_GAINS):.2f} to {max(PUBLISHED_GAINS):.2f} pp, chosen "
            f"after the fact. Here one of the {images} test images is {100 / images:.2f} pp, plain "
            f"training leaves {100 * (1 - ral['mean_baseline']):.2f} pp to gain, and the interval "
            f"reaches {half:.2f} pp to either side. The papers' own data sets and networks at "
            "224 px were not run."
        )
    return said


def controls_reading(result: Row) -> str:
    """Say which controls differ from plain training once p is adjusted for their number."""
    controls = [c for c in result["comparisons"] if c["arm"] != "ral"]
    if not controls:
        return "No controls were run."
    clear = [c for c in controls if c["p_holm"] < 0.05]
    if not clear:
        return f"None of the {len(controls)} controls differs from plain training either (Holm-adjusted p ≥ 0.05)."
    each = ", ".join(f"{ARMS[c['arm']]} {signed(c['mean_difference'])} pp" for c in clear)
    return f"Controls that differ from plain training (Holm-adjusted p < 0.05): {each}."
