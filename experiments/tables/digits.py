"""Both methods on scikit-learn's digits, and the README's summary of them."""

from collections.abc import Sequence

from experiments.paper_tables import gains, paper_table
from experiments.result_rows import (
    Column,
    Row,
    Table,
    epochs,
    interval,
    measured,
    percent,
    select,
    signed,
    table,
    value,
)
from experiments.tables.fmce import NET_COLUMNS

METRICS = NET_COLUMNS | {"kappa": ".4f"}
CURVES = {
    "markers": "seed {seed}",
    "unsmoothed_markers": "same curve, unsmoothed",
    "debiased_markers": "same curve, debiased average",
    "step_curve_markers": "step curve, same smoothing",
}


def trainings(rows: Sequence[Row]) -> list[Row]:
    """Return the results of the plain trainings, one per seed."""
    return [row["result"] for row in select(rows, experiment="digits", what="original task")]


def fmce_net(rows: Sequence[Row], split: str, maps: str) -> Row:
    """Return an FMCE-Net's metrics on maps "held_out", "test_images", or "other_run" of another seed."""
    suffix = ", on another seed's run" if maps == "other_run" else ""
    (row,) = select(rows, experiment="digits", what=f"FMCE-Net, split {split}{suffix}")
    metrics: Row = row["result"] if suffix else row["result"][maps]
    return metrics


def comparison(rows: Sequence[Row]) -> Row:
    """Return the result of FMCE-Net++ against plain training and the controls."""
    (row,) = select(rows, experiment="digits", what="FMCE-Net++ and controls")
    result: Row = row["result"]
    return result


def training_table(rows: Sequence[Row]) -> Table:
    """Return accuracy and what the markers owe to smoother and schedule, one line per seed."""
    columns: dict[str, Column] = {
        "network": ("config.model.name", ""),
        "px": ("config.data.image_size", ""),
        "epochs": ("config.train.epochs", ""),
        "batch": ("config.train.batch_size", ""),
        "µ": ("config.phases.threshold", "g"),
        "seed": ("seed", ""),
        "test accuracy": ("result.test_accuracy", "%"),
        "to step curve, epochs": ("result.smoothing_distance", ".1f"),
        "lr at E_K": ("result.lr_fraction", ".2f"),
        "measured": measured,
    }
    return table(select(rows, experiment="digits", what="original task"), columns)


def marker_table(rows: Sequence[Row]) -> Table:
    """Return the markers of each curve and of its variants."""
    lines = [
        (label.format(**one), epochs(one[name]))
        for one in trainings(rows)
        for name, label in CURVES.items()
    ]
    return Table(("curve", "markers (epochs)"), lines)


def fmce_net_table(rows: Sequence[Row]) -> Table:
    """Return FMCE-Net's metrics by split and maps."""
    labels = {
        "held_out": "held out",
        "test_images": "test images",
        "other_run": "test images, other seed's run",
    }
    lines = [
        (
            f"split {split}: {label}",
            *(value(fmce_net(rows, split, maps), name, form) for name, form in METRICS.items()),
        )
        for split in ("map", "image")
        for maps, label in labels.items()
    ]
    published = [
        (f"published: {name}", *(f"{number:.4f}" for number in numbers), "–", "–", "–")
        for name, *numbers in paper_table("fmce_table_2")["rows"]
    ]
    return Table(("maps", *METRICS), [*lines, *published])


def resolution_table(rows: Sequence[Row]) -> Table:
    """Return what a comparison of this size can see, beside the published gains."""
    gain = comparison(rows)["comparisons"][0]
    confusion = fmce_net(rows, "image", "test_images")["confusion"]
    images = sum(map(sum, confusion)) // len(confusion)
    best = [max(row) for row in gains()]
    lines = [
        ("published: best RAF of each row, chosen after the fact", f"{min(best)} to {max(best)}"),
        (f"one of the {images} test images", f"{100 / images:.2f}"),
        ("left to gain above plain training", f"{100 * (1 - gain['mean_baseline']):.2f}"),
        (
            "the interval, to either side",
            f"{50 * (gain['interval_high'] - gain['interval_low']):.2f}",
        ),
    ]
    return Table(("what can be seen", "pp"), lines)


def readme_table(rows: Sequence[Row]) -> Table:
    """Return what to expect of `make demo`, in one column."""
    plain, gain = trainings(rows)[0], comparison(rows)["comparisons"][0]
    (speed,) = select(rows, benchmark="step_overhead", model="tiny", device="cpu")
    lines = [
        ("test accuracy of the plain training", percent(plain["test_accuracy"])),
        ("ten phase markers (epochs)", epochs(plain["markers"])),
        *(
            (label, percent(fmce_net(rows, split, maps)["accuracy"]))
            for label, split, maps in (
                ("FMCE-Net, held-out maps of its own run", "map", "held_out"),
                ("FMCE-Net, unseen images of its own run", "image", "held_out"),
                ("the same FMCE-Net on another seed's run", "image", "other_run"),
            )
        ),
        (
            "FMCE-Net++ minus plain training",
            f"{signed(gain['mean_difference'])} pp (95 % interval {interval(gain)}, {gain['n']} seeds)",
        ),
        ("epoch through `fmce` over a bare PyTorch loop", f"{speed['epoch_over_bare']:.3f}"),
    ]
    return Table(("digits", "measured"), lines)
