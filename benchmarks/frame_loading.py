"""How fast frames are packed and loaded, and how long a trainer waits for them.

    python -m benchmarks.frame_loading VIDEO… [--height 360 --width 640] [--workers 2] [--record]

Prints, and appends to results/benchmarks.jsonl with --record:
- frames per second that `fmce frames --every 5` packs in one process: five decoded, one shrunk and stored;
- images per second that the loader gives from shards, alone, without and with worker processes, and
  what one core decodes and what one core's views take;
- multiply-adds of a training image with the slides' networks at that size, counted and not run, from which
  the results page estimates 16 million frames on 1, 8 and 64 GPUs;
- of function matching on the shards, with the networks of `fmce distill`'s default: the share of its time
  that the trainer waits for images, and its steps per second beside the same steps on images in memory,
  in turns.

The frames are packed once at the height given, so files of the page cache are read; a slower disk or
network shows as waiting. Takes about three minutes on 2 CPU cores.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.turns import benchmark_parser, record, show, start_row
from fmce.config.distillation import DistillationConfig
from fmce.config.io import with_settings
from fmce.data.augmentation import Augmentation, TrainBatches, augmentation_generator
from fmce.data.frames.batches import FrameBatches
from fmce.data.frames.pool import FramePool, decode_batch
from fmce.data.frames.shards import open_shards
from fmce.data.frames.table import FrameTable, ShardFrames
from fmce.data.frames.video import FrameSettings
from fmce.distillation.experiment import make_network
from fmce.distillation.inputs import frozen_teacher
from fmce.distillation.pack_videos import pack_videos
from fmce.engine.loop import fit
from fmce.engine.runtime import Runtime, cores, make_runtime
from fmce.models.pspnet import pspnet
from fmce.tasks.distillation import SegmentationTask, distillation_step

VIEWS = Augmentation((0.4, 0.4, 0.4), (0.25, 0.25, 0.25), zoom=1.5, flip=True, brightness=0.2)
CLASSES = tuple(f"class {i}" for i in range(11))


def main() -> None:
    """Measure, print and record."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=min(8, cores()))
    parser.add_argument("--steps", type=int, default=12, help="training steps a turn")
    parser.add_argument("--turns", type=int, default=3, help="0 leaves the training out")
    parser.add_argument("--teacher", default="pspnet:test_resnet")
    parser.add_argument("--student", default="pspnet:test_resnet")
    options = parser.parse_args()
    runtime = make_runtime(options.device)
    names = ("batch_size", "workers", "teacher", "student")
    size = f"{options.height}x{options.width}"
    row = start_row("frame_loading", options, runtime, *names, size=size)
    with tempfile.TemporaryDirectory() as name:
        row |= packing(options, Path(name) / "shards")
        table = FrameTable([ShardFrames(open_shards(f"{name}/shards"))])
        pool = FramePool(table, options.height, options.width, shuffle_buffer=256)
        row |= one_core(pool, options.batch_size)
        row["slides_multiply_adds"] = slides_multiply_adds(options.height, options.width)
        row |= loading(pool, options, runtime)
        if options.turns:
            row |= training(pool, options, runtime)
    show(row)
    record(row, options, key=("size",))


def packing(options: argparse.Namespace, out: Path) -> dict[str, float | int]:
    """Time every fifth frame in one process; then pack every frame, for the loader to have enough."""
    started = time.perf_counter()
    settings = FrameSettings(every=5, height=options.height)
    kept = pack_videos(options.videos, out.with_name("fifth"), settings, workers=1)
    seconds = time.perf_counter() - started
    every_frame = replace(settings, every=1)
    result = pack_videos(options.videos, out, every_frame)
    return {
        "frames": result["frames"],
        "packed_per_second": kept["frames"] / seconds,
        "bytes_per_frame": result["bytes"] / result["frames"],
    }


