"""Part 2: the ceilings of this GPU, then the speed table, each line beside a bare loop on the same GPU."""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu import floors
from benchmarks.gpu.lines import Line, Part, append, part_of, read, run_lines
from benchmarks.map_throughput import make_stream
from benchmarks.matching_step import divergence
from benchmarks.ral_step import Bench, LossVariant
from benchmarks.step_overhead import TrainingPair
from benchmarks.turns import median_ratio, synchronize, take_turns
from fmce.config.distillation import DistillationConfig, NetConfig
from fmce.data.augmentation import Augmentation, TrainBatches
from fmce.data.batch import ImageBatches, ImageSet
from fmce.data.pools import ImagePool
from fmce.data.transforms import ImageTransform
from fmce.distillation.experiment import make_network, make_task
from fmce.distillation.inputs import frozen_teacher
from fmce.engine.loop import fit
from fmce.engine.runtime import Runtime, make_runtime
from fmce.feature_maps.in_memory import InMemoryMaps
from fmce.feature_maps.source import MapBatches
from fmce.losses.detection import detection_distillation
from fmce.models.build import build_model
from fmce.models.fcos import fcos
from fmce.models.fmce_net import FMCENet
from fmce.models.pspnet import pspnet
from fmce.runs.log import environment
from fmce.tasks.distillation import distillation_step
from fmce.tasks.fmce_net import score_step

SHUFFLENET, RESNET = "torchvision:shufflenet_v2_x1_0", "torchvision:resnet50"
CEILINGS = "ceilings"
CHANNELS = {SHUFFLENET: 1024, RESNET: 2048}
VIEWS = Augmentation((0.4, 0.4, 0.4), (0.25, 0.25, 0.25), zoom=1.5, flip=True, brightness=0.2)


@dataclass(frozen=True)
class Sizes:
    """How large everything is: on a GPU, or so small that a processor runs the same code in seconds."""

    networks: tuple[str, ...] = (SHUFFLENET, RESNET)
    side: int = 224
    batch: int = 256
    backbones: int = 10
    stream_images: int = 1024
    segment: tuple[str, str, int, int] = ("pspnet:resnet101", "pspnet:resnet18", 512, 1024)
    detect: tuple[str, str, int, int] = ("fcos:resnet101", "fcos:resnet18", 720, 1280)
    detector: dict[str, Any] = field(default_factory=dict)
    matching_batch: int = 16
    matrix: int = 8192
    copied: int = 2**30
    turn_seconds: float = 0.2
    turns: int = 8


TINY = Sizes(
    networks=("tiny",),
    side=16,
    batch=8,
    backbones=2,
    stream_images=16,
    segment=("pspnet:test_resnet", "pspnet:test_resnet", 32, 48),
    detect=("fcos:test_resnet", "fcos:test_resnet", 64, 96),
    detector={"channels": 32, "convolutions": 1, "strides": [4, 8]},
    matching_batch=2,
    matrix=64,
    copied=2**16,
    turn_seconds=0.02,
    turns=1,
)


@dataclass(frozen=True)
class Option:
    """How a training step is computed."""

    label: str
    precision: str
    channels_last: bool = False
    compile: bool = False
    cuda_graphs: bool = False

    def runtime(self, device: str) -> Runtime:
        """Return the engine's runtime."""
        runtime = make_runtime(device, self.precision)
        return replace(
            runtime,
            channels_last=self.channels_last,
            compile=self.compile,
            cuda_graphs=self.cuda_graphs,
        )


FLOAT32 = Option("float32", "float32")
PLAIN = Option("bfloat16", "bfloat16")
FAST = Option("bfloat16, channels_last", "bfloat16", channels_last=True)
COMPILED = Option("bfloat16, channels_last, compile", "bfloat16", channels_last=True, compile=True)
GRAPHS = Option(
    "bfloat16, channels_last, CUDA graphs", "bfloat16", channels_last=True, cuda_graphs=True
)
# Without channels_last: depthwise convolutions use other kernels there.
PLAIN_GRAPHS = Option("bfloat16, CUDA graphs", "bfloat16", cuda_graphs=True)
OPTIONS = (FAST, GRAPHS, PLAIN_GRAPHS, PLAIN, FLOAT32, COMPILED)


def training_name(network: str, option: Option) -> str:
    """Return the name of a training step's line."""
    return f"training step, {short(network)}, {option.label}"


def short(network: str) -> str:
    """Return a network's name without its library."""
    return network.partition(":")[2] or network


