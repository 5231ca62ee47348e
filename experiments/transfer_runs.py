"""The trainings of the transfer study: which there are, how one is trained, and what is kept of it.

Of a training nothing is kept but numbers: the statistics of each module at some epochs, for two probes, what they are
compared with, and the losses. No checkpoint is written.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from experiments.transfer_nets import ARCHITECTURES, SOURCES, Images, load_images
from fmce.files import replacing
from fmce.recorder.gram import drift_between
from fmce.recorder.probe import Probe
from fmce.recorder.statistics import Statistics, module_statistics, twin_statistics
from fmce.scoring.history import ModuleHistory
from fmce.seeding import epoch_seed

Array = NDArray[np.float64]
PROBE, CLOCK, VIEWS = 768, 256, 2


@dataclass(frozen=True)
class Training:
    """One training of the study."""

    data: str = "digits"
    architecture: str = "tiny"
    width: int = 16
    seed: int = 0
    optimizer: str = "adam"
    rate: float = 1e-3
    epochs: int = 30
    schedule: str = "cosine"
    batch: int = 64

    @property
    def recipe(self) -> str:
        """Optimizer, rate, epochs, schedule and batch."""
        return f"{self.optimizer}-{self.rate:g}-{self.epochs}-{self.schedule}-{self.batch}"

    @property
    def name(self) -> str:
        """What the run is called."""
        return f"{self.data}_{self.architecture}{self.width or ''}_{self.recipe}_seed{self.seed}"

    @property
    def about(self) -> dict[str, str]:
        """What a scorer knows about the run."""
        source = SOURCES[self.data]
        some = "" if source.classes is None else ":{}-{}".format(*source.classes)
        return {
            "data": f"{source.name}{some} {source.side}px",
            "architecture": self.architecture,
            "width": f"{self.architecture} {self.width}",
            "recipe": self.recipe,
        }


_SGD: dict[str, Any] = {"optimizer": "sgd", "rate": 0.05}
_PLAIN, _VIT = {"architecture": "plain", "width": 24}, {"architecture": "vit", "width": 48}
_BARE, _SHUFFLE = (
    {"architecture": "plain-no-norm", "width": 24},
    {"architecture": "shufflenet", "width": 0},
)
_MIXER, _MOBILE = {"architecture": "mixer", "width": 48}, {"architecture": "mobilenet", "width": 0}
_DENSE: dict[str, Any] = {"architecture": "densenet", "width": 12}
_RESNET: dict[str, Any] = {"architecture": "resnet18", "width": 0}
_WIDE_STEM: dict[str, Any] = {"architecture": "resnet18-stem3", "width": 0}


def _of(*changes: Mapping[str, Any]) -> list[Training]:
    return [Training(**change) for change in changes]


FITTED: Sequence[Training] = _of(
    {"seed": 0},
    {"data": "mnist"},
    {"data": "fashion"},
    {"data": "cifar10"},
    {"data": "cifar100-first10"},
    _VIT,
    _PLAIN,
    _BARE,
    {**_SHUFFLE, "epochs": 50},
    {"width": 8},
    {"width": 24},
    {"data": "fashion", "width": 8},
    {**_SGD},
    {"rate": 3e-3, "epochs": 20},
    {"data": "fashion", **_SGD},
    {"data": "mnist", **_SGD, "epochs": 40},
    {"data": "fashion", **_VIT},
    {"data": "cifar10", **_VIT},
    {"data": "cifar10", **_PLAIN},
    {"data": "fashion", **_SHUFFLE, "epochs": 50},
    {"data": "cifar100-first10", **_VIT},
    {"data": "cifar10", **_SHUFFLE, "epochs": 50},
    {"data": "cifar100-first10", **_SHUFFLE, "epochs": 50},
    {"seed": 1},
    {"data": "cifar10", "seed": 1},
    {"data": "fashion", "seed": 1},
    {"data": "mnist", **_VIT},
    {"data": "mnist", **_BARE},
    {"data": "cifar10", "epochs": 75},
    {"epochs": 80},
    {"data": "cifar10", "width": 24},
    {"data": "cifar10", **_SGD, "schedule": "step"},
    {"data": "mnist", "rate": 3e-3, "schedule": "constant"},
    {**_SGD, "rate": 0.02, "schedule": "constant"},
    {**_VIT, "seed": 1, "epochs": 60},
    {"data": "fashion", **_VIT, "seed": 1, "rate": 3e-3, "width": 32},
    {"data": "cifar100-first10", **_PLAIN},
    {"data": "mnist", "seed": 1, "width": 8},
    {"data": "cifar10", **_VIT, "seed": 1, **_SGD, "epochs": 40},
    {"data": "cifar10", **_BARE},
    {"data": "fashion", **_PLAIN, "width": 12},
    {"schedule": "step", "width": 12},
    {"data": "cifar100-first10", "seed": 1, "width": 8},
    {"data": "fashion", "epochs": 20, "rate": 2e-3, "width": 12},
    {"data": "cifar10", "rate": 3e-3, "epochs": 40, "schedule": "constant"},
    {"data": "fashion", **_SGD, "rate": 0.02, "epochs": 40, "schedule": "linear"},
    {"rate": 2e-3, "epochs": 50, "schedule": "linear"},
    {"data": "mnist", **_SGD, "rate": 0.1, "schedule": "step"},
    {**_VIT, **_SGD, "epochs": 40, "schedule": "step"},
    {"data": "cifar10", **_PLAIN, "rate": 3e-3, "epochs": 40, "schedule": "step"},
    {"data": "fashion", **_BARE, **_SGD, "rate": 0.02, "schedule": "constant"},
    {"data": "cifar100-first10", **_SGD, "epochs": 40, "schedule": "linear"},
    {**_SHUFFLE, **_SGD, "epochs": 40},
    {"data": "mnist", **_PLAIN, "rate": 2e-3, "epochs": 25, "schedule": "step"},
    {"data": "fashion", "rate": 5e-3, "schedule": "constant"},
    {"data": "cifar10", **_VIT, "rate": 5e-4, "epochs": 45, "schedule": "linear"},
)
"""Trainings that the scorer is fitted on, and that choices were made on by leaving some of them out."""

UNSEEN: Mapping[str, Sequence[Training]] = {
    "seed": _of(
        {"seed": 10},
        {"data": "fashion", "seed": 10},
        {"data": "cifar10", "seed": 10},
        {"seed": 10, **_VIT},
        {"data": "mnist", "seed": 10},
        {"data": "cifar100-first10", "seed": 11},
        {"seed": 11, **_PLAIN},
        {"data": "fashion", "seed": 11, **_VIT},
        {"data": "fashion", "seed": 11, "width": 8},
        {"data": "mnist", "seed": 11, **_BARE},
    ),
    "width": _of(
        {"width": 32, "seed": 20},
        {"data": "fashion", "width": 32, "seed": 20},
        {**_VIT, "width": 64, "seed": 20},
        {"width": 10, "seed": 20},
        {"data": "cifar10", "width": 10, "seed": 20},
        {"data": "mnist", "width": 32, "seed": 21},
        {"data": "cifar10", "width": 20, "seed": 21},
        {**_PLAIN, "width": 36, "seed": 21},
        {"data": "fashion", **_VIT, "width": 24, "seed": 21},
        {"data": "cifar100-first10", "width": 20, "seed": 21},
    ),
    "recipe": _of(
        {"seed": 30, "optimizer": "adamw", "rate": 2e-3, "epochs": 40, "schedule": "linear"},
        {"seed": 30, "data": "fashion", "optimizer": "plain-sgd", "rate": 0.2, "schedule": "step"},
        {"seed": 30, "data": "cifar10", **_SGD, "rate": 0.1, "epochs": 40},
        {"seed": 30, "data": "mnist", **_VIT, "optimizer": "adamw", "epochs": 50},
        {"seed": 30, "rate": 5e-3, "epochs": 45, "schedule": "constant"},
        {"seed": 31, "data": "cifar10", "optimizer": "adamw", "epochs": 50, "schedule": "linear"},
        {
            "seed": 31,
            "data": "mnist",
            "optimizer": "plain-sgd",
            "rate": 0.1,
            "schedule": "constant",
        },
        {"seed": 31, "data": "fashion", "rate": 5e-4, "epochs": 35, "schedule": "linear"},
        {"seed": 31, **_PLAIN, **_SGD, "rate": 0.02, "epochs": 70, "schedule": "step"},
        {"seed": 31, "data": "fashion", **_VIT, "optimizer": "adamw", "rate": 3e-3, "epochs": 25},
    ),
    "data": _of(
        {"data": "cifar100-other20", "seed": 40},
        {"data": "imagenette", "seed": 40},
        {"data": "imagenette", "seed": 40, **_VIT},
        {"data": "cifar100-other20", "seed": 40, **_PLAIN},
        {"data": "imagenette", "seed": 40, **_PLAIN},
        {"data": "cifar100-other20", "seed": 41, **_VIT},
        {"data": "cifar100-last20", "seed": 41},
        {"data": "cifar100-last20", "seed": 41, **_BARE},
        {"data": "imagenette", "seed": 41, "width": 8},
        {"data": "imagenette", "seed": 41, **_SHUFFLE, "epochs": 50},
    ),
    "architecture": _of(
        {"seed": 50, **_MIXER},
        {"data": "fashion", "seed": 50, **_MIXER},
        {"data": "cifar10", "seed": 50, **_MIXER, "epochs": 50},
        {"data": "fashion", "seed": 50, **_MOBILE, "epochs": 50},
        {"data": "cifar10", "seed": 50, **_MOBILE, "epochs": 40},
        {"data": "mnist", "seed": 51, **_MIXER},
        {"seed": 51, **_MOBILE, "epochs": 50},
        {"data": "fashion", "seed": 51, **_DENSE},
        {"data": "cifar10", "seed": 51, **_DENSE},
        {"data": "cifar100-first10", "seed": 51, **_DENSE},
    ),
    "larger network": _of(
        {"data": "cifar10-32px-2000", "seed": 60, **_RESNET, "epochs": 24, "batch": 128},
        {"data": "cifar10-32px-2000", "seed": 61, **_RESNET, **_SGD, "epochs": 24, "batch": 128},
    ),
}
"""Protocol → trainings that no table was fitted on, new in that respect; the first five had been looked at before."""

LARGE: Sequence[Training] = _of(
    {"data": "cifar10-32px", "seed": 60, **_WIDE_STEM, **_SGD, "batch": 128},
    {"data": "cifar10-32px", "seed": 61, **_WIDE_STEM, "epochs": 40, "batch": 128},
)
"""Larger ones, for a GPU; no choice has seen them either."""

SMALL: Sequence[Training] = [replace(one, epochs=min(one.epochs, 20)) for one in FITTED[:7]]
SMALL_UNSEEN: Mapping[str, Sequence[Training]] = {
    "seed": _of({"seed": 10, "epochs": 20}),
    "width": _of({"seed": 20, "width": 20, "epochs": 20}),
    "recipe": _of({"seed": 30, **_SGD, "epochs": 20}),
    "data": _of({"seed": 40, "data": "imagenette", "epochs": 20}),
    "architecture": _of({"seed": 50, **_MIXER, "epochs": 20}),
}


def measured_epochs(epochs: int) -> list[int]:
    """Return the epochs whose statistics are kept: densely at first, where most of the progress is made.

    >>> measured_epochs(30)
    [1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 18, 20, 23, 26, 29, 30]
    """
    kept, epoch = [], 1.0
    while epoch <= epochs:
        kept.append(int(epoch))
        epoch += 1 if epoch < 6 else 2 if epoch < 20 else 3 if epoch < 40 else 5
    return sorted({*kept, epochs})


@dataclass(frozen=True)
class StoredRun:
    """What is kept of a training.

    Attributes:
        training: What was trained.
        losses: (M,) training loss of each epoch.
        epochs: (E,) epochs that were measured.
        modules: Names, from the first to the last.
        names: Names of the statistics.
        values: (V,L,E,S) of V probes, L modules, E epochs and S statistics.
        twins: (V,L,S).
        drift: (L,E) 1 − CKA to the last epoch on fixed images.
        steps: (L,E) 1 − CKA to the epoch measured before, per epoch.
        head: Name → (E,) of the network's own head on the first probe: "loss" (log) and "error" (log).
        seconds: That training and measuring took.
        device: Where.
    """

    training: Training
    losses: Array
    epochs: NDArray[np.int64]
    modules: tuple[str, ...]
    names: tuple[str, ...]
    values: Array
    twins: Array
    drift: Array
    steps: Array
    head: Mapping[str, Array] = field(default_factory=dict)
    seconds: float = 0.0
    device: str = "cpu"

    def histories(self, *, views: int = 1) -> list[ModuleHistory]:
        """Return the history of each module, from the first to the last; statistics are the mean of the probes."""
        values, twins = self.values[:views].mean(0), self.twins[:views].mean(0)
        return [
            ModuleHistory(
                run=self.training.name,
                module=module,
                epochs=self.epochs,
                values={name: values[n, :, s] for s, name in enumerate(self.names)},
                twin={name: float(twins[n, s]) for s, name in enumerate(self.names)},
                losses=self.losses,
                planned=self.training.epochs,
                about=self.training.about
                | {"place": "last" if n == len(self.modules) - 1 else "earlier"},
            )
            for n, module in enumerate(self.modules)
        ]


def train(training: Training, folder: Path) -> Path:
    """Train, measure and store one run; one that is stored already is left as it is."""
    file = folder / f"{training.name}.npz"
    if file.exists():
        return file
    began = time.perf_counter()
    images = load_images(training.data, folder / "images")
    build, modules = ARCHITECTURES[training.architecture]
    device = torch.device("cpu")
    if training in LARGE and torch.cuda.is_available():
        device = torch.device("cuda")
    torch.manual_seed(training.seed)
    model = build(images.num_classes, training.width, images.images.shape[-1]).to(device)
    study = _Study(model, modules, images, device, training.seed)
    losses = _trained(model, training, images, device, study)
    arrays: dict[str, Any] = study.arrays() | {"losses": np.array(losses)}
    about = asdict(training) | {
        "modules": modules,
        "names": study.names,
        "seconds": round(time.perf_counter() - began, 1),
        "device": str(device),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(file) as beside, open(beside, "wb") as opened:
        np.savez_compressed(opened, **arrays, about=np.array(json.dumps(about)))
    return file


def load_run(file: Path) -> StoredRun:
    """Read a stored run."""
    with np.load(file) as arrays:
        about = json.loads(str(arrays["about"]))
        parts = {name: arrays[name] for name in arrays.files if name != "about"}
    fields = Training.__dataclass_fields__
    head = {n.removeprefix("head_"): parts.pop(n) for n in list(parts) if n.startswith("head_")}
    return StoredRun(
        Training(**{name: about[name] for name in fields}),
        modules=tuple(about["modules"]),
        names=tuple(about["names"]),
        head=head,
        seconds=about["seconds"],
        device=about["device"],
        **{n: v if n == "epochs" else v.astype(np.float64) for n, v in parts.items()},
    )


def load_runs(folder: Path, trainings: Sequence[Training]) -> list[StoredRun]:
    """Read those of the trainings that are stored."""
    files = [folder / f"{one.name}.npz" for one in trainings]
    return [load_run(file) for file in files if file.exists()]


class _Study:
    """Measures one network as it trains."""

    def __init__(
        self,
        model: nn.Module,
        modules: Sequence[str],
        images: Images,
        device: torch.device,
        seed: int,
    ) -> None:
        self.model, self.modules = model, list(modules)
        draw = torch.Generator().manual_seed(1000 + seed)
        self.views: list[tuple[Tensor, Tensor]] = []
        for _ in range(VIEWS):
            index = torch.randperm(len(images.targets), generator=draw)[:PROBE]
            varied = images.transform(images.images[index], draw)
            self.views.append((varied.to(device), images.targets[index].to(device)))
        fixed = images.transform(images.images[:CLOCK]).to(device)
        self.clock = Probe(model, self.modules, fixed)
        found = [twin_statistics(model, self.modules, *view) for view in self.views]
        self.names = sorted(found[0][self.modules[0]])
        self.twins = [self._row(one) for one in found]
        self.epochs: list[int] = []
        self.values: list[list[NDArray[np.float32]]] = []
        self.triangles: list[list[Any]] = []
        self.head: list[tuple[float, float]] = []

    def _row(self, found: Statistics) -> NDArray[np.float32]:
        return np.array(
            [[found[m][name] for name in self.names] for m in self.modules], dtype=np.float32
        )

    def measure(self, epoch: int) -> None:
        self.epochs.append(epoch)
        self.values.append(
            [self._row(module_statistics(self.model, self.modules, *view)) for view in self.views]
        )
        facts = self.clock.measure()
        self.triangles.append([facts[m].outputs[m].triangle for m in self.modules])
        images, targets = self.views[0]
        self.model.eval()
        with torch.no_grad():
            logits = torch.cat([self.model(part) for part in torch.split(images, 128)])
        loss = float(F.cross_entropy(logits, targets))
        errors = float((logits.argmax(1) != targets).sum())
        self.head.append(
            (math.log(max(loss, 1e-12)), math.log((errors + 0.5) / (len(targets) + 1)))
        )
        self.model.train()

    def arrays(self) -> dict[str, NDArray[Any]]:
        gaps = np.diff(self.epochs, prepend=0)
        drift, steps = (np.full((len(self.modules), len(self.epochs)), np.nan) for _ in range(2))
        for n in range(len(self.modules)):
            kept = [row[n] for row in self.triangles]
            for e, triangle in enumerate(kept):
                if triangle is not None and kept[-1] is not None:
                    drift[n, e] = drift_between(triangle, kept[-1])
                if e and triangle is not None and kept[e - 1] is not None:
                    steps[n, e] = drift_between(kept[e - 1], triangle) / gaps[e]
        loss, error = np.array(self.head).T
        return {
            "epochs": np.array(self.epochs),
            "values": np.array(self.values).transpose(1, 2, 0, 3),
            "twins": np.array(self.twins),
            "drift": drift.astype(np.float32),
            "steps": steps.astype(np.float32),
            "head_loss": loss.astype(np.float32),
            "head_error": error.astype(np.float32),
        }


def _trained(
    model: nn.Module, training: Training, images: Images, device: torch.device, study: _Study
) -> list[float]:
    """Train, and return the mean loss of each epoch."""
    optimizer = _optimizer(model, training)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: _share(training, done))
    stored, targets = images.images.to(device), images.targets.to(device)
    measured, losses = set(measured_epochs(training.epochs)), []
    for epoch in range(1, training.epochs + 1):
        draw = torch.Generator(device).manual_seed(epoch_seed(training.seed, epoch))
        model.train()
        order, total, seen = torch.randperm(len(targets), generator=draw, device=device), 0.0, 0
        sums = torch.zeros((), device=device)
        for index in torch.split(order, training.batch):
            if len(index) < 2:  # batch norm needs two
                continue
            loss = F.cross_entropy(model(images.transform(stored[index], draw)), targets[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            sums += loss.detach() * len(index)
            seen += len(index)
        total = float(sums) / seen
        if not math.isfinite(total):
            raise ValueError(f"{training.name}: the loss of epoch {epoch} is {total}")
        losses.append(total)
        schedule.step()
        if epoch in measured:
            study.measure(epoch)
    return losses


def _optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    parameters = list(model.parameters())
    if training.optimizer == "adam":
        return torch.optim.Adam(parameters, training.rate)
    if training.optimizer == "adamw":
        return torch.optim.AdamW(parameters, training.rate, weight_decay=0.05)
    momentum = 0.0 if training.optimizer == "plain-sgd" else 0.9
    return torch.optim.SGD(parameters, training.rate, momentum=momentum, weight_decay=5e-4)


def _share(training: Training, done: int) -> float:
    """Return the share of the peak rate after so many epochs."""
    place = done / training.epochs
    return {
        "cosine": (1 + math.cos(math.pi * place)) / 2,
        "linear": 1 - place,
        "step": 0.1 ** ((place >= 0.5) + (place >= 0.75)),
        "constant": 1.0,
    }[training.schedule]
