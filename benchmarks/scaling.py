"""How processor time and memory grow with images, phases, map size, epochs, worker processes and ranks.

    python -m benchmarks.scaling [--only WORD …] [--quick] [--record]

Each point is measured in a separate process: the processor time of a pass, the least of three after an uncounted
one, and the peak memory above that of the imports. The slope is that of log time over the log of what grows: 1 is in
proportion, 0 is no growth. Several ranks and workers divide the same work, so their processor time should stay. With
--record the rows go into results/bench.jsonl, each in place of an earlier one. Takes about four minutes on an idle
core; set OMP_NUM_THREADS=1.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.bench import RESULTS
from benchmarks.gpu.speed import exhaust
from benchmarks.table.frames import HEIGHT, WIDTH, film, through
from benchmarks.table.functions import THRESHOLD, curve
from benchmarks.table.lines import CPU, processor_seconds
from benchmarks.table.training import RESNET_18, stream_of
from benchmarks.turns import command
from experiments.result_rows import record_result
from fmce.console.tables import print_table
from fmce.convergence.phases import PhaseConfig, find_phases
from fmce.data.augmentation import Augmentation
from fmce.data.batch import ImageBatches
from fmce.data.classification.classification import digits
from fmce.data.frames.batches import FrameBatches
from fmce.data.frames.pool import FramePool
from fmce.data.frames.shards import open_shards
from fmce.data.frames.table import FrameTable, ShardFrames
from fmce.data.frames.video import FrameSettings
from fmce.data.transforms import ImageTransform
from fmce.distillation.pack_videos import pack_videos
from fmce.engine.loop import fit
from fmce.engine.runtime import make_runtime
from fmce.feature_maps.in_memory import InMemoryMaps
from fmce.feature_maps.source import MapBatch, MapBatches
from fmce.models.build import build_model
from fmce.models.fmce_net import FMCENet
from fmce.seeding import seed_epoch
from fmce.tasks.classification import classification_step
from fmce.tasks.fmce_net import score_step

PASSES = 3
Pass = Callable[[], object]


@dataclass(frozen=True)
class Curve:
    """What grows, through which values, and what makes a pass over one of them ready."""

    what: str
    values: tuple[int, ...]
    ready: Callable[[int], Pass]
    ranks: bool = False


def curves() -> list[Curve]:
    """Return all curves."""
    return [
        Curve("images, FMCS stream of 3 backbones", (128, 256, 512, 1024), partial(stream, 3)),
        Curve("phases, FMCS stream of 128 images", (2, 4, 8, 16), lambda count: stream(count, 128)),
        Curve("cells of a map, FMCE-Net on 256 maps", (49, 196, 784, 3136), maps),
        Curve("epochs, find_phases", (1_000, 10_000, 100_000, 1_000_000), epochs),
        Curve("worker processes, 192 frames, time of the process that trains", (1, 2, 4), frames),
        Curve("ranks, a training epoch", (1, 2, 4), training, ranks=True),
    ]


def stream(backbones: int, images: int) -> Pass:
    """Return a pass through the shuffled stream at 32 px."""
    source, _ = stream_of(RESNET_18, 32, images, backbones)
    numbers = np.arange(backbones * images)
    return lambda: exhaust(source.batches(numbers, 64, torch.Generator().manual_seed(0)))


def maps(cells: int) -> Pass:
    """Return an epoch of FMCE-Net on maps of 64 channels in memory."""
    count, side = 256, round(cells**0.5)
    phases, images = torch.arange(count) % 10 + 1, torch.arange(count) // 10
    batch = MapBatch(torch.randn(count, 64, side, side), phases, images, torch.zeros_like(phases))
    batches = MapBatches(InMemoryMaps(batch, count // 10, 10, 1), np.arange(250), 64, seed=0)
    net = FMCENet((64, side, side), 10)
    adam = torch.optim.Adam(net.parameters(), fused=True)
    return lambda: fit(net, score_step(net), batches, adam, epochs=1, seed=0, runtime=CPU)


def epochs(count: int) -> Pass:
    """Return a search for the phases of a curve."""
    losses, config = curve(count), PhaseConfig(threshold=THRESHOLD * 100_000 / count)
    return lambda: find_phases(losses, config)


def frames(workers: int) -> Pass:
    """Return a pass over frames in shards, read by that many processes."""
    folder = Path(tempfile.mkdtemp(dir=os.environ["FMCE_SCALING"]))
    film(folder / "film.mp4", 200)
    pack_videos([folder / "film.mp4"], folder / "shards", FrameSettings(every=1), workers=1)
    table = FrameTable([ShardFrames(open_shards(str(folder / "shards")))])
    pool = FramePool(table, HEIGHT, WIDTH, shuffle_buffer=64, workers=workers)
    plain = Augmentation((0.4,) * 3, (0.25,) * 3, zoom=1.0)

    def read() -> None:
        batches = FrameBatches(pool, plain, 16, 12, seed=0)
        through(batches)()
        batches.close()

    return read


def training(ranks: int) -> Pass:
    """Return this rank's part of an epoch of 512 digits at 32 px."""
    runtime, data = make_runtime("cpu", together=ranks > 1), digits()
    seed_epoch(0, 0)
    model = build_model(RESNET_18, 10)
    transform = ImageTransform(32, data.mean, data.std)
    images = data.train.select(torch.arange(512))
    batches = ImageBatches(images, transform, 64, seed=0, rank_of=runtime.ranks.rank_of)
    adam, step = torch.optim.Adam(model.parameters(), fused=True), classification_step(model)
    return lambda: fit(model, step, batches, adam, epochs=1, seed=0, runtime=runtime)


