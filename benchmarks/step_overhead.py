"""Cost of fmce's engine over bare PyTorch, as ratios within one run.

    python -m benchmarks.step_overhead [--model tiny] [--image-size 16] [--batch-size 64] [--images N]
                                       [--device auto] [--repeats 15] [--clock wall] [--record]

Prints, and appends to results/benchmarks.jsonl with --record:
- an epoch through `fit`, without checkpoints, over the same epoch in a bare loop (aim: at most 1.05,
  for networks larger than the demo's 1.03);
- what a checkpoint adds to an epoch, apart;
- throughput of feature maps recomputed on the fly over bare inference of the same backbones
  (aim: at least 0.90).

Both sides use the same weights, batches and threads and take turns, so that the noise of a shared
machine falls on both; the ratio is the median over the turns. Takes about a minute on 2 CPU cores, and
with `--model torchvision:resnet18 --image-size 64 --batch-size 32 --images 192` about ten.
"""

import statistics
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.turns import benchmark_parser, median_ratio, record, show, start_row, take_turns
from fmce.data.batch import ImageBatches, ImageSet
from fmce.data.classification.classification import digits
from fmce.data.transforms import ImageTransform
from fmce.engine.loop import fit
from fmce.engine.runtime import Runtime, make_runtime
from fmce.feature_maps.extractor import MapExtractor
from fmce.feature_maps.recomputed import RecomputedMaps
from fmce.models.build import build_model, default_layer
from fmce.models.compiled import CompiledModel
from fmce.models.replayed import ReplayedPasses
from fmce.runs.checkpoint import save_checkpoint
from fmce.seeding import seed_epoch
from fmce.tasks.classification import classification_step


@dataclass(frozen=True)
class Work:
    """What is trained on: digits, varied as in the demo, at any size."""

    model: str
    images: ImageSet
    transform: ImageTransform
    batch_size: int


def main() -> None:
    """Measure, print and record."""
    parser = benchmark_parser(__doc__, repeats=15)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--image-size", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--images", type=int, help="only so many of the digits")
    options = parser.parse_args()
    runtime = make_runtime(options.device)
    data = digits()
    transform = ImageTransform(options.image_size, data.mean, data.std, shift=2, noise=0.3)
    images = data.train.select(torch.arange(options.images or len(data.train)))
    work = Work(options.model, images.to(runtime.device), transform, options.batch_size)
    names = ("model", "image_size", "batch_size", "repeats", "clock")
    row = start_row("step_overhead", options, runtime, *names, images=len(images))
    row |= training(work, runtime, options.repeats, options.clock)
    row |= streaming(work, runtime, options.repeats, options.clock)
    show(row)
    record(row, options, key=("model", "image_size"))


class TrainingPair:
    """One network twice, trained through `fit` and in a bare loop of plain PyTorch, with the same options.

    A context manager: on leaving, compiled code is dropped.
    """

    def __init__(self, name: str, runtime: Runtime) -> None:
        """Build both with the same weights."""
        self.runtime = runtime
        self.ours, self.bare = (build(name, runtime) for _ in range(2))
        self.our_adam, self.bare_adam = (
            torch.optim.Adam(m.parameters(), fused=True) for m in (self.ours, self.bare)
        )
        self._compiled: Any = nullcontext(self.ours)
        self._bare_forward: Any = self.bare
        if runtime.compile or runtime.cuda_graphs:
            self._compiled = CompiledModel(self.ours, replay=runtime.cuda_graphs)
        if runtime.compile:
            self._bare_forward = torch.compile(self.bare, dynamic=False)
        elif runtime.cuda_graphs:
            self._bare_forward = ReplayedPasses(self.bare, self.bare)

    def __enter__(self) -> "TrainingPair":
        self._step = classification_step(self._compiled.__enter__())
        return self

    def __exit__(self, *error: Any) -> None:
        self._compiled.__exit__(*error)

    def through_fit(self, batches: ImageBatches) -> None:
        """Train an epoch through the engine."""
        fit(self.ours, self._step, batches, self.our_adam, epochs=1, seed=0, runtime=self.runtime)

    def in_a_bare_loop(self, batches: ImageBatches) -> None:
        """Train the same epoch as one writes it by hand."""
        self.bare.train()
        half = self.runtime.precision == "bfloat16"
        layout = torch.channels_last if self.runtime.channels_last else torch.contiguous_format
        for batch in batches.epoch(1):
            images = batch.images.to(memory_format=layout)
            with torch.autocast(self.runtime.device.type, torch.bfloat16, enabled=half):
                logits = self._bare_forward(images)
            loss = F.cross_entropy(logits.float(), batch.targets)
            self.bare_adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.bare_adam.step()


def training(work: Work, runtime: Runtime, repeats: int, clock: str) -> dict[str, float]:
    """Time an epoch of digits through `fit` and in a bare loop."""
    batches = ImageBatches(work.images, work.transform, work.batch_size, seed=0)
    with TrainingPair(work.model, runtime) as pair:
        sides = (lambda: pair.through_fit(batches), lambda: pair.in_a_bare_loop(batches))
        fit_times, bare_times = take_turns(sides, runtime, repeats, clock)
    pairs = zip(pair.ours.parameters(), pair.bare.parameters(), strict=True)
    # A GPU adds up in no fixed order.
    alike = runtime.device.type != "cpu" or all(torch.equal(a, b) for a, b in pairs)
    assert alike, "both sides must have trained alike"
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        for epoch in range(1, 6):
            state = {"optimizer": pair.our_adam.state_dict()}
            save_checkpoint(Path(folder), epoch, pair.ours.state_dict(), state, {"metrics": {}})
        checkpoint = (time.perf_counter() - started) / 5
    return {
        "epoch_over_bare": median_ratio(fit_times, bare_times),
        "bare_epoch_seconds": statistics.median(bare_times),
        "bare_images_per_second": len(work.images) / statistics.median(bare_times),
        "checkpoint_seconds": checkpoint,
    }


def streaming(
    work: Work, runtime: Runtime, repeats: int, clock: str, backbones: int = 4
) -> dict[str, float]:
    """Time maps of several backbones through the shuffled stream and by bare inference."""
    name, transform, images = work.model, work.transform, work.images.images
    models = [build(name, runtime).eval() for _ in range(backbones)]
    extractors = [MapExtractor(m, default_layer(m, name), runtime) for m in models]
    stream = RecomputedMaps(
        [extractors],
        lambda index: transform(images[index.to(images.device, non_blocking=True)]),
        len(images),
    )
    bare_models = [build(name, runtime).eval() for _ in range(backbones)]
    everything = np.arange(backbones * len(images))

    def streamed() -> None:
        for _ in stream.batches(everything, 256, torch.Generator().manual_seed(0)):
            pass

    @torch.no_grad()
    def bare() -> None:
        for block in torch.split(images, stream.block):
            inputs = transform(block)
            for model in bare_models:
                model(inputs)

    stream_times, bare_times = take_turns((streamed, bare), runtime, repeats, clock)
    return {
        "stream_over_bare": median_ratio(bare_times, stream_times),
        "bare_maps_per_second": len(everything) / statistics.median(bare_times),
    }


def build(name: str, runtime: Runtime) -> torch.nn.Module:
    """Build the same network again."""
    seed_epoch(0, 0)
    return runtime.to_device(build_model(name, 10))


if __name__ == "__main__":
    main()
