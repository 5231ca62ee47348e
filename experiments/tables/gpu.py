"""What ran on a GPU: speeds beside a bare PyTorch loop and the floor, trainings, and the tests' outcomes."""

from collections import Counter
from collections.abc import Sequence

from experiments.result_rows import Column, Row, Table, select, table, value


def ceiling_table(rows: Sequence[Row]) -> Table:
    """Return the rates measured on each device before all else."""
    columns: dict[str, Column] = {
        "device": ("device", ""),
        "bfloat16 product, TFLOP/s": lambda row: f"{row['bfloat16'] / 1e12:.0f}",
        "float32 product, TFLOP/s": lambda row: f"{row['float32'] / 1e12:.0f}",
        "copy, TB/s": lambda row: f"{row['bandwidth'] / 1e12:.2f}",
    }
    return table(select(rows, benchmark="gpu_speed", line="ceilings"), columns)


def speed_table(rows: Sequence[Row]) -> Table:
    """Return images per second, beside a bare loop on the same GPU and the floor on paper."""
    lines = [r for r in select(rows, benchmark="gpu_speed") if r["line"] != "ceilings"]
    columns: dict[str, Column] = {
        "line": ("line", ""),
        "images/s": ("images_per_second", ",.0f"),
        "time over bare": ("ratio", ".3f"),
        "share of floor": ("share_of_floor", ".3f"),
        "step, ms": ("step_ms", ".1f"),
        "of that GPU at work, ms": ("device_ms", ".1f"),
        "peak MB": ("peak_mb", ",.0f"),
        "measured": lambda row: f"{row['date']}, {row['device']}",
    }
    return table(lines, columns)


def training_table(rows: Sequence[Row]) -> Table:
    """Return trainings at the papers' scale that have not ended yet."""
    columns: dict[str, Column] = {
        "row": ("line", ""),
        "epochs": lambda row: f"{row['epochs']} of {row['of']}",
        "seconds per epoch": ("seconds_per_epoch", ".1f"),
        "training loss": lambda row: value({"loss": row["losses"][-1]}, "loss", ".4f"),
        "validation accuracy": lambda row: value({"a": row["validation_accuracy"][-1]}, "a", "%"),
        "measured": lambda row: f"{row['date']}, {row['device']}, {row['runtime']}",
    }
    return table(select(rows, benchmark="gpu_training"), columns)


def test_table(rows: Sequence[Row]) -> Table:
    """Return how many GPU tests ended in which way on each device."""
    tests = select(rows, benchmark="gpu_test")
    counts = Counter((row["device"], row["status"]) for row in tests)
    return Table(
        ("device", "outcome", "tests"),
        [(device, status, str(n)) for (device, status), n in sorted(counts.items())],
    )
