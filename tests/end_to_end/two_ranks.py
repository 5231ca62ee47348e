"""What each of two processes does in test_two_processes.py: several trainings in one start of torchrun.

torchrun --nproc-per-node=2 tests/end_to_end/two_ranks.py FOLDER ORACLE
"""

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from fmce.config.distillation import distillation_preset
from fmce.config.io import with_settings
from fmce.config.run import FMCENetConfig, RunConfig
from fmce.console.log import show_messages
from fmce.data.batch import ImageBatches
from fmce.distillation.distill import distill
from fmce.engine.distributed.ranks import ALONE
from fmce.engine.loop import StepOutput, fit
from fmce.engine.runtime import make_runtime
from fmce.feature_maps.source import MapBatches
from fmce.maturity.train_classifier import train_classifier
from fmce.maturity.train_fmce_net import train_fmce_net
from fmce.runs.run import open_run
from fmce.runs.setup import TrainingSetup
from fmce.seeding import seed_epoch

EPOCHS = 4
# 3 phases of 943 images in batches of 64: the last one has 13 maps, 6 and 7 of them.
NET = FMCENetConfig(epochs=2, width=0.25, storage="recompute", shuffle_buffer=600)
# 1,257 images in batches of 50: the last one has 7, so the two shares of a batch differ in size.
PLAIN = (
    *("data.image_size=8", "data.shift=1", "data.flip=true", "model.options={width: 4}"),
    *(f"train.epochs={EPOCHS}", "train.batch_size=50", "train.seed=1"),
    *("phases.num_phases=2", "phases.threshold=0.5", "phases.smoothing=none", "phases.window=1"),
    *("phases.if_not_converged=last", "fmce_net.epochs=2", "fmce_net.batch_size=50"),
)


def config(*settings):
    return with_settings(RunConfig(), [*PLAIN, *settings])


def trainings(oracle):
    """Return each training's config by its name."""
    supervised = [f"auxiliary.oracle={oracle}", "auxiliary.raf=0.8"]
    matching = with_settings(open_run(oracle).config, ["train.seed=1", f"train.epochs={EPOCHS}"])
    return {
        "plain": config(),
        "ral": config("auxiliary.kind=ral", *supervised),
        "feature_matching": with_settings(
            matching, ["auxiliary.kind=feature_matching", *supervised]
        ),
    }


def matching():
    """Return experiments of function matching by name; shares of their batches differ in size."""
    digits = [
        "data={labelled: 60, unlabelled: 100, held_out: 11, validation: 41, height: 8, width: 8}",
        *("teacher={name: tiny, options: {width: 8}}", "student={name: tiny, options: {width: 4}}"),
        "teacher_steps={steps: 4, batch_size: 17, interval: 2}",
        "student_steps={steps: 4, batch_size: 17, interval: 2, mixup: true}",
        *("arms=[supervised, function_matching]", "seeds=[1]"),
    ]
    detect = [
        "data={height: 32, width: 48, labelled: 8, unlabelled: 8, held_out: 3, validation: 5}",
        "teacher_steps={steps: 2, batch_size: 5, interval: 1}",
        "student_steps={steps: 2, batch_size: 5, interval: 1}",
        *("arms=[function_matching]", "seeds=[1]"),
    ]
    return {
        "digits": with_settings(distillation_preset("digits"), digits),
        "detect": with_settings(distillation_preset("scenes-detect"), detect),
    }


