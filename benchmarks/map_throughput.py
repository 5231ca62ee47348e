"""Feature maps at scale: throughput over bare inference of the same backbones, and peak memory over N.

    python -m benchmarks.map_throughput [--model tiny] [--device auto] [--repeats 5] [--clock wall] [--record]

Prints, and appends to results/benchmarks.jsonl with --record:
- maps recomputed on the fly, shuffled and mixed, over bare inference (aim: at least 0.90);
- maps read from a store, shuffled and mixed, over the same bare inference;
- peak memory of an epoch of each over 10,000 and over 50,000 images (aim: flat), with --memory.

Speed: both sides use the same weights, images, block size and threads and take turns; the ratio is the
median over the turns. Bare inference is the complete network's forward pass, in eval mode without gradients.
Memory: each epoch runs in a separate process; its peak of resident memory, less
the images themselves (8×8 bytes each). On a GPU also the peak of PyTorch's allocator.

`tiny` sees 2,000 images at 28 px, other models 500 at 64 px; a few minutes on 2 CPU cores each.
The images are the digits, resized; speed does not depend on what they show.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.step_overhead import build
from benchmarks.turns import (
    benchmark_parser,
    median_ratio,
    record,
    show,
    start_row,
    take_turns,
)
from fmce.data.classification.classification import digits
from fmce.data.transforms import ImageTransform
from fmce.engine.runtime import Runtime, make_runtime
from fmce.feature_maps.extractor import MapExtractor
from fmce.feature_maps.recomputed import RecomputedMaps
from fmce.feature_maps.source import MapSource
from fmce.feature_maps.stored import StoredMaps
from fmce.feature_maps.zarr_shards import (
    SHARD,
    StoredPart,
    chunk_ranges,
    marker_folder,
    write_marker,
)
from fmce.models.build import default_layer

BATCH = 256  # maps
IMAGES = {"tiny": 2000}
KINDS = ("stream", "stored")
SIDES = {"tiny": 28}  # of others 64: ShuffleNet v2's maps are 2×2 there, at 28 px 1×1


def main() -> None:
    """Measure, print and record."""
    parser = benchmark_parser(__doc__, repeats=5)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--images", type=int)
    parser.add_argument("--side", type=int, help="pixels that images are resized to")
    parser.add_argument("--backbones", type=int, default=3)
    parser.add_argument("--buffer", type=int, default=4096)
    parser.add_argument(
        "--block", type=int, default=256, help="images through a backbone at a time"
    )
    parser.add_argument("--memory", type=int, nargs=2, metavar="N", help="image counts to compare")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS),
        help="whose memory; 50,000 stored maps of ten ResNet-50 would take 100 GB of disk")  # fmt: skip
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)  # of a separate process
    options = parser.parse_args()
    room = min(options.buffer // 2, options.buffer - BATCH) // options.backbones
    if room < options.block:
        # The stream would take smaller blocks than bare inference, which a CPU can be faster with.
        parser.error(
            f"--buffer {options.buffer} has room for blocks of {room} images, and both sides must take "
            f"the same, --block {options.block}: give a larger --buffer or a smaller --block"
        )
    options.side = options.side or SIDES.get(options.model, 64)
    runtime = make_runtime(options.device)
    if options.peak:
        print(json.dumps(peak(options, runtime)))
        return
    names = ("model", "side", "backbones", "buffer", "block")
    if options.memory:
        row = start_row("map_memory", options, runtime, *names) | memory(options)
    else:
        row = start_row("map_throughput", options, runtime, *names, "repeats", "clock")
        row |= throughput(options, runtime)
    show(row)
    record(row, options, key=("model", "side", "backbones"))


def throughput(options: argparse.Namespace, runtime: Runtime) -> dict[str, object]:
    """Time an epoch of maps streamed, read and by bare inference, in turns."""
    count = options.images or IMAGES.get(options.model, 500)
    stream, bare = make_stream(options, runtime, count)
    with tempfile.TemporaryDirectory() as folder:
        source = stored(stream, Path(folder), runtime, options.buffer)

        def through(maps: MapSource) -> None:
            generator = torch.Generator().manual_seed(0)
            for _ in maps.batches(np.arange(options.backbones * count), BATCH, generator):
                pass

        streamed, first = take_turns(
            (lambda: through(stream), bare), runtime, options.repeats, options.clock
        )
        read, second = take_turns(
            (lambda: through(source), bare), runtime, options.repeats, options.clock
        )
    return {
        "images": count,
        "map_shape": list(source.map_shape),
        "threads": torch.get_num_threads(),
        "stream_over_bare": median_ratio(first, streamed),
        "stored_over_bare": median_ratio(second, read),
        "bare_maps_per_second": options.backbones * count / statistics.median([*first, *second]),
    }


def make_stream(
    options: argparse.Namespace, runtime: Runtime, count: int
) -> tuple[RecomputedMaps, Callable[[], None]]:
    """Return a stream of several backbones over that many images, and their bare inference."""
    data, name = digits(), options.model
    copies = -(-count // len(data.train))
    images = data.train.images.repeat(copies, 1, 1, 1)[:count].to(runtime.device)
    transform = ImageTransform(options.side, data.mean, data.std)
    models = [
        build(name, runtime).eval().requires_grad_(False) for _ in range(2 * options.backbones)
    ]
    extractors = [
        MapExtractor(m, default_layer(m, name), runtime) for m in models[: options.backbones]
    ]
    stream = RecomputedMaps(
        [extractors],
        lambda index: transform(images[index.to(images.device, non_blocking=True)]),
        count,
        block=options.block,
        buffer=options.buffer,
    )

    @torch.no_grad()
    def bare() -> None:
        for block in torch.split(images, stream.block):
            inputs = runtime.to_device(transform(block))
            for model in models[options.backbones :]:
                with runtime.autocast():
                    model(inputs)

    return stream, bare


def stored(stream: RecomputedMaps, folder: Path, runtime: Runtime, buffer: int) -> StoredMaps:
    """Write the stream's maps to disk, a shard at a time, and return the source that reads them."""
    folders = [marker_folder(folder, phase) for phase in range(1, stream.num_phases + 1)]
    for path, extractor in zip(folders, stream.extractors[0], strict=True):
        shards = (
            extractor(stream.images(torch.arange(first, stop)))
            for first, stop in chunk_ranges(stream.num_images, SHARD)
        )
        write_marker(path, {"train": (stream.num_images, shards)}, {})
    return StoredMaps([StoredPart(folders, "train")], runtime.device, buffer=buffer)


