"""Speed and memory beside bare PyTorch, frames per second, and the commands that measured them."""

from collections.abc import Callable, Sequence

from experiments.result_rows import Column, Row, Table, select, table, value

FRAMES = 16e6
"""Of the slides' unlabelled pool."""
TERAFLOPS = 150.0
"""Assumed of one GPU in bfloat16, not measured: about a sixth of an H100's dense peak."""
CORES = 16
"""Assumed beside each GPU."""


def network(row: Row) -> str:
    """Return a network's name without its library."""
    return str(row["model"].rpartition(":")[2])


def engine_table(rows: Sequence[Row]) -> Table:
    """Return what the engine costs beside bare PyTorch loops."""

    def work(row: Row) -> str:
        clock = ", processor time" if row["clock"] == "process" else ""
        size = f"{row['image_size']} px, batch {row['batch_size']}"
        return f"{network(row)} at {size}{clock}, {row['device']}"

    columns: dict[str, Column] = {
        "model, device": work,
        "epoch ÷ bare loop": ("epoch_over_bare", ".3f"),
        "maps ÷ bare inference": ("stream_over_bare", ".3f"),
        "checkpoint, ms": lambda row: f"{1000 * row['checkpoint_seconds']:.1f}",
    }
    return table(select(rows, benchmark="step_overhead"), columns)


def map_table(rows: Sequence[Row]) -> Table:
    """Return the throughput of feature maps, recomputed or read, over bare inference."""
    columns: dict[str, Column] = {
        "network, device": lambda row: f"{network(row)} at {row['side']} px, {row['device']}",
        "maps": lambda row: "×".join(map(str, row["map_shape"])),
        "streamed ÷ bare": ("stream_over_bare", ".2f"),
        "read ÷ bare": ("stored_over_bare", ".1f"),
        "bare maps per second": ("bare_maps_per_second", ".0f"),
    }
    return table(select(rows, benchmark="map_throughput"), columns)


def memory_table(rows: Sequence[Row]) -> Table:
    """Return peak memory by number of images."""
    rows = select(rows, benchmark="map_memory")
    lines = [
        (
            f"{network(row)}, {row['backbones']} backbones, {row['device']}",
            kind,
            *(f"{megabytes:.0f} MB" for megabytes in row[f"{kind}_{peak}"]),
        )
        for row in rows
        for kind in ("stream", "stored")
        for peak in ("peak_rss_mb", "peak_gpu_mb")
        if f"{kind}_{peak}" in row
    ]
    counts = [f"{count:,} images" for row in rows[:1] for count in row["images"]]
    return Table(("network, device", "kind", *counts), lines)


def frame_table(rows: Sequence[Row]) -> Table:
    """Return frames per second of each part of loading, one line per size and device."""

    def waiting(row: Row) -> str:
        share = row.get("waiting_share")
        return "–" if share is None else f"{100 * share:.1f} %"

    columns: dict[str, Column] = {
        "size, device": lambda row: f"{row['size'].replace('x', '×')}, {row['device']}",
        "cores": ("environment.cores", ""),
        "packed": ("packed_per_second", ".0f"),
        "decoded, one core": ("decoded_per_second_and_core", ".0f"),
        "views, one core": ("views_per_second_and_core", ".0f"),
        "loaded": lambda row: value(row, f"loaded_per_second_{row['workers']}_workers", ".0f"),
        "trained": ("trained_per_second", ".1f"),
        "waiting": waiting,
        "files ÷ memory": ("files_over_memory", ".3f"),
    }
    return table(select(rows, benchmark="frame_loading"), columns)


def estimate_table(rows: Sequence[Row]) -> Table:
    """Return the estimate for the slides' 16 million frames, from the measured speeds of one core."""
    found = select(rows, benchmark="frame_loading")
    row = max(found, key=lambda row: float(row["slides_multiply_adds"]))
    speed = TERAFLOPS * 1e12 / (2 * row["slides_multiply_adds"])  # frames per second on one GPU
    decoding, views = (row[f"{name}_per_second_and_core"] for name in ("decoded", "views"))
    columns: dict[str, Callable[[int], str]] = {
        "GPUs": str,
        "TFLOP/s, assumed": lambda gpus: f"{TERAFLOPS * gpus:,.0f}",
        "G multiply-adds per frame": lambda _: f"{row['slides_multiply_adds'] / 1e9:.0f}",
        "frames per second": lambda gpus: f"{speed * gpus:,.0f}",
        "one pass": lambda gpus: f"{FRAMES / speed / gpus / 3600:.1f} h",
        "CPU cores, assumed": lambda gpus: f"{CORES * gpus:,}",
        "packing": lambda gpus: f"{FRAMES / row['packed_per_second'] / CORES / gpus / 3600:.1f} h",
        "shards": lambda _: f"{FRAMES * row['bytes_per_frame'] / 1e12:.1f} TB",
        "cores that decode": lambda gpus: f"{speed * gpus / decoding:.0f}",
        "cores that decode and draw views": lambda gpus: (
            f"{speed * gpus * (1 / decoding + 1 / views):.0f}"
        ),
    }
    return Table(list(columns), [[show(n) for show in columns.values()] for n in (1, 8, 64)])


def command_list(rows: Sequence[Row]) -> str:
    """Return the commands that measured the benchmarks' rows."""
    commands = dict.fromkeys(row["command"] for row in rows if "command" in row)
    return "\n".join(f"- `{command}`" for command in commands)


def peer_table(rows: Sequence[Row]) -> Table:
    """Return what `make bench` found: each figure beside its peer and its goal."""
    lines = []
    for row in select(rows, benchmark="bench"):
        unit = " s" if row["goal"].endswith(" s") else ""
        for (label, figure), met in zip(row["figures"].items(), row["met"], strict=True):
            why = row["why"].get(label, row["why"].get("", "")) if met is False else ""
            what = f"{row['what']}, {label}" if label else row["what"]
            shown = f"{figure:.3g}{unit}" if unit else f"{figure:.3f}"
            lines.append((what, row["against"], shown, row["goal"], why))
    return Table(("what", "against", "figure", "goal", "why it is missed"), lines)


def scaling_table(rows: Sequence[Row]) -> Table:
    """Return how processor time and memory grow, each curve with its slope on logarithmic scales."""

    def each(name: str, form: str) -> Column:
        return lambda row: " · ".join(f"{value:{form}}" for value in row[name])

    columns: dict[str, Column] = {
        "what grows": ("what", ""),
        "through": each("values", ",d"),
        "processor time, s": each("seconds", ".3g"),
        "slope": ("slope", ".2f"),
        "memory beyond the imports, MB": each("megabytes", ",.0f"),
    }
    return table(select(rows, benchmark="scaling"), columns)
