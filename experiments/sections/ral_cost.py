"""What FMCE-Net++ costs, and whether its cheaper forms do what the published one does."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.result_rows import Row, clear, decimal, missing, signed, table

ORDER, COMMAND = 135, "python -m experiments.ral_variants"
BENCHMARK = "python -m benchmarks.ral_step --record"
AIM, PLAIN = 1.10, "plain training"


def covers(row: Row) -> bool:
    """Take the step benchmark of FMCE-Net++ and the comparison of its forms."""
    return row.get("benchmark") == "ral_step" or row.get("experiment") == "ral_variants"


def section(rows: Sequence[Row]) -> list[str]:
    """Return a table of costs and one of effects."""
    return ["## FMCE-Net++: what it costs", *costs(timed(rows)), *effects(compared(rows))]


def timed(rows: Sequence[Row]) -> list[Row]:
    """Return the benchmark's rows, one a network and device."""
    return [row for row in rows if row.get("benchmark") == "ral_step"]


def compared(rows: Sequence[Row]) -> list[Row]:
    """Return the comparisons, one a RAF."""
    return [row for row in rows if row.get("experiment") == "ral_variants"]


def costs(rows: Sequence[Row]) -> list[str]:
    """Return step time over the plain step's, a line a form and two columns a network."""
    if not rows:
        return [missing("ral_step", BENCHMARK)]
    header = ["form"]
    for row in rows:
        name = row["model"].partition(":")[2] or row["model"]
        header += [f"{name}, {place(row)}: time ÷ plain", "operations ÷ plain"]
    forms = list(dict.fromkeys(name for row in rows for name in row["forms"]))
    lines = [
        (name, *(cell for row in rows for cell in cells(row["forms"].get(name)))) for name in forms
    ]
    saving = ", ".join(decimal(row["oracle_after_over_before"], 2) for row in rows)
    note = (
        f"Whole training steps at {rows[0]['image_size']} px through the engine, both sides in turn, median of "
        "the turns’ ratios; a form that asks the oracle every n-th step over whole rounds. On a small "
        "batch the optimiser, alike on both sides, weighs more and brings ratios nearer to 1. Leaving out "
        f"what pooling drops brought the published oracle alone, to the maps and back, to {saving} of its "
        f"earlier time. Aim: a form at most {AIM:.2f}. Made by `{BENCHMARK}`."
    )
    return [table(header, lines), note]


def place(row: Row) -> str:
    """Say what a row was timed on."""
    # The environment names a machine's GPU also where the processor was timed.
    kind = row["environment"]["gpu"] if row["device"] == "cuda" else "CPU"
    precision = "" if row["precision"] == "float32" else f", {row['precision']}"
    clock = ", processor time" if row["clock"] == "process" else ""
    return f"{kind}, batch {row['batch_size']}{precision}{clock}"


def cells(form: Mapping[str, float] | None) -> tuple[str, str]:
    """Format one form's two ratios."""
    if form is None:
        return "–", "–"
    return decimal(form["step_over_plain"], 2), decimal(form["operations_over_plain"], 2)


def effects(rows: Sequence[Row]) -> list[str]:
    """Return accuracy and pull of each form beside the published one's."""
    if not rows:
        return [missing("ral_variants", COMMAND)]
    return [part for row in rows for part in effect(row["result"])]


def effect(result: Row) -> list[str]:
    """Return the paragraphs of one RAF."""
    accuracy, pull = (
        by_arm(result, "accuracy_over_published"),
        by_arm(result, "pull_over_published"),
    )
    lines = [
        (
            arm["arm"],
            f"{100 * arm['test_accuracy']:.2f} ± {100 * arm['test_accuracy_sd']:.2f}",
            interval(accuracy.get(arm["arm"])),
            f"{arm['pull']:.3f} ± {arm['pull_sd']:.3f}",
            interval(pull.get(arm["arm"]), scale=1),
        )
        for arm in result["arms"]
    ]
    header = (
        "form",
        "test accuracy, % ± sd",
        "− published, pp (95 %)",
        "pull, nats ± sd",
        "− published, nats (95 %)",
    )
    oracles = "; ".join(
        f"width {width}: {o['parameters']:,} weights, {100 * o['test_images']:.2f} % of phases on test images"
        for width, o in result["oracles"].items()
    )
    text = (
        f"Digits, RAF {result['raf']:g}, {len(result['seeds'])} paired seeds, {result['epochs']} epochs. The "
        "pull is the published oracle’s −log q_K on the maps of test images at the end of a training: what "
        f"FMCE-Net++ trains down. Oracles by {oracles}."
    )
    return [text, table(header, lines)]


def by_arm(result: Row, key: str) -> dict[str, Any]:
    """Return comparisons by their arm."""
    return {c["arm"]: c for c in result[key]}


def interval(c: Mapping[str, Any] | None, scale: float = 100) -> str:
    """Format a paired difference with its interval."""
    if c is None:
        return "–"
    difference, low, high = (c[k] for k in ("mean_difference", "interval_low", "interval_high"))
    if low is None:
        return f"{number(difference, scale)} (all equal)"
    return f"{number(difference, scale)} ({number(low, scale)} … {number(high, scale)})"


def number(value: float, scale: float) -> str:
    """Format a signed number: percentage points by default, nats as they are."""
    return signed(value) if scale == 100 else f"{value:+.3f}"


def reading(rows: Sequence[Row]) -> list[str]:
    """Say what the cheapest form costs and whether any differs from the published one."""
    return [*cost_reading(timed(rows)), *effect_reading(compared(rows))]


def cost_reading(rows: Sequence[Row]) -> list[str]:
    """Hold the cheapest form of each network against the aim."""
    said = []
    for row in rows:
        times = {name: form["step_over_plain"] for name, form in row["forms"].items()}
        cheap = [name for name, time in times.items() if time <= AIM]
        cheapest = min(times, key=lambda name: times[name])
        said.append(
            f"**FMCE-Net++’s step with {row['model'].partition(':')[2]} ({place(row)})** takes "
            f"{times['published']:.2f} times the plain one in its published form; "
            + (
                f"at most {AIM:.2f} are {'; '.join(cheap)}."
                if cheap
                else f"none is at most {AIM:.2f}, the cheapest, {cheapest}, takes {times[cheapest]:.2f}."
            )
        )
    return said


def effect_reading(rows: Sequence[Row]) -> list[str]:
    """Name the forms whose accuracy or pull differs from the published form's, and what could not be seen."""
    said = []
    for row in rows:
        result = row["result"]
        accuracy, pull = (
            [c for c in result[key] if c["arm"] != PLAIN]
            for key in ("accuracy_over_published", "pull_over_published")
        )
        widths = [
            c["interval_high"] - c["interval_low"]
            for c in accuracy
            if c["interval_low"] is not None
        ]
        reach = max(widths, default=0.0) / 2
        means = [c["mean_difference"] for c in accuracy]
        said.append(
            f"**Cheaper forms of FMCE-Net++ (digits, RAF {result['raf']:g}).** In test accuracy "
            f"{named(accuracy)} from the published form (Holm-adjusted p < 0.05); means lie {signed(min(means))} to "
            f"{signed(max(means))} pp from its own, and a difference below {100 * reach:.2f} pp could go unseen. In "
            f"the pull on the maps {named(pull)}."
        )
    return said


def named(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Say which forms differ."""
    found = [c["arm"] for c in comparisons if clear(c)]
    return f"these differ ({'; '.join(found)})" if found else "no difference is established"