def memory(options: argparse.Namespace) -> dict[str, object]:
    """Run an epoch of each storage over both numbers of images, each in a separate process."""
    row: dict[str, object] = {"images": options.memory}
    same = ["--model", options.model, "--device", options.device, "--buffer", str(options.buffer)]
    same += ["--side", str(options.side), "--backbones", str(options.backbones)]
    same += ["--block", str(options.block)]
    for kind in options.kinds:
        found = []
        for count in options.memory:
            command = [
                sys.executable,
                "-m",
                "benchmarks.map_throughput",
                *same,
                "--peak",
                kind,
                str(count),
            ]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
        for name in found[0]:
            row[f"{kind}_{name}"] = [one[name] for one in found]
    return row


def peak(options: argparse.Namespace, runtime: Runtime) -> dict[str, float]:
    """Go through one epoch and return the peak of memory beyond the images, in MB (10⁶ bytes)."""
    kind, count = options.peak[0], int(options.peak[1])
    stream, _ = make_stream(options, runtime, count)
    with tempfile.TemporaryDirectory() as folder:
        source: MapSource = stream
        if kind == "stored":
            source = stored(stream, Path(folder), runtime, options.buffer)
        generator = torch.Generator().manual_seed(0)
        for _ in source.batches(np.arange(options.backbones * count), BATCH, generator):
            pass
    images = count * 64  # the digits are 8×8 bytes
    found = {
        "peak_rss_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - images) / 1e6
    }
    if runtime.device.type == "cuda":
        found["peak_gpu_mb"] = (torch.cuda.max_memory_allocated() - images) / 1e6
    return found


if __name__ == "__main__":
    main()