def point(what: str, value: int) -> None:
    """Measure a point in this process, one of several where it is a rank, and write it down."""
    one = next(c for c in curves() if c.what == what)
    before, work, times = memory(), one.ready(value), []
    for _ in range(1 + PASSES):
        started = processor_seconds()
        work()
        times.append(processor_seconds() - started)
    found = {"seconds": min(times[1:]), "megabytes": memory() - before}
    path = Path(os.environ["FMCE_SCALING"]) / f"{os.getpid()}.point.json"
    path.write_text(json.dumps(found), encoding="utf-8")


def memory() -> float:
    """Return the peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(one: Curve, value: int) -> dict[str, float]:
    """Return seconds and megabytes of a point, the sum over its ranks."""
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={value}", "--local-addr=127.0.0.1",
                "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]  # fmt: skip
    entry = ["-m", "benchmarks.scaling", "--point", one.what, str(value)]
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, *(launcher if one.ranks and value > 1 else ()), *entry]
        env = os.environ | {"FMCE_SCALING": folder}
        done = subprocess.run(words, env=env, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{one.what}, {value}: {done.stderr[-500:]}")
        parts = [json.loads(path.read_text()) for path in Path(folder).glob("*.point.json")]
    return {name: sum(part[name] for part in parts) for name in ("seconds", "megabytes")}


def slope(values: list[int], seconds: list[float]) -> float:
    """Return the slope of log seconds over log values.

    >>> slope([1, 10, 100], [0.5, 5.0, 50.0])
    1.0
    """
    return round(float(np.polyfit(np.log(values), np.log(seconds), 1)[0]), 6)


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", metavar="WORD", help="curves that hold such a word")
    parser.add_argument("--quick", action="store_true", help="the first two values of each")
    parser.add_argument("--record", action="store_true", help="put rows into results/bench.jsonl")
    parser.add_argument("--point", nargs=2, help=argparse.SUPPRESS)  # of a separate process
    options = parser.parse_args()
    if options.point:
        point(options.point[0], int(options.point[1]))
        return
    lines = []
    for one in curves():
        if options.only and not any(word in one.what for word in options.only):
            continue
        values = list(one.values[: 2 if options.quick else None])
        found = [measured(one, value) for value in values]
        row = {
            "benchmark": "scaling",
            "what": one.what,
            "values": values,
            "seconds": [point["seconds"] for point in found],
            "megabytes": [point["megabytes"] for point in found],
            "slope": slope(values, [point["seconds"] for point in found]),
            "device": "cpu",
            "command": command(),
        }
        lines.append((one.what, *(str(row[name]) for name in ("values", "seconds", "slope"))))
        print(*lines[-1], flush=True)
        if options.record:
            record_result(RESULTS, row, key=("benchmark", "what"))
    print_table("processor time", ("what grows", "values", "s", "slope"), lines)


if __name__ == "__main__":
    main()
