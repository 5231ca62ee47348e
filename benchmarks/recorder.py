"""Cost of the recorder: an epoch with it over the same epoch without, memory, and size on disk.

    python -m benchmarks.recorder [--model torchvision:resnet18] [--image-size 64] [--images 10000]
                                  [--batch-size 64] [--probe 256] [--device auto] [--repeats 3] [--tiny] [--record]

Prints, and appends to results/benchmarks.jsonl with --record:
- an epoch with a recorder (5 modules, thinned checkpoints) over the same epoch of the same loop without one
  (aim: at most 1.02);
- the device memory that the recorder adds to an epoch's peak, over the probe's maps of one module (aim: at most 1;
  GPUs only: on a CPU the peak is not known by part);
- the size on disk of the clocks of 300 epochs of 10 modules (aim: at most 60 MB).

Both sides use the same weights and batches and take turns. `--tiny` takes a network and an epoch of seconds, to see
that it runs. On 2 CPU cores the default takes about half an hour.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.turns import benchmark_parser, median_ratio, record, show, start_row, take_turns
from fmce.engine.runtime import Runtime, make_runtime
from fmce.models.build import build_model
from fmce.models.features import FeatureMaps, eval_mode
from fmce.recorder.gram import gram_matrix, gram_triangle
from fmce.recorder.grams import MOST, EpochGrams, gram_epochs, gram_file, save_grams
from fmce.recorder.recorder import Recorder
from fmce.recorder.thinning import epochs_to_drop
from fmce.recorder.weights import SKETCH_SIZE
from fmce.seeding import seed_epoch

MODULES = {
    "torchvision:resnet18": ["layer1", "layer2", "layer3", "layer4", "fc"],
    "tiny": ["stem", "blocks.0", "blocks.1", "blocks.2", "head"],
}
_EPOCHS, _OUTPUTS = 300, 10


def main() -> None:
    """Measure, print and record."""
    parser = benchmark_parser(__doc__, repeats=3)
    parser.add_argument("--model", default="torchvision:resnet18", choices=MODULES)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--probe", type=int, default=256, help="samples")
    parser.add_argument("--tiny", action="store_true", help="only see that it runs")
    options = parser.parse_args()
    if options.tiny:
        options.model, options.image_size, options.images = "tiny", 16, 256
        options.probe, options.repeats = 32, 1
    runtime = make_runtime(options.device)
    names = ("model", "image_size", "images", "batch_size", "probe", "repeats", "clock")
    row = start_row("recorder", options, runtime, *names)
    row |= epoch_cost(options, runtime)
    row |= {"clocks_megabytes": clocks_size(options.probe, 20 if options.tiny else _EPOCHS)}
    show(row)
    if not options.tiny:
        record(row, options, key=("model", "image_size", "images"))


class Side:
    """A network and a plain training loop, with or without a recorder."""

    def __init__(self, options: argparse.Namespace, runtime: Runtime, folder: Path | None) -> None:
        """Build it with the same weights and batches each time."""
        seed_epoch(0, 0)
        size = (3, options.image_size, options.image_size)
        self.images = torch.randn(options.images, *size, device=runtime.device)
        self.targets = torch.randint(0, 10, (options.images,), device=runtime.device)
        self.model = build_model(options.model, 10).to(runtime.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), fused=True)
        self.batch_size, self.recorder = options.batch_size, None
        if folder is not None:
            self.probe = self.images[: options.probe]
            modules = MODULES[options.model]
            self.recorder = Recorder(folder, self.model, modules, self.probe, self.optimizer)

    def epoch(self) -> None:
        """Train one epoch."""
        self.model.train()
        steps: Sequence[Tensor] = torch.split(torch.arange(len(self.images)), self.batch_size)
        for index in steps:
            loss = F.cross_entropy(self.model(self.images[index]), self.targets[index])
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            if self.recorder is not None:
                self.recorder.step(loss, len(index))
        if self.recorder is not None:
            self.recorder.end_epoch()


def epoch_cost(options: argparse.Namespace, runtime: Runtime) -> dict[str, Any]:
    """Time an epoch with and without a recorder, and on a GPU compare their peaks of memory."""
    with tempfile.TemporaryDirectory() as folder:
        plain = Side(options, runtime, None)
        watched = Side(options, runtime, Path(folder) / "run")
        sides = (watched.epoch, plain.epoch)
        with_times, without_times = take_turns(sides, runtime, options.repeats, options.clock)
        pairs = zip(plain.model.parameters(), watched.model.parameters(), strict=True)
        # A GPU adds up in no fixed order.
        alike = runtime.device.type != "cpu" or all(torch.equal(a, b) for a, b in pairs)
        assert alike, "both sides must have trained alike"
        found: dict[str, Any] = {
            "epoch_over_plain": median_ratio(with_times, without_times),
            "plain_epoch_seconds": min(without_times),
        }
        if runtime.device.type == "cuda":
            peaks = [_peak(side) for side in sides]
            first = MODULES[options.model][0]
            maps = _maps_bytes(watched.model, first, watched.probe)
            found["added_memory_over_maps"] = (peaks[0] - peaks[1]) / maps
        assert watched.recorder is not None
        watched.recorder.close()
    return found


def _peak(epoch: Any) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    epoch()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


@torch.no_grad()
def _maps_bytes(model: nn.Module, name: str, probe: Tensor) -> int:
    with FeatureMaps(model, name) as maps, eval_mode(model):
        model(probe)
    return maps.single(name).nbytes


def clocks_size(samples: int, epochs: int) -> float:
    """Return the megabytes that the Gram matrices and sketches of a training take at its end."""
    triangle = gram_triangle(gram_matrix(torch.randn(samples, 64)))
    names = [f"module{i}" for i in range(_OUTPUTS)]
    sketches = {name: torch.zeros(SKETCH_SIZE, dtype=torch.float64).numpy() for name in names}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        for epoch in range(epochs + 1):
            save_grams(run, epoch, EpochGrams(dict.fromkeys(names, triangle), sketches))
            kept = {e: float(e) for e in gram_epochs(run) if e}
            for old in epochs_to_drop(kept, MOST):
                gram_file(run, old).unlink()
        return sum(file.stat().st_size for file in run.rglob("*.safetensors")) / 1e6


if __name__ == "__main__":
    main()