def lines(part: Part) -> list[Line]:
    """Return the table's lines, most valuable first."""
    sizes, device = (TINY if part.tiny else Sizes()), part.device
    table = costs(tiny=part.tiny)
    first, last = sizes.networks[0], sizes.networks[-1]
    work: list[tuple[str, float, Callable[[], dict[str, Any]]]] = []

    def step(network: str, option: Option, seconds: float) -> None:
        name = training_name(network, option)
        work.append((name, seconds, partial(training_step, sizes, network, option, device)))

    # The first is also how rows are trained where it is the fastest.
    step(first, GRAPHS, 15)
    step(first, FAST, 12)
    work += [
        (f"FMCS stream, {short(first)}", 12, partial(stream, sizes, first, device)),
        (f"FMCE-Net from the stream, {short(first)}", 15, partial(net, sizes, first, device)),
        (f"FMCE-Net++ width 0.25, {short(first)}", 10, partial(ral, sizes, first, 0.25, device)),
    ]
    step(last, FAST, 12)
    work += [
        ("function matching, segment", 15, partial(matching, sizes, "segment", device)),
        ("function matching, detect", 15, partial(matching, sizes, "detect", device)),
    ]
    step(first, PLAIN_GRAPHS, 12)
    for option in (PLAIN, FLOAT32):
        for network in sizes.networks:
            step(network, option, 12)
    work += [
        (f"FMCE-Net++ published, {short(first)}", 10, partial(ral, sizes, first, 1.0, device)),
        (f"FMCE-Net++ published, {short(last)}", 12, partial(ral, sizes, last, 1.0, device)),
        (f"FMCE-Net++ width 0.25, {short(last)}", 12, partial(ral, sizes, last, 0.25, device)),
        (f"FMCS stream, {short(last)}", 15, partial(stream, sizes, last, device)),
    ]
    step(last, GRAPHS, 12)
    # Last: a compiler takes longer than all lines above together.
    step(first, COMPILED, 60)
    step(last, COMPILED, 60)
    named = {name: (seconds, run) for name, seconds, run in work}  # a tiny table's networks are one
    head = Line(CEILINGS, partial(ceilings, sizes, device), 10)
    if part.tiny:  # no GPU, and no time for a C++ compiler; a separate test compiles on processors
        named = {k: v for k, v in named.items() if not k.endswith(("compile", "CUDA graphs"))}
    measured = [
        Line(name, run if part.tiny else partial(run_clean, run), 0 if part.tiny else seconds,
             {"operations": table[name].operations, "bytes": table[name].bytes,
              "precision": table[name].precision})
        for name, (seconds, run) in named.items()
    ]  # fmt: skip
    return [head, *measured]


def costs(*, tiny: bool) -> dict[str, floors.Cost]:
    """Return the least cost of each line, for one image or feature map."""
    sizes = TINY if tiny else Sizes()
    image, batch = (3, sizes.side, sizes.side), sizes.batch
    found: dict[str, floors.Cost] = {}
    for network in sizes.networks:
        classifier = partial(build_model, network, 10)
        for option in OPTIONS:
            cost = floors.training(classifier, image, option.precision, batch)
            found[training_name(network, option)] = cost
        shape = (CHANNELS[network], 7, 7) if network in CHANNELS else (64, 4, 4)
        maps = floors.inference(classifier, image, "bfloat16", batch)
        found[f"FMCS stream, {short(network)}"] = maps
        scorer = partial(FMCENet, shape, 10)
        trained = floors.training(scorer, shape, "bfloat16", batch)
        found[f"FMCE-Net from the stream, {short(network)}"] = maps + trained
        plain = found[training_name(network, FAST)]
        for form, width in (("published", 1.0), ("width 0.25", 0.25)):
            oracle = floors.frozen(
                partial(FMCENet, shape, 10, width=width), shape, "bfloat16", batch
            )
            found[f"FMCE-Net++ {form}, {short(network)}"] = plain + oracle
    for task in ("segment", "detect"):
        teacher, student, height, width = getattr(sizes, task)
        view, options = (3, height, width), sizes.detector if task == "detect" else {}
        found[f"function matching, {task}"] = floors.inference(
            partial(dense, teacher, options), view, "bfloat16", sizes.matching_batch
        ) + floors.training(
            partial(dense, student, options), view, "bfloat16", sizes.matching_batch
        )
    return found


