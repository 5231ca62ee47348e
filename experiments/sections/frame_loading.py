"""How fast frames are packed and loaded, and how long a trainer waits for them."""

from collections.abc import Sequence

from result_rows import Row, decimal, missing, table

ORDER, COMMAND = 910, "python benchmarks/frame_loading.py VIDEO… --record"


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
    return [*parts, table(header, [_line(row) for row in rows]), _NOTE]


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
