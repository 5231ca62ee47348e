"""What the engine costs beside bare PyTorch loops."""

from collections.abc import Sequence

from experiments.result_rows import Row, decimal, missing, table

ORDER, COMMAND = 900, "python -m benchmarks.step_overhead --record"


def covers(row: Row) -> bool:
    """Take the rows of the step benchmark."""
    return row.get("benchmark") == "step_overhead"


def section(rows: Sequence[Row]) -> list[str]:
    """Return the ratios, one line a model and device."""
    parts = ["## Speed"]
    if not rows:
        return [*parts, missing("step_overhead", COMMAND)]
    header = ("model, device", "epoch ÷ bare loop", "maps ÷ bare inference", "checkpoint, ms")
    lines = [
        (
            f"{row['model'].removeprefix('torchvision:')}{work(row)}, {row['device']}",
            decimal(row["epoch_over_bare"], 3),
            decimal(row["stream_over_bare"], 3),
            f"{1000 * row['checkpoint_seconds']:.1f}",
        )
        for row in rows
    ]
    note = (
        "Both sides of a ratio take turns in one run; the ratio is the median over the turns. "
        "Aims: epoch at most 1.05 for the demo’s network and 1.03 for larger ones, throughput of "
        "recomputed maps at least 0.90."
    )
    return [*parts, table(header, lines), note]


def work(row: Row) -> str:
    """Say at what size a network was timed and by which clock, where it is not as for the demo's."""
    if "image_size" not in row:
        return ""
    clock = ", processor time" if row["clock"] == "process" else ""
    return f" at {row['image_size']} px, batch {row['batch_size']}{clock}"


def reading(rows: Sequence[Row]) -> list[str]:  # noqa: ARG001  (every section takes its rows)
    """Say nothing: the table does."""
    return []