def dense(name: str, options: dict[str, Any]) -> nn.Module:
    """Build a segmentation or detection network of 19 classes."""
    kind, _, encoder = name.partition(":")
    if kind == "pspnet":
        return pspnet(encoder, 19, auxiliary=False)
    return fcos(encoder, 19, **options)


def run_clean(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run a measurement with the GPU's memory returned before it."""
    torch.cuda.empty_cache()
    return run()


def ceilings(sizes: Sizes, device: str) -> dict[str, Any]:
    """Measure a matrix product in bfloat16 and float32 and a copy, bytes read and written counted."""
    runtime = make_runtime(device)
    side, found = sizes.matrix, {}
    for name, dtype, repeats in (
        ("bfloat16", torch.bfloat16, 20),
        ("float32", torch.float32, 5),
    ):
        a, b = (torch.randn(side, side, device=runtime.device, dtype=dtype) for _ in range(2))
        seconds = timed(runtime, partial(torch.matmul, a, b), repeats)
        found[name] = 2 * side**3 / seconds
    source = torch.randn(sizes.copied, device=runtime.device)
    target = torch.empty_like(source)
    found["bandwidth"] = 2 * source.nbytes / timed(runtime, lambda: target.copy_(source), 10)
    return found


def timed(runtime: Runtime, work: Callable[[], object], repeats: int) -> float:
    """Return the median seconds of a few groups of calls, after one that does not count."""
    groups = []
    with runtime.matmul_precision():
        for _ in range(6):
            synchronize(runtime)
            started = time.perf_counter()
            for _ in range(repeats):
                work()
            synchronize(runtime)
            groups.append((time.perf_counter() - started) / repeats)
    return statistics.median(groups[1:])


def training_step(sizes: Sizes, network: str, option: Option, device: str) -> dict[str, Any]:
    """Time training through the engine and in a bare loop, on images of CIFAR-10's kind."""
    runtime = option.runtime(device)
    batches = partial(image_batches, sizes, runtime)
    with TrainingPair(network, runtime) as pair:
        return in_turns(
            sizes, runtime, sizes.batch, batches, (pair.through_fit, pair.in_a_bare_loop)
        ) | {
            "input_share": input_share(runtime, pair, batches),
            **busy(runtime, partial(pair.through_fit, batches(4)), 4),
        }


def image_batches(sizes: Sizes, runtime: Runtime, steps: int) -> ImageBatches:
    """Return that many batches of random images of 32 pixels, varied as CIFAR-10's are."""
    draw = torch.Generator().manual_seed(0)
    count = steps * sizes.batch
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=draw)
    stored = ImageSet(images, torch.arange(count) % 10).to(runtime.device)
    transform = ImageTransform(sizes.side, (0.5,) * 3, (0.25,) * 3, shift=4, flip=True)
    return ImageBatches(stored, transform, sizes.batch, seed=0)


def input_share(
    runtime: Runtime, pair: TrainingPair, batches: Callable[[int], ImageBatches]
) -> float:
    """Return what share of a step's time its images take, resized and varied on the device."""
    few = batches(4)
    whole = timed(runtime, lambda: pair.through_fit(few), 1)
    alone = timed(runtime, lambda: exhaust(few.epoch(1)), 1)
    return alone / whole


def busy(runtime: Runtime, work: Callable[[], object], steps: int) -> dict[str, Any]:
    """Return how long the device's own work takes a step, in ms, and that of the kernels that take the most of it.

    Where it is much less than the step's time, the device waits for the CPU that launches its kernels.
    """
    on_gpu = runtime.device.type == "cuda"
    activity = (
        torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU
    )
    name = f"self_{'device' if on_gpu else 'cpu'}_time_total"
    work()
    with torch.profiler.profile(activities=[activity]) as profile:
        work()
        synchronize(runtime)
    times = {event.key: getattr(event, name) / 1000 / steps for event in profile.key_averages()}
    longest = sorted(times, key=lambda key: -times[key])[:8]
    return {
        "device_ms": sum(times.values()),
        "kernels_ms": {key[:80]: round(times[key], 3) for key in longest},
    }


def exhaust(batches: Iterable[object]) -> None:
    """Go through batches and drop them."""
    for _ in batches:
        pass


