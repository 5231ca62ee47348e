"""Cost of FMCE-Net++: its training step over the plain step, published form and cheaper ones.

    python -m benchmarks.ral_step [--model torchvision:shufflenet_v2_x1_0] [--batch-size 8]
                                  [--device auto] [--precision float32] [--repeats 15] [--clock wall]
                                  [--record]

At 224 px, where ShuffleNet v2 has maps of 1024×7×7 and ResNet-50 of 2048×7×7. Both sides run through
`fit`, with the same images, network and optimiser, and take turns; a ratio is the median over the
turns. A form that asks the oracle every n-th step is timed over complete rounds of n steps. The oracle's
weights are random: what it costs does not depend on them. Prints, and with --record puts into
results/benchmarks.jsonl, for each form
- step time over the plain step's (aim: one form at most 1.10): the median over the turns, and the
  fastest turn of one side over the fastest of the other, which other work on the machine disturbs less;
- its time in ms, and images/s;
- multiply-adds over the plain step's, which no machine's noise touches;
and once the published oracle's own time, forward and back to the maps, over what it was before outputs
that pooling drops were left out.

ShuffleNet v2 takes 3 minutes on an idle CPU core, ResNet-50 with `--batch-size 4` 15 minutes.
"""

import copy
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.turns import benchmark_parser, median_ratio, record, show, start_row, take_turns
from fmce.data.batch import ImageBatch
from fmce.engine.loop import StepOutput, fit
from fmce.engine.runtime import Runtime, make_runtime
from fmce.losses.auxiliary import fmcs_loss
from fmce.models.build import build_model, default_layer, feature_shape
from fmce.models.features import FeatureMaps, eval_mode
from fmce.models.fmce_net import FMCENet
from fmce.seeding import seed_epoch
from fmce.tasks.auxiliary_loss import ral_step
from fmce.tasks.classification import classification_step

SIZE, CLASSES, RAF = 224, 10, 0.9


@dataclass(frozen=True)
class LossVariant:
    """How the oracle is asked; the defaults are the published form."""

    oracle_every: int = 1
    oracle_batch_fraction: float = 1.0
    width: float = 1.0


FORMS = {
    "published": LossVariant(),
    "every 4": LossVariant(oracle_every=4),
    "half of the batch": LossVariant(oracle_batch_fraction=0.5),
    "quarter of the batch": LossVariant(oracle_batch_fraction=0.25),
    "width 0.25": LossVariant(width=0.25),
    "width 0.25, every 2": LossVariant(width=0.25, oracle_every=2),
    "width 0.25, half of the batch": LossVariant(width=0.25, oracle_batch_fraction=0.5),
    "width 0.25, every 4": LossVariant(width=0.25, oracle_every=4),
    "every 4, quarter of the batch": LossVariant(oracle_every=4, oracle_batch_fraction=0.25),
}


class Repeated:
    """The same images again and again, numbered like the steps of a training."""

    def __init__(self, images: Tensor, targets: Tensor, steps: int) -> None:
        """Take one batch and how many steps to make of it."""
        self.images, self.targets, self.steps = images, targets, steps

    def __len__(self) -> int:
        return self.steps

    def epoch(self, _epoch: int) -> Iterator[ImageBatch]:
        """Yield the batches."""
        for step in range(self.steps):
            yield ImageBatch(self.images, self.targets, torch.arange(len(self.targets)), step)


class Bench:
    """One network trained plainly and with an oracle, and the images for both."""

    def __init__(self, name: str, batch_size: int, runtime: Runtime, size: int = SIZE) -> None:
        """Build the network and its maps' shape, for images of `size` pixels a side."""
        seed_epoch(0, 0)
        self.runtime = runtime
        self.model = runtime.to_device(build_model(name, CLASSES))
        self.layer = default_layer(self.model, name)
        self.map_shape = feature_shape(self.model, self.layer, (3, size, size), runtime.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), fused=True)
        self.images = runtime.to_device(torch.randn(batch_size, 3, size, size))
        self.targets = torch.arange(batch_size, device=runtime.device) % CLASSES

    def oracle(self, width: float = 1.0) -> FMCENet:
        """Return a frozen FMCE-Net for the network's maps."""
        net = FMCENet(self.map_shape, width=width).eval().requires_grad_(False)
        return self.runtime.to_device(net)

    def plain(self, steps: int) -> None:
        """Train on the task alone."""
        self._fit(classification_step(self.model), steps)

    def with_oracle(self, form: LossVariant, oracle: nn.Module, steps: int) -> None:
        """Train in one form of FMCE-Net++."""
        with FeatureMaps(self.model, self.layer, keep_gradients=True) as maps:
            options = {
                "oracle_every": form.oracle_every,
                "oracle_batch_fraction": form.oracle_batch_fraction,
            }
            self._fit(ral_step(self.model, maps, self.layer, oracle, raf=RAF, **options), steps)  # type: ignore[arg-type]

    def operations(self, form: LossVariant, oracle: nn.Module) -> float:
        """Return a step's operations over the plain step's.

        A backward pass is taken for twice its forward pass where weights are trained, for once where
        they are frozen. Counting it directly fails: PyTorch's counter (2.14) takes the backward pass of a
        depthwise convolution for that of a dense one.
        """
        plain = 3 * counted(self.model, (3, SIZE, SIZE))
        asked = form.oracle_batch_fraction / form.oracle_every
        return 1 + 2 * asked * counted(oracle, self.map_shape) / plain

    def _fit(self, step: Callable[[ImageBatch], StepOutput], steps: int) -> None:
        batches = Repeated(self.images, self.targets, steps)
        options: dict[str, Any] = {"epochs": 1, "seed": 0, "runtime": self.runtime}
        fit(self.model, step, batches, self.optimizer, **options)


