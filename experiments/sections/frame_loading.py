"""How fast frames are packed and loaded, and how long a trainer waits for them."""

from collections.abc import Sequence

from experiments.result_rows import Row, decimal, missing, table

ORDER, COMMAND = 910, "python -m benchmarks.frame_loading VIDEO… --record"


def covers(row: Row) -> bool:
    """Take the rows of the loading benchmark."""
    return row.get("benchmark") == "frame_loading"


def section(rows: Sequence[Row]) -> list[str]:
    """Return frames per second of each part, one line a size and device."""
    parts = ["## Loading frames"]
    if not rows:
        return [*parts, missing("frame_loading", COMMAND)]
    header = (
        *("size, device", "cores", "packed", "decoded, one core", "varied, one core"),
        *("loaded", "trained", "waiting", "files ÷ memory"),
    )
    parts += [table(header, [_line(row) for row in rows]), _NOTE]
    largest = max(rows, key=lambda row: row["slides_multiply_adds"])
    return [*parts, *_estimate(largest)]


FRAMES, EVERY = 16e6, 5
TERAFLOPS = 150.0
"""Assumed of one GPU in bfloat16, not measured: about a sixth of an H100's dense peak."""
CORES = 16
"""Assumed beside each GPU."""


def _estimate(row: Row) -> list[str]:
    """Return the estimate for the slides' 16 million frames, from measured speeds of one core."""
    header = ("GPUs", "cores", "packing", "one pass", "frames per second", "cores that decode")
    per_gpu = TERAFLOPS * 1e12 / (2 * row["slides_multiply_adds"])
    per_core = 1 / sum(
        1 / row[name] for name in ("decoded_per_second_and_core", "views_per_second_and_core")
    )
    lines = []
    for gpus in (1, 8, 64):
        cores, speed = CORES * gpus, per_gpu * gpus
        lines.append(
            (
                str(gpus),
                str(cores),
                f"{FRAMES / (row['packed_per_second'] * cores) / 3600:.1f} h",
                f"{FRAMES / speed / 3600:.1f} h",
                f"{speed:,.0f}",
                f"{speed / row['decoded_per_second_and_core']:.0f} ({speed / per_core:.0f})",
            )
        )
    note = (
        f"**An estimate for 16 million frames**, every {EVERY}th of their videos, at {row['size'].replace('x', '×')}: "
        f"{FRAMES * row['bytes_per_frame'] / 1e12:.1f} TB of shards. Packing and loading follow from what one core "
        "does in the table above and assume that cores scale and storage keeps up. A pass of ResNet-101 teaching "
        f"ResNet-18 takes {row['slides_multiply_adds'] / 1e9:.0f} G multiply-adds an image (counted; backward as twice "
        f"forward) and assumes {TERAFLOPS:.0f} TFLOP/s a GPU, which we could not measure. In brackets: cores if "
        "they draw the views too, which otherwise the GPU does."
    )
    return [note, table(header, lines)]


_NOTE = (
    "Images per second; loaded: by the loader alone, with as many worker processes as cores; trained: by "
    "function matching that reads from shards, with the share of its time that it waits for images, and its "
    "time over that of the same steps on images in memory. All files were in the page cache. A dash: not "
    "measured at that size."
)


def _line(row: Row) -> tuple[str, ...]:
    trained = "trained_per_second" in row
    return (
        f"{row['size'].replace('x', '×')}, {row['device']}",
        str(row["environment"]["cores"]),
        *(
            decimal(row[name], 0)
            for name in (
                "packed_per_second",
                "decoded_per_second_and_core",
                "views_per_second_and_core",
                f"loaded_per_second_{row['workers']}_workers",
            )
        ),
        decimal(row["trained_per_second"], 1) if trained else "–",
        f"{100 * row['waiting_share']:.1f} %" if trained else "–",
        decimal(row["files_over_memory"], 3) if trained else "–",
    )


def reading(rows: Sequence[Row]) -> list[str]:  # noqa: ARG001  (every section takes its rows)
    """Say nothing: the table does."""
    return []