def in_turns(
    sizes: Sizes,
    runtime: Runtime,
    per_step: int,
    batches: Callable[[int], Any],
    sides: Sequence[Callable[[Any], object]],
) -> dict[str, Any]:
    """Time an engine's side and a bare one over as many steps as fill a turn.

    Args:
        sizes: Say how long a turn is and how many there are.
        runtime: Of both sides.
        per_step: Images of a step.
        batches: Number of steps → what both sides go through.
        sides: The engine's, then the bare one.

    Returns:
        Images per second of both, their ratio, and the peak of memory of each, in MB.
    """
    few, peaks = batches(2), []
    for side in sides:
        with (
            runtime.matmul_precision()
        ):  # as in the turns, or what is compiled would not be used there
            side(few)  # compiles, and chooses kernels
            peaks.append(peak_of(runtime, partial(drop_result, side, few)).get("peak_mb"))
    seconds = timed_once(runtime, lambda: sides[0](few)) / 2
    steps = min(200, max(2, round(sizes.turn_seconds / seconds)))
    work = batches(steps)
    ours, bare = take_turns(
        [partial(drop_result, side, work) for side in sides], runtime, sizes.turns
    )
    images = steps * per_step
    return {
        "images_per_second": images / statistics.median(ours),
        "bare_images_per_second": images / statistics.median(bare),
        "ratio": median_ratio(ours, bare),
        "step_ms": 1000 * statistics.median(ours) / steps,
        "turns": [[round(1000 * t / steps, 3) for t in side] for side in (ours, bare)],
        "steps": steps,
        "batch_size": per_step,
        "peak_mb": peaks[0],
        "bare_peak_mb": peaks[1],
    }


def drop_result(side: Callable[[Any], object], work: Any) -> None:
    """Call and return nothing."""
    side(work)