def main() -> None:
    """Measure, print and record."""
    parser = benchmark_parser(__doc__, repeats=15)
    parser.add_argument("--model", default="torchvision:shufflenet_v2_x1_0")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    options = parser.parse_args()
    runtime = make_runtime(options.device, options.precision)
    bench = Bench(options.model, options.batch_size, runtime)
    names = ("model", "precision", "batch_size", "repeats", "clock")
    row = start_row("ral_step", options, runtime, *names, image_size=SIZE)
    row["map_shape"] = list(bench.map_shape)
    row["oracle_after_over_before"] = oracle_saving(bench, options.repeats, options.clock)
    show(row)
    row["forms"] = {}
    for name in options.forms:
        form = row["forms"][name] = measured(bench, FORMS[name], options.repeats, options.clock)
        print(name.ljust(30), *(f"{key} {value:.3f}" for key, value in form.items()), flush=True)
        # After each form: large networks take long, and a kill must not lose them.
        record(row, options, key=("model", "precision", "batch_size"))


def measured(bench: Bench, form: LossVariant, repeats: int, clock: str) -> dict[str, float]:
    """Time a form against the plain step, both over complete rounds of the form's steps."""
    oracle, steps = bench.oracle(form.width), form.oracle_every
    ours, plain = take_turns(
        (lambda: bench.with_oracle(form, oracle, steps), lambda: bench.plain(steps)),
        bench.runtime,
        repeats,
        clock,
    )
    seconds = statistics.median(ours) / steps
    return {
        "step_over_plain": median_ratio(ours, plain),
        "fastest_over_fastest": min(ours) / min(plain),
        "operations_over_plain": bench.operations(form, oracle),
        "step_ms": 1000 * seconds,
        "plain_step_ms": 1000 * statistics.median(plain) / steps,
        "images_per_second": len(bench.images) / seconds,
    }


@torch.no_grad()
def counted(module: nn.Module, shape: Sequence[int]) -> int:
    """Count the operations of one image's forward pass, in convolutions and matrix products."""
    weight = next(module.parameters())
    with eval_mode(module), FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, *shape, dtype=weight.dtype, device=weight.device))
    return int(counter.get_total_flops())


def oracle_saving(bench: Bench, repeats: int, clock: str) -> float:
    """Time the published oracle, forward and back to the maps, against one that computes every output."""
    now = bench.oracle()
    before = copy.deepcopy(now)
    for layer in before.convolutions:
        if isinstance(layer, nn.Conv2d):
            layer.__class__ = nn.Conv2d
    maps = torch.rand(len(bench.images), *bench.map_shape, device=bench.runtime.device)

    def back_to_the_maps(oracle: nn.Module) -> Tensor:
        inputs = maps.clone().requires_grad_()
        with bench.runtime.autocast():
            loss = fmcs_loss(oracle(inputs))
        return torch.autograd.grad(loss, inputs)[0]

    with bench.runtime.matmul_precision():
        after, expected = back_to_the_maps(now), back_to_the_maps(before)
    # By the norm: in bfloat16 a tie between pooled values may send a single gradient elsewhere.
    rounding = 1e-4 if bench.runtime.precision == "float32" else 5e-2
    error = ((after - expected).norm() / expected.norm()).item()
    if not error < rounding:
        raise ValueError(
            f"the two oracles' gradients differ by {error:.2g} of their norm, more than {rounding:g}"
        )
    times = take_turns(
        (lambda: drop(back_to_the_maps(now)), lambda: drop(back_to_the_maps(before))),
        bench.runtime,
        repeats,
        clock,
    )
    return median_ratio(*times)


def drop(_value: object) -> None:
    """Take a result that only its time is wanted of."""


if __name__ == "__main__":
    main()
