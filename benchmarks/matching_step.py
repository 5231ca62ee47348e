"""Cost of a function-matching step over a bare loop of teacher forward and student step, as ratios within one run.

    python -m benchmarks.matching_step [--preset scenes] [--device auto] [--repeats 15] [--clock wall] [--record]

Prints, and appends to results/benchmarks.jsonl with --record:
- steps through `fit`, views drawn from the pool included, over a bare loop on views that lie ready
  (aim: at most 1.05);
- the same loop fed with views drawn alike, which leaves what engine and loss cost.

The bare loop is plain PyTorch: teacher under inference mode, student, `F.kl_div` over softmaxes,
backward, fused Adam. Both sides train from the same weights on the same views, must end alike, and
take turns; a ratio is the median over the turns. About a minute on 2 CPU cores.
"""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.turns import benchmark_parser, median_ratio, record, show, start_row, take_turns
from fmce.config.distillation import distillation_preset
from fmce.data.augmentation import TrainBatches
from fmce.data.batch import PoolBatch
from fmce.distillation.data.dataset import load_distillation_data
from fmce.distillation.experiment import Experiment
from fmce.distillation.inputs import augmentation_of, frozen_teacher, teacher_precision
from fmce.engine.loop import fit
from fmce.engine.runtime import Runtime, make_runtime
from fmce.models.pspnet import segmentation_output
from fmce.seeding import seed_epoch
from fmce.tasks.distillation import distillation_step

STEPS, IMAGES = 6, 64


def main() -> None:
    """Measure, print and record."""
    parser = benchmark_parser(__doc__, repeats=15)
    parser.add_argument("--preset", default="scenes", choices=("scenes", "cifar10"))
    options = parser.parse_args()
    runtime = make_runtime(options.device)
    row = start_row("matching_step", options, runtime, "repeats", "clock", model=options.preset)
    row |= matching(options.preset, runtime, options.repeats, options.clock)
    show(row)
    record(row, options, key=("model",))


def matching(preset: str, runtime: Runtime, repeats: int, clock: str) -> dict[str, float]:
    """Time the same steps through `fit` and in bare loops."""
    config = distillation_preset(preset)
    few = replace(config.data, labelled=IMAGES, unlabelled=1, held_out=0, validation=1)
    config = replace(config, data=few)
    data = load_distillation_data(config.task, config.data)
    experiment = Experiment(config, Path(), data)  # its folder is not used
    teacher = experiment.make_teacher(pretrained=False).to(runtime.device)
    students = [
        experiment.make_student("function_matching", 1, pretrained=False).to(runtime.device)
        for _ in range(3)
    ]
    adams = [torch.optim.Adam(s.parameters(), lr=1e-3, fused=True) for s in students]
    pool = data.labelled.unlabelled().to(runtime.device)
    batches = TrainBatches(
        pool, augmentation_of(config, data), config.student_steps.batch_size, STEPS, seed=0
    )
    task = experiment.task
    step = distillation_step(task, students[0], frozen_teacher(task, teacher, config, runtime))
    in_bfloat16 = teacher_precision(config, runtime) == "bfloat16"
    ready = list(batches.epoch(1))

    def through_fit() -> None:
        fit(students[0], step, batches, adams[0], epochs=1, seed=0, runtime=runtime)

    def bare(number: int, source: Callable[[], Iterable[PoolBatch]]) -> Callable[[], None]:
        student, adam = students[number], adams[number]
        kind = runtime.device.type

        def loop() -> None:
            seed_epoch(0, 1)
            student.train()
            for batch in source():
                own = torch.autocast(kind, dtype=torch.bfloat16, enabled=in_bfloat16)
                with torch.inference_mode(), own:
                    wanted = logits_of(teacher, batch.images).float()
                ours = logits_of(student, batch.images)
                loss = divergence(ours, wanted)
                adam.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()

        return loop

    sides = [through_fit, bare(1, lambda: ready), bare(2, lambda: batches.epoch(1))]
    start = {name: p.detach().clone() for name, p in students[0].named_parameters()}
    with runtime.matmul_precision():
        for side in sides:
            side()
    check_alike(students, start)
    times = take_turns(sides, runtime, repeats, clock)
    return {
        "step_over_bare": median_ratio(times[0], times[1]),
        "step_over_bare_with_views": median_ratio(times[0], times[2]),
        "bare_step_seconds": statistics.median(times[1]) / STEPS,
    }


def logits_of(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return a network's logits, whichever task it has."""
    output = network(images)
    if isinstance(output, torch.Tensor) and output.ndim == 2:
        return output
    return segmentation_output(output, images).logits


def divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return KL(teacher‖student), mean over positions, by PyTorch's own functions."""
    positions = student.numel() // student.shape[1]
    target = teacher.log_softmax(1)
    total = F.kl_div(student.log_softmax(1), target, reduction="sum", log_target=True)
    return total / positions


def check_alike(students: list[torch.nn.Module], start: dict[str, torch.Tensor]) -> None:
    """Refuse ratios of trainings that did different work.

    The same KL is summed in two ways, and Adam turns the sign of a rounding error into a whole step,
    so weights agree but for a small share of how far they have moved.
    """
    first = dict(students[0].named_parameters())
    moved = sum((first[n] - start[n]).abs().sum() for n in first)
    for other in students[1:]:
        apart = sum((p - first[n]).abs().sum() for n, p in other.named_parameters())
        assert apart < 0.05 * moved, "both sides must have trained alike"


if __name__ == "__main__":
    main()
