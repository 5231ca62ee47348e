"""Cost of fmce's engine over bare PyTorch, as ratios within one run.

    python benchmarks/step_overhead.py [--model tiny] [--device auto] [--repeats 15]

Prints, and appends to results/benchmarks.jsonl with --record:
- an epoch through `fit`, without checkpoints, over the same epoch in a bare loop (aim: at most 1.05);
- what a checkpoint adds to an epoch, apart;
- throughput of feature maps recomputed on the fly over bare inference of the same backbones
  (aim: at least 0.90).

Both sides use the same weights, batches and threads and take turns, so that the noise of a shared
machine falls on both; the ratio is the median over the turns. Takes about a minute on 2 CPU cores.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from fmce.configs import RunConfig
from fmce.data.batch import ImageBatches
from fmce.data.classification import digits
from fmce.data.map_stream import MapStream
from fmce.engine.checkpoint import save_checkpoint
from fmce.engine.loop import fit
from fmce.engine.runlog import record_result
from fmce.engine.runtime import Runtime, make_runtime
from fmce.engine.seeding import seed_epoch
from fmce.models.build import build_model, default_tap
from fmce.run_folder import MapExtractor, make_transform
from fmce.tasks.classify import classification_step

RESULTS = Path(__file__).resolve().parent.parent / "results"


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--record", action="store_true", help="append to results/benchmarks.jsonl")
    options = parser.parse_args()
    runtime = make_runtime(options.device)
    row: dict[str, object] = {
        "device": runtime.device.type,
        "benchmark": "step_overhead",
        "model": options.model,
        "repeats": options.repeats,
    }
    row |= training(options.model, runtime, options.repeats)
    row |= streaming(options.model, runtime, options.repeats)
    for name in ("epoch_over_bare", "checkpoint_seconds", "bare_epoch_seconds", "stream_over_bare"):
        print(f"{name:20s} {row[name]:.4f}")
    if options.record:
        record_result(RESULTS / "benchmarks.jsonl", row, key=("benchmark", "model", "device"))


def training(name: str, runtime: Runtime, repeats: int) -> dict[str, float]:
    """Time an epoch of digits through `fit` and in a bare loop."""
    config, data = RunConfig(), digits()
    transform = make_transform(config, data)
    batches = ImageBatches(data.train.to(runtime.device), transform, 64, seed=0)
    ours, bare = (build(name, runtime) for _ in range(2))
    our_adam, bare_adam = (torch.optim.Adam(m.parameters(), fused=True) for m in (ours, bare))
    step = classification_step(ours)

    def through_fit() -> None:
        fit(ours, step, batches, our_adam, epochs=1, seed=0, runtime=runtime)

    def in_a_bare_loop() -> None:
        bare.train()
        for batch in batches.epoch(1):
            loss = F.cross_entropy(bare(batch.images), batch.targets)
            bare_adam.zero_grad()
            loss.backward()
            bare_adam.step()

    fit_times, bare_times = take_turns(through_fit, in_a_bare_loop, runtime, repeats)
    assert all(
        torch.equal(a, b) for a, b in zip(ours.parameters(), bare.parameters(), strict=True)
    ), "both sides must have trained alike"
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        for epoch in range(1, 6):
            state = {"optimizer": our_adam.state_dict()}
            save_checkpoint(Path(folder), epoch, ours.state_dict(), state, {"metrics": {}})
        checkpoint = (time.perf_counter() - started) / 5
    return {
        "epoch_over_bare": median_ratio(fit_times, bare_times),
        "bare_epoch_seconds": statistics.median(bare_times),
        "checkpoint_seconds": checkpoint,
    }


def streaming(name: str, runtime: Runtime, repeats: int, backbones: int = 4) -> dict[str, float]:
    """Time maps of several backbones through the shuffled stream and by bare inference."""
    config, data = RunConfig(), digits()
    transform = make_transform(config, data)
    images = data.train.to(runtime.device).images
    models = [build(name, runtime).eval() for _ in range(backbones)]
    extractors = [MapExtractor(m, default_tap(m, name), runtime) for m in models]
    stream = MapStream(
        [extractors], lambda index: transform(images[index.to(images.device)]), len(images)
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

    stream_times, bare_times = take_turns(streamed, bare, runtime, repeats)
    return {
        "stream_over_bare": median_ratio(bare_times, stream_times),
        "bare_maps_per_second": len(everything) / statistics.median(bare_times),
    }


def build(name: str, runtime: Runtime) -> torch.nn.Module:
    """Build the same network again."""
    seed_epoch(0, 0)
    return build_model(name, 10).to(runtime.device)


def take_turns(
    first: Callable[[], None], second: Callable[[], None], runtime: Runtime, repeats: int
) -> tuple[list[float], list[float]]:
    """Time two functions in turn, each first every second time, after an uncounted turn each."""
    times: tuple[list[float], list[float]] = ([], [])
    pairs = list(zip((first, second), times, strict=True))
    for turn in range(repeats + 1):
        for function, kept in pairs[:: 1 if turn % 2 else -1]:
            synchronize(runtime)
            started = time.perf_counter()
            function()
            synchronize(runtime)
            if turn:
                kept.append(time.perf_counter() - started)
    return times


def median_ratio(numerators: list[float], denominators: list[float]) -> float:
    """Return the median of the turns' ratios."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def synchronize(runtime: Runtime) -> None:
    """Wait for the device."""
    if runtime.device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