def one_core(pool: FramePool, batch_size: int, batches: int = 6) -> dict[str, float]:
    """Time decoding and views of some batches with one thread and no processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    chunks = [pool.table.fetch(chunk) for chunk in range(min(batches, len(pool.table.sizes)))]
    payloads = [frame for chunk in chunks for frame in chunk]
    started = time.perf_counter()
    images, _ = decode_batch(payloads, pool.height, pool.width)
    decoding = time.perf_counter() - started
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    started = time.perf_counter()
    for number, part in enumerate(stacked.split(batch_size)):  # type: ignore[no-untyped-call]
        VIEWS(part, None, augmentation_generator(torch.device("cpu"), 0, number))
    views = time.perf_counter() - started
    torch.set_num_threads(threads)
    return {
        "decoded_per_second_and_core": len(images) / decoding,
        "views_per_second_and_core": len(images) / views,
    }


def slides_multiply_adds(height: int, width: int) -> float:
    """Count one image's multiply-adds: ResNet-101 forward, ResNet-18 forward and backward (twice forward)."""
    image = torch.empty(1, 3, height, width, device="meta")
    total = 0.0
    for encoder, times in (("resnet101", 1), ("resnet18", 3)):
        with torch.device("meta"):
            network = pspnet(encoder, 19, auxiliary=False).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(image)
        total += times * counter.get_total_flops() / 2
    return total


def loading(pool: FramePool, options: argparse.Namespace, runtime: Runtime) -> dict[str, float]:
    """Time the loader with nothing behind it."""
    found = {}
    for workers in sorted({0, 1, options.workers}):
        batches = FrameBatches(
            replace(pool, workers=workers),
            VIEWS,
            options.batch_size,
            24,
            seed=0,
            device=runtime.device,
        )
        next(iter(batches.epoch(1)))  # starts the processes
        started = time.perf_counter()
        count = sum(len(batch.images) for batch in batches.epoch(2))
        found[f"loaded_per_second_{workers}_workers"] = count / (time.perf_counter() - started)
        batches.close()
    return found


def training(pool: FramePool, options: argparse.Namespace, runtime: Runtime) -> dict[str, float]:
    """Train on files and on the same images in memory, in turns; report waiting and the ratio."""
    in_files = FrameBatches(
        replace(pool, workers=max(1, options.workers - 1)),
        VIEWS,
        options.batch_size,
        options.steps,
        seed=0,
        device=runtime.device,
    )
    resident = pool.in_memory().to(runtime.device)
    in_memory = TrainBatches(resident, VIEWS, options.batch_size, options.steps, seed=0)
    times: dict[str, list[float]] = {"files": [], "memory": []}
    waited = 0.0
    trainer = Trainer(options, runtime)
    trainer.train(in_memory, 1)
    for turn in range(1, options.turns + 1):
        trainer.train(
            in_files, 2 * turn - 1
        )  # starts the processes; what they get ahead is used up
        in_files.waited_seconds = 0.0
        times["files"].append(trainer.train(in_files, 2 * turn))
        waited += in_files.waited_seconds
        in_files.close()  # or they would keep working ahead during the other's turn
        times["memory"].append(trainer.train(in_memory, turn))
    images = options.steps * options.batch_size
    return {
        "waiting_share": waited / sum(times["files"]),
        "trained_per_second": images / statistics.median(times["files"]),
        "files_over_memory": statistics.median(
            a / b for a, b in zip(times["files"], times["memory"], strict=True)
        ),
    }


class Trainer:
    """A student that matches a teacher, both with fresh weights: the work of a step is the same."""

    def __init__(self, options: argparse.Namespace, runtime: Runtime) -> None:
        config = with_settings(
            DistillationConfig(),
            [
                f"teacher.name={options.teacher}",
                f"student.name={options.student}",
                "teacher_precision=float32",
            ],
        )
        networks = [
            make_network("segment", net, len(CLASSES), 0, auxiliary=False).to(runtime.device)
            for net in (config.teacher, config.student)
        ]
        self.teacher, self.student = networks
        self.runtime = runtime
        task = SegmentationTask(len(CLASSES), CLASSES)
        outputs = frozen_teacher(task, self.teacher, config, runtime)
        self.step = distillation_step(task, self.student, outputs)
        self.optimizer = torch.optim.Adam(self.student.parameters(), lr=1e-3, fused=True)

    def train(self, batches: FrameBatches | TrainBatches, epoch: int) -> float:
        """Train for an interval and return its seconds."""
        times: list[float] = []
        fit(
            self.student,
            self.step,
            batches,
            self.optimizer,
            epochs=range(epoch, epoch + 1),
            seed=0,
            runtime=self.runtime,
            on_epoch_end=lambda result: times.append(result.time_seconds),
        )
        return times[0]


if __name__ == "__main__":
    main()