def timed_once(runtime: Runtime, work: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    synchronize(runtime)
    started = time.perf_counter()
    work()
    synchronize(runtime)
    return time.perf_counter() - started


def stream_of(sizes: Sizes, network: str, runtime: Runtime) -> Any:
    """Return a stream of several backbones over the line's images, and their bare inference."""
    options = argparse.Namespace(
        model=network,
        side=sizes.side,
        backbones=sizes.backbones,
        block=min(256, sizes.stream_images),
        buffer=max(64, 4 * sizes.backbones * min(256, sizes.stream_images)),
    )
    return make_stream(options, runtime, sizes.stream_images)


def stream(sizes: Sizes, network: str, device: str) -> dict[str, Any]:
    """Time the shuffled stream of several backbones and their bare inference."""
    runtime = FAST.runtime(device)
    source, bare = stream_of(sizes, network, runtime)
    count = sizes.backbones * sizes.stream_images

    def streamed() -> None:
        generator = torch.Generator().manual_seed(0)
        exhaust(source.batches(np.arange(count), sizes.batch, generator))

    ours, theirs = take_turns((streamed, bare), runtime, max(1, sizes.turns // 2))
    return {
        "images_per_second": count / statistics.median(ours),
        "bare_images_per_second": count / statistics.median(theirs),
        "ratio": median_ratio(ours, theirs),
        "backbones": sizes.backbones,
        **peak_of(runtime, streamed),
    }


def peak_of(runtime: Runtime, work: Callable[[], object]) -> dict[str, Any]:
    """Return the peak of memory during a call, in MB; nothing on a processor."""
    if runtime.device.type != "cuda":
        return {}
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    work()
    return {"peak_mb": torch.cuda.max_memory_allocated() / 1e6}


def net(sizes: Sizes, network: str, device: str) -> dict[str, Any]:
    """Time an epoch of FMCE-Net from the stream, and a bare one on the same maps in memory."""
    runtime = FAST.runtime(device)
    source, bare = stream_of(sizes, network, runtime)
    count = sizes.backbones * sizes.stream_images
    numbers = np.arange(count)
    through_fit, in_a_bare_loop = net_sides(source, numbers, sizes.batch, runtime)
    fitted, memory, mapped = take_turns(
        (through_fit, in_a_bare_loop, bare), runtime, max(1, sizes.turns // 2)
    )
    both = [m + b for m, b in zip(memory, mapped, strict=True)]
    return {
        "images_per_second": count / statistics.median(fitted),
        "bare_images_per_second": count / statistics.median(both),
        "ratio": median_ratio(fitted, both),  # over bare inference and bare training together
        "over_training_in_memory": median_ratio(fitted, memory),
        "in_memory_per_second": count / statistics.median(memory),
        **peak_of(runtime, through_fit),
    }


def net_sides(
    source: Any, numbers: Any, batch: int, runtime: Runtime
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return an epoch of FMCE-Net from the stream, and a bare one on the same maps in memory."""
    first = next(iter(source.batches(numbers[:1], 1)))
    ours, theirs = (
        FMCENet(tuple(first.maps.shape[1:]), source.num_phases).to(runtime.device) for _ in range(2)
    )
    adams = [torch.optim.Adam(m.parameters(), fused=True) for m in (ours, theirs)]
    streamed = MapBatches(source, numbers, batch, seed=0)
    in_memory = MapBatches(InMemoryMaps.from_source(source), numbers, batch, seed=0)

    def through_fit() -> None:
        fit(ours, score_step(ours), streamed, adams[0], epochs=1, seed=0, runtime=runtime)

    def in_a_bare_loop() -> None:
        for batch in in_memory.epoch(1):
            with runtime.autocast():
                logits = theirs(batch.maps)
            loss = F.cross_entropy(logits.float(), batch.phases.to(logits.device) - 1)
            adams[1].zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adams[1].step()

    return through_fit, in_a_bare_loop


def ral(sizes: Sizes, network: str, width: float, device: str) -> dict[str, Any]:
    """Time FMCE-Net++'s step and the plain step of the same engine."""
    runtime = FAST.runtime(device)
    bench = Bench(network, sizes.batch, runtime, sizes.side)
    oracle = bench.oracle(width)
    form = LossVariant(width=width)
    return in_turns(
        sizes, runtime, sizes.batch, lambda steps: steps,
        (lambda steps: bench.with_oracle(form, oracle, steps), bench.plain),
    )  # fmt: skip


def matching(sizes: Sizes, task_name: str, device: str) -> dict[str, Any]:
    """Time function matching through the engine, and a bare teacher and student on the same views."""
    runtime = make_runtime(device, "bfloat16")
    teacher, student, height, width = getattr(sizes, task_name)
    batches, sides = matching_sides(sizes, task_name, runtime)
    return in_turns(sizes, runtime, sizes.matching_batch, batches, sides) | {
        "teacher": teacher,
        "student": student,
        "size": f"{height}x{width}",
    }


def matching_sides(
    sizes: Sizes, task_name: str, runtime: Runtime
) -> tuple[Callable[[int], TrainBatches], Sequence[Callable[[TrainBatches], None]]]:
    """Return what makes batches of a number of steps, and the engine's side and a bare one."""
    teacher_name, student_name, height, width = getattr(sizes, task_name)
    options = sizes.detector if task_name == "detect" else {}
    config = DistillationConfig(
        task=task_name,  # type: ignore[arg-type]
        teacher=NetConfig(teacher_name, options),
        student=NetConfig(student_name, options),
    )
    draw = torch.Generator().manual_seed(0)
    shape = (2 * sizes.matching_batch, 3, height, width)
    pool = ImagePool(torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw))
    names = tuple(f"class {i}" for i in range(19))
    task, pool = make_task(config.task, names), pool.to(runtime.device)
    teacher, ours, theirs = (
        make_network(config.task, n, len(names), 0, auxiliary=False).to(runtime.device)
        for n in (config.teacher, config.student, config.student)
    )
    adams = [torch.optim.Adam(m.parameters(), fused=True) for m in (ours, theirs)]
    step = distillation_step(task, ours, frozen_teacher(task, teacher, config, runtime))

    def batches(steps: int) -> TrainBatches:
        return TrainBatches(pool, VIEWS, sizes.matching_batch, steps, seed=0)

    def through_fit(views: TrainBatches) -> None:
        fit(ours, step, views, adams[0], epochs=1, seed=0, runtime=runtime)

    def in_a_bare_loop(views: TrainBatches) -> None:
        theirs.train()
        for batch in views.epoch(1):
            with runtime.autocast():
                with torch.inference_mode():
                    wanted = task.outputs(teacher, batch.images)
                loss = matching_loss(task_name, task.outputs(theirs, batch.images), wanted)
            adams[1].zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adams[1].step()

    return batches, (through_fit, in_a_bare_loop)


def matching_loss(task: str, ours: Any, wanted: Any) -> Tensor:
    """Return the loss that a bare loop writes by hand."""
    if task == "detect":
        return detection_distillation(ours, wanted).total()
    return divergence(ours.float(), wanted.float())


def main() -> None:
    """Measure what is not measured yet."""
    part = part_of()
    file = part.out / "speed.jsonl"
    if not read(file):
        append(file, {"environment": environment()})
    run_lines(file, lines(part), part)


if __name__ == "__main__":
    main()
