"""Lines of the table: training steps and streams of feature maps beside bare PyTorch loops."""

import argparse
import gc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.speed import RESNET, SHUFFLENET, TINY, exhaust, matching_sides, net_sides
from benchmarks.map_throughput import make_stream
from benchmarks.matching_step import matching
from benchmarks.ral_step import FORMS, Bench, measured
from benchmarks.step_overhead import TrainingPair
from benchmarks.table.lines import CPU, Effort, Found, Line, in_turns, ratio
from benchmarks.turns import median_ratio
from fmce.data.batch import ImageBatches
from fmce.data.classification.classification import digits
from fmce.data.transforms import ImageTransform

RESNET_18 = "torchvision:resnet18"
# Network, side of the images, batch, steps a turn.
STEPS = ((SHUFFLENET, 64, 32, 4), (RESNET_18, 64, 16, 3), (RESNET, 224, 2, 1))


def lines() -> list[Line]:
    """Return the lines."""
    return [
        Line("training step", "bare PyTorch loop", training_steps, 1.01,
             why={"": "counting what is right and summing losses, about 0.1 ms of a step"}),
        Line("FMCS stream, maps/s", "bare inference of the same backbones", streams, 0.98, "at least",
             why={"": "not explained; 0.99 in a short run"}),
        Line("FMCE-Net from the stream, maps/s", "bare inference, and bare training on maps in memory",
             net, 0.90, "at least"),
        Line("FMCE-Net++ step, published form", "baseline step", partial(ral, "published"), None),
        Line("FMCE-Net++ step, width 0.25", "baseline step", partial(ral, "width 0.25"), 1.05,
             why={"": "the oracle's own passes, a fifth of the step's operations"}),
        Line("function-matching step", "bare teacher and student", matchings, 1.01,
             why={"classification": "not explained; the step takes milliseconds"}),
        Line("classification distillation", "torchdistill's loop, same models and images", against_torchdistill, 1.0,
             why={"": "the networks' passes are nearly all of both"}),
    ]  # fmt: skip


def training_steps(effort: Effort) -> Found:
    """Time an epoch of a few steps through the engine and in a bare loop."""
    found, data = {}, digits()
    for network, side, batch, steps in STEPS[: 2 if effort.quick else 3]:
        transform = ImageTransform(side, data.mean, data.std, shift=2, noise=0.3)
        images = data.train.select(torch.arange(steps * batch))
        batches = ImageBatches(images, transform, batch, seed=0)
        with TrainingPair(network, CPU) as pair:
            through, bare = (
                partial(pair.through_fit, batches),
                partial(pair.in_a_bare_loop, batches),
            )
            found[f"{short(network)}, {side} px"] = ratio(through, bare, effort.turns(11))
        gc.collect()
    return found


def short(network: str) -> str:
    """Return a network's name without its library."""
    return network.partition(":")[2]


def stream_of(
    network: str, side: int, images: int, backbones: int
) -> tuple[Any, Callable[[], None]]:
    """Return a stream and its bare inference."""
    options = argparse.Namespace(
        model=network, side=side, backbones=backbones, block=64, buffer=1024
    )
    return make_stream(options, CPU, images)


def streams(effort: Effort) -> Found:
    """Time the shuffled stream of several backbones."""
    found = {}
    for network, side, images in ((RESNET_18, 64, 128), (SHUFFLENET, 64, 256)):
        source, bare = stream_of(network, side, effort.size(images, 64), 3)

        def streamed(source: Any = source) -> None:
            generator = torch.Generator().manual_seed(0)
            exhaust(source.batches(np.arange(3 * source.num_images), 64, generator))

        found[f"{short(network)}, {side} px"] = ratio(bare, streamed, effort.turns(9))
    return found


def net(effort: Effort) -> Found:
    """Time an epoch of FMCE-Net from the stream, and its two halves by hand."""
    source, bare = stream_of(RESNET_18, 64, effort.size(128, 64), 3)
    through, in_memory = net_sides(source, np.arange(3 * source.num_images), 64, CPU)
    ours, trained, mapped = in_turns((through, in_memory, bare), effort.turns(7))
    both = [a + b for a, b in zip(trained, mapped, strict=True)]
    return {f"{short(RESNET_18)}, 64 px": median_ratio(both, ours)}


def ral(form: str, effort: Effort) -> Found:
    """Time a form of FMCE-Net++'s step."""
    found = {}
    for network, batch in ((SHUFFLENET, 8), (RESNET, 2))[: 1 if effort.quick else 2]:
        bench = Bench(network, batch, CPU)
        row = measured(bench, FORMS[form], effort.turns(7), "process")
        found[f"{short(network)}, 224 px"] = row["step_over_plain"]
        del bench
        gc.collect()
    return found


def matchings(effort: Effort) -> Found:
    """Time steps of function matching for the three tasks."""
    found = {
        name: matching(preset, CPU, effort.turns(7), "process")["step_over_bare_with_views"]
        for name, preset in (("segmentation", "scenes"), ("classification", "cifar10"))[
            : 1 if effort.quick else 2
        ]
    }
    small = replace(TINY, detect=("fcos:resnet18", "fcos:test_resnet", 128, 192), detector={})
    batches, sides = matching_sides(small, "detect", CPU)
    work = batches(effort.size(4, 2))
    through, bare = (partial(side, work) for side in sides)
    found["detection"] = ratio(through, bare, effort.turns(7))
    return found


def against_torchdistill(effort: Effort) -> Found:
    """Time one epoch of matching a teacher on the same images, without variation, by both loops."""
    from benchmarks.table.peer_distillation import loops

    return {"ResNet-18 → tiny, 32 px": ratio(*loops(effort.size(256, 64)), effort.turns(7))}