class Shares:
    """Uneven batches of float64 rows; rank 1's share is twice that of rank 0."""

    def __init__(self, ranks):
        self.ranks = ranks

    def __len__(self):
        return 4

    def epoch(self, epoch):
        draw = torch.Generator().manual_seed(epoch)
        for size in (9, 9, 9, 4):
            x = torch.randn(size, 3, 5, 5, dtype=torch.float64, generator=draw) + 2
            rows = slice(None)
            if self.ranks.world_size > 1:
                rows = slice(0, size // 3) if self.ranks.is_main else slice(size // 3, None)
            yield x[rows]


def fit_in_double(runtime):
    """Train a network with batch norm and dropout in float64, where two processes must agree to many digits."""
    torch.manual_seed(0 if runtime.ranks.is_main else 99)  # the first rank's weights count
    # No bias before batch norm: its gradient is rounding alone, which Adam divides by its own size.
    model = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.3)),
        *(nn.Flatten(), nn.Dropout(0.2)),
        nn.Linear(36, 6, bias=False),
        *(nn.BatchNorm1d(6, momentum=None, affine=False), nn.Linear(6, 2)),
    ).double()

    def step(x):
        weight = (x[:, 0, 0, 0] > 1.5).double()  # as of labelled pixels
        errors = (model(x) - x.mean((2, 3))[:, :2]).square().sum(1)
        loss = (errors * weight).sum() / weight.sum().clamp(min=1)
        return StepOutput(loss, len(x), {"first": x[:, 0].sum()}, weight.sum())

    results = []
    fit(
        model,
        step,
        Shares(runtime.ranks),
        torch.optim.Adam(model.parameters(), lr=0.02),
        epochs=3,
        seed=0,
        runtime=runtime,
        on_epoch_end=results.append,
    )
    assert not any("forward" in vars(m) for m in model.modules()), "the model is not as found"
    losses = [(r.loss, r.means["first"]) for r in results]
    return losses, model.state_dict()


class InDouble:
    """The digits' own batches in float64."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def epoch(self, epoch):
        for batch in self.batches.epoch(epoch):
            yield batch._replace(images=batch.images.double())


def digits_in_double(runtime):
    """Train the digits' network on the digits' batches in float64.

    In float32 one activation that rounds to the other side of a ReLU moves a training of so few weights
    by more than a curve's fifth digit.
    """
    setup = TrainingSetup(config())
    seed_epoch(1, 0)
    model = setup.new_model().double()

    def step(batch):
        loss = F.cross_entropy(model(batch.images), batch.targets)
        return StepOutput(loss, len(batch.targets), {})

    plain = ImageBatches(
        setup.data.train,
        setup.transform,
        50,
        seed=1,
        device=runtime.device,
        rank_of=runtime.ranks.rank_of,
    )
    losses = []
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    options = {"epochs": 2, "seed": 1, "runtime": runtime}
    options["on_epoch_end"] = lambda result: losses.append(result.loss)
    fit(model, step, InDouble(plain), optimizer, **options)
    return losses, model.state_dict()


def train_net_counting(run, runtime):
    """Train an FMCE-Net from recomputed maps; return how many maps this process got in training."""
    counted = []
    batches = MapBatches.epoch

    def counting(self, epoch):
        for batch in batches(self, epoch):
            counted.append(len(batch.phases))
            yield batch

    MapBatches.epoch = counting
    try:
        train_fmce_net(open_run(run), "image", config=NET, runtime=runtime)
    finally:
        MapBatches.epoch = batches
    return sum(counted)


def main():
    folder, oracle = Path(sys.argv[1]), Path(sys.argv[2])
    show_messages()
    runtime = make_runtime("cpu", together=True)
    assert (runtime.ranks.world_size, runtime.ranks is ALONE) == (2, False)
    results = {"rows": fit_in_double(runtime), "digits": digits_in_double(runtime)}
    torch.save(results, folder / f"double{runtime.ranks.rank}.pt")
    for name, chosen in trainings(oracle).items():
        train_classifier(chosen, folder / name, runtime=runtime)
    for name, chosen in matching().items():
        distill(chosen, folder / "matched" / name, runtime=runtime)
    maps = train_net_counting(folder / "net", runtime)
    (folder / f"maps{runtime.ranks.rank}.json").write_text(json.dumps(maps))
    train_classifier(config(), folder / "begun", runtime=runtime)  # a process alone began it
    train_classifier(config(), folder / "plain", runtime=runtime)  # finished already


if __name__ == "__main__":
    main()
