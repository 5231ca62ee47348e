"""What it costs to feed FMCE-Net: maps recomputed or read, over bare inference, and memory over N."""

from collections.abc import Sequence

from experiments.result_rows import Row, decimal, missing, table

ORDER, COMMAND = 905, "python -m benchmarks.map_throughput --record"
MEMORY = "python -m benchmarks.map_throughput --memory 10000 50000 --record"
AIM = 0.90


def covers(row: Row) -> bool:
    """Take the benchmark's rows of speed and of memory."""
    return row.get("benchmark") in ("map_throughput", "map_memory")


def section(rows: Sequence[Row]) -> list[str]:
    """Return a table of throughput and one of peak memory."""
    speed = [row for row in rows if row["benchmark"] == "map_throughput"]
    memory = [row for row in rows if row["benchmark"] == "map_memory"]
    parts = ["## Feature maps: throughput and memory"]
    parts += _throughput(speed) if speed else [missing("map_throughput", COMMAND)]
    return [*parts, *(_memory(memory) if memory else [missing("map_memory", MEMORY)])]


def _throughput(rows: Sequence[Row]) -> list[str]:
    header = ("network, device", "maps", "streamed ÷ bare", "read ÷ bare", "bare maps per second")
    lines = [
        (
            f"{_name(row)} at {row['side']} px, {row['device']}",
            "×".join(map(str, row["map_shape"])),
            decimal(row["stream_over_bare"], 2),
            decimal(row["stored_over_bare"], 1),
            decimal(row["bare_maps_per_second"], 0),
        )
        for row in rows
    ]
    note = (
        "Throughput over that of bare inference by the same backbones, in turns and in blocks of the same "
        "size. Both run the whole network; a stream also mixes the maps of all phases in a bounded buffer; "
        f"stored maps are half-precision zarr shards in the page cache. Aim for streaming: at least {AIM:.2f}."
    )
    return [table(header, lines), note]


def _memory(rows: Sequence[Row]) -> list[str]:
    header = ("network, device", "kind", *(f"{count:,} images" for count in rows[0]["images"]))
    lines = [
        (
            f"{_name(row)}, {_backbones(row)}, {row['device']}",
            kind,
            *(f"{v:.0f} MB" for v in row[f"{kind}_{where}"]),
        )
        for row in rows
        for kind in ("stream", "stored")
        for where in ("peak_rss_mb", "peak_gpu_mb")
        if f"{kind}_{where}" in row
    ]
    note = (
        "Peak memory of an epoch in a process of its own, less the images themselves; on a GPU the second "
        f"line of a kind is its own memory. Made by `{MEMORY}`."
    )
    return [table(header, lines), note]


def _backbones(row: Row) -> str:
    return f"{row['backbones']} backbones" if row["backbones"] > 1 else "1 backbone"


def _name(row: Row) -> str:
    return str(row["model"].partition(":")[2] or row["model"])


def reading(rows: Sequence[Row]) -> list[str]:
    """Say where streaming stays behind its aim, or memory grows with N."""
    said = []
    for row in rows:
        if row["benchmark"] == "map_throughput" and row["stream_over_bare"] < AIM:
            ratio = decimal(row["stream_over_bare"], 2)
            said.append(
                f"**Slower than aimed at: streaming maps of {_name(row)} ({row['device']})** runs at "
                f"{ratio} of bare inference; the aim is {AIM:.2f}."
            )
        elif row["benchmark"] == "map_memory" and "stream_peak_rss_mb" in row:
            # On a GPU that is where maps are; the host's memory would hide what they take.
            few, many = row.get("stream_peak_gpu_mb", row["stream_peak_rss_mb"])
            flat = "is flat" if many < 1.1 * few else "**grows**"
            said.append(
                f"**Memory of streaming {flat}** ({_backbones(row)}): {few:.0f} MB for {row['images'][0]:,} images, "
                f"{many:.0f} MB for {row['images'][1]:,}."
            )
    return said
