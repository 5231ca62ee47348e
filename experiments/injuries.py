"""Which module is broken? Twelve injuries of one module each, and what names it first.

    python -m experiments.injuries [--small] [--seeds 0 1 2 3 4] [--nets NET …]

Three nets of five modules learn the digits with a recorder. Three injuries act while a net trains for four epochs;
nine are done to the last checkpoint of a healthy training, which is then checked. Asked are the alarms, the clocks
(Gram matrices of the probe alone, against the net's own record, one that ends four epochs before, or other seeds'
runs), the maturity statistics (of the same probe with its classes, against other seeds' runs), the norms of the weights
(against other seeds' last checkpoints), and two baselines. Every seed injures another module. A row per net and seed
goes to results/recorder.jsonl. Takes about 15 minutes; --small two.
"""

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.recorded import Part, classification_parts, train_epoch
from experiments.script import options_parser, record, run_script
from fmce.models.features import find_module
from fmce.models.tiny import TinyNet
from fmce.recorder.alarms import KINDS, Alarm, find_alarms
from fmce.recorder.check import compare_weights
from fmce.recorder.check_checkpoint import check_checkpoint
from fmce.recorder.gram import Triangle, drift_between, gram_matrix, gram_triangle, pooled
from fmce.recorder.grams import load_grams
from fmce.recorder.peers import FEWEST_PEERS
from fmce.recorder.probe import Probe
from fmce.recorder.recorder import Recorder
from fmce.recorder.statistics import Statistics, module_statistics, twin_statistics
from fmce.runs.checkpoint import load_weights
from fmce.runs.log import read_done, read_metrics
from fmce.scoring.class_statistics import CLASS_STATISTICS

State = dict[str, Tensor]
Injure = Callable[[nn.Module, torch.Generator], None]
EPOCHS, SHORT, STALE, OLD, SEEDS, PROBE = 12, 4, 2, 8, (0, 1, 2, 3, 4), 256
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
# A statistic that tells a trained module from a re-initialised one by less says nothing of a fall, nor by less than so
# many standard deviations of healthy runs.
LEAST_SPAN, NOISE = 0.1, 3.0


def plain() -> nn.Module:
    """Build four convolutions with norms, and a head."""
    stages, widths = OrderedDict[str, nn.Module](), (3, 8, 16, 16, 32)
    for number, (before, after) in enumerate(pairwise(widths)):
        convolution = nn.Conv2d(before, after, 3, stride=1 + number // 2, padding=1)
        stages[f"stage{number}"] = nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())
    return nn.Sequential(stages | {"head": nn.Sequential(nn.Flatten(), nn.Linear(128, 10))})


def perceptron() -> nn.Module:
    """Build four fully connected layers with norms, and a head."""
    layers, widths = OrderedDict[str, nn.Module](), (192, 64, 48, 48, 32)
    for number, (before, after) in enumerate(pairwise(widths)):
        parts = (nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU())
        layers[f"layer{number}"] = nn.Sequential(nn.Flatten(), *parts)
    return nn.Sequential(layers | {"head": nn.Linear(32, 10)})


NETS: Mapping[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "residual": (
        lambda: TinyNet(10, width=8),
        ("stem", "blocks.0", "blocks.1", "blocks.2", "head"),
    ),
    "plain": (plain, (*(f"stage{n}" for n in range(4)), "head")),
    "perceptron": (perceptron, (*(f"layer{n}" for n in range(4)), "head")),
}


@torch.no_grad()
def _reinitialise(part: nn.Module, draw: torch.Generator) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(draw.initial_seed())
        for layer in part.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.BatchNorm1d | nn.BatchNorm2d):
                layer.reset_parameters()


@torch.no_grad()
def _no_statistics(part: nn.Module, _: torch.Generator) -> None:
    for layer in part.modules():
        if isinstance(layer, _NORMS):
            layer.reset_running_stats()


@torch.no_grad()
def _biases(part: nn.Module, _: torch.Generator) -> None:
    for layer in part.modules():
        if isinstance(layer, _NORMS):
            layer.bias.fill_(-5)


@torch.no_grad()
def _half(part: nn.Module, _: torch.Generator) -> None:
    for parameter in part.parameters():
        parameter[: len(parameter) // 2] = 0


@torch.no_grad()
def _times_4(part: nn.Module, _: torch.Generator) -> None:
    for parameter in part.parameters():
        parameter.mul_(4)


@torch.no_grad()
def _noise(part: nn.Module, draw: torch.Generator) -> None:
    for weight in part.parameters():
        if weight.ndim > 1:
            noise = torch.randn(weight.shape, generator=draw)
            weight.add_(weight.square().mean().sqrt() * noise)


@torch.no_grad()
def _int4(part: nn.Module, _: torch.Generator) -> None:
    for weight in part.parameters():
        if weight.ndim > 1:
            scale = weight.abs().max() / 7
            weight.copy_((weight / scale).round() * scale)


TRAINING = ("missing from the optimizer", "learning rate 0", "frozen by mistake")
NOT_LOADED, STALE_NAME = "backbone prefix not loaded", "stale checkpoint"
# What is done to a checkpoint; the head has no norms.
CHECKPOINT: Mapping[str, Injure] = {
    "weights re-initialised": _reinitialise,
    NOT_LOADED: _reinitialise,
    "norm statistics of initialisation": _no_statistics,
    "bias −5": _biases,
    "half the channels zeroed": _half,
    "weights × 4": _times_4,
    "noise at 0 dB": _noise,
    "int4 rounding": _int4,
    STALE_NAME: lambda *_: None,
}
INJURIES = (*TRAINING, *CHECKPOINT)
_WITHOUT_HEAD = ("norm statistics of initialisation", "bias −5")


def main(argv: Sequence[str] | None = None) -> None:
    """Train, injure, ask, and record a row per net and seed."""
    parser = options_parser(__doc__, "recorder.jsonl", "runs/injuries")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="at least 3")
    parser.add_argument("--nets", nargs="+", choices=list(NETS), default=list(NETS))
    parser.add_argument("--small", action="store_true", help="one net, three seeds, 400 images")
    options = parser.parse_args(argv)
    if len(options.seeds) < 3:
        parser.error("--seeds: the other runs of a net must be at least two")
    seeds = options.seeds[:3] if options.small else options.seeds
    part = classification_parts("digits", 400 if options.small else 1257, 1)[0]
    about: dict[str, Any] = {"scale": "small"} if options.small else {}
    for net in options.nets[: 1 if options.small else None]:
        healthy = {seed: trained(net, seed, part, options.out) for seed in seeds}
        for seed in seeds:
            others = [healthy[other] for other in seeds if other != seed]
            result = Case(net, seed, part, options.out, healthy[seed], others).measured()
            config = {
                "epochs": EPOCHS,
                "short": SHORT,
                "stale": STALE,
                "old": OLD,
                "images": len(part[0]),
            }
            record(options.results, "injuries", net, config, result, seed=seed, **about)


def trained(net: str, seed: int, part: Part, out: Path, injury: str = "", module: str = "") -> Path:
    """Return the run folder of a training, done where it was not."""
    folder = out / f"{net}-seed{seed}{injury and '-'}{injury.replace(' ', '-')}"
    if read_done(folder) is not None:
        return folder
    torch.manual_seed(seed)
    build, names = NETS[net]
    model = build()
    injured = list(find_module(model, module).parameters()) if module else []
    ours = {id(parameter) for parameter in injured}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if id(p) not in ours]}
    ]
    if injury == "frozen by mistake":
        for parameter in injured:
            parameter.requires_grad_(False)
    if injured and injury != "missing from the optimizer":
        groups.append({"params": injured} | ({"lr": 0.0} if injury == "learning rate 0" else {}))
    optimizer = torch.optim.Adam(groups, lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    with Recorder(folder, model, names, part[0][:PROBE], optimizer, keep="all") as recorder:
        for _ in range(SHORT if injury else EPOCHS):
            train_epoch(model, optimizer, part, seed, recorder)
            recorder.end_epoch()
            schedule.step()
    return folder


def fall(
    now: Mapping[str, float], healthy: Sequence[Mapping[str, float]], twin: Mapping[str, float]
) -> float:
    """Return where a module's statistics lie from healthy, 0, to re-initialised, 1; the mean over them, within −1 to 2.

    >>> def every(value):
    ...     return dict.fromkeys(CLASS_STATISTICS, value)
    >>> fall(every(2.0), [every(1.0), every(1.0)], every(5.0))
    0.25
    """
    found = []
    for name in CLASS_STATISTICS:
        known = np.array([one[name] for one in healthy])
        normal = float(known.mean())
        span = twin[name] - normal
        # As far as healthy runs differ among themselves, a distance says nothing.
        least = max(LEAST_SPAN, NOISE * float(known.std()))
        place = float(np.sign(span)) * (now[name] - normal) / max(abs(span), least)
        # What is undefined, as of outputs that are all equal, tells no classes apart either.
        found.append(float(np.clip(place, -1, 2)) if np.isfinite(place) else 1.0)
    return float(np.mean(found))


def ordered(alarms: Sequence[Alarm]) -> list[str]:
    """Return the modules that alarms name, the most important kind first."""
    named = sorted(alarms, key=lambda alarm: KINDS.index(alarm.kind))
    return list(dict.fromkeys(alarm.module for alarm in named))


class Case:
    """One healthy run, the other seeds' runs, and what happens to it.

    Args:
        net: Name of the net.
        seed: Its seed.
        part: Training images.
        out: Folder of runs.
        run: The healthy run.
        others: Runs of other seeds.
    """

    def __init__(
        self, net: str, seed: int, part: Part, out: Path, run: Path, others: Sequence[Path]
    ) -> None:
        self.net, self.seed, self.part, self.out = net, seed, part, out
        self.run, self.others = run, others
        self.build, self.names = NETS[net]
        self.probe, self.classes = part[0][:PROBE], part[1][:PROBE]
        self._known: dict[tuple[int, Path], Statistics] = {}
        self.twin = twin_statistics(self.build(), self.names, self.probe, self.classes)
        self.input = gram_triangle(gram_matrix(pooled(self.probe)))

    def measured(self) -> dict[str, Any]:
        """Return every injury's answers, and those of the healthy net."""
        cases = [self._trained(injury, n) for n, injury in enumerate(TRAINING)]
        cases += [self._checked(injury, n) for n, injury in enumerate(CHECKPOINT, len(TRAINING))]
        healthy = self._answers(self._state(EPOCHS))
        rows = read_metrics(self.run)
        healthy["epochs with alarms"] = sum(
            bool(find_alarms(rows[:n])) for n in range(1, EPOCHS + 1)
        )
        references = {str(epoch): self._references(epoch) for epoch in (SHORT, EPOCHS)}
        return {"cases": cases, "healthy": healthy, "references": references}

    def _module(self, injury: str, number: int) -> int:
        """Return which module is injured: with each seed and injury another one."""
        return (self.seed + number) % (len(self.names) - (injury in _WITHOUT_HEAD))

    def _trained(self, injury: str, number: int) -> dict[str, Any]:
        at = self._module(injury, number)
        run = trained(self.net, self.seed, self.part, self.out, injury, self.names[at])
        alarms = ordered(find_alarms(read_metrics(run)[:SHORT]))
        measured = self._measured(run, SHORT)
        return {
            "injury": injury,
            "module": at,
            "epoch": SHORT,
            "alarms": self._places(alarms),
        } | measured

    def _checked(self, injury: str, number: int) -> dict[str, Any]:
        at = self._module(injury, number)
        name, state = self.names[at], self._state(EPOCHS)
        model = self.build()
        model.load_state_dict(state)
        inside = find_module(model, name)
        draw = torch.Generator().manual_seed(100 * self.seed + number)
        if injury == STALE_NAME:
            old = self._state(STALE)
            inside.load_state_dict(
                {k.removeprefix(f"{name}."): v for k, v in old.items() if k.startswith(f"{name}.")}
            )
        CHECKPOINT[injury](inside, draw)
        if injury == "weights re-initialised":
            self._settle(model, inside)
        elif injury == NOT_LOADED:
            _no_statistics(inside, draw)
        answers = self._answers(copy.deepcopy(model.state_dict()))
        if injury == NOT_LOADED:
            # The file has its names behind a prefix, and was loaded with strict=False.
            file = {f"backbone.{k}" if k.startswith(f"{name}.") else k: v for k, v in state.items()}
            found = compare_weights(model, file, modules=self.names)
            lacking = [n for n, c in found.modules.items() if c["missing"] or c["different"]]
            answers |= {"alarms": self._places(lacking), "prefix": found.prefix}
        return {"injury": injury, "module": at, "epoch": EPOCHS} | answers

    def _settle(self, model: nn.Module, inside: nn.Module) -> None:
        """Give a module the norm statistics that belong to its new weights."""
        _no_statistics(inside, torch.Generator())
        model.eval()
        for layer in inside.modules():
            if isinstance(layer, _NORMS):
                layer.momentum, layer.training = None, True
        with torch.no_grad():
            model(self.part[0])

    def _answers(self, state: State) -> dict[str, Any]:
        """Return what check_checkpoint says of weights, with and without the record, and what the probe measures."""
        with_record = check_checkpoint(self.build(), state, run=self.run, probe=self.probe)
        alone = check_checkpoint(self.build(), state, modules=self.names, probe=self.probe)
        model = self.build()
        model.load_state_dict(state)
        found = Probe(model, self.names, self.probe).measure()
        triangles = [found[name].outputs[name].triangle for name in self.names]
        return {
            "alarms": self._places(ordered(with_record.alarms)),
            "alarms alone": self._places(ordered(alone.alarms)),
            **self._beside_peers(state),
            "own drift": self._since(self.run, EPOCHS, triangles),
            "old drift": self._since(self.run, OLD, triangles),
            **self._clocks(triangles, self._others(EPOCHS)),
            "rank": [found[name].outputs[name].rank for name in self.names],
            "fall": self._falls(state, EPOCHS, self.others),
            "own fall": self._falls(state, OLD, [self.run]),
        }

    def _beside_peers(self, state: State) -> dict[str, Any]:
        """Return what check_checkpoint says of weights beside the other seeds' last checkpoints, if they are enough."""
        if len(self.others) < FEWEST_PEERS:
            return {}
        peers = [run / "checkpoints" / f"epoch_{EPOCHS:04d}" for run in self.others]
        found = check_checkpoint(
            self.build(), state, modules=self.names, probe=self.probe, peers=peers
        )
        unlike = [found.facts[name]["unlike_peers"]["distance"] for name in self.names]
        return {"alarms, peers": self._places(ordered(found.alarms)), "unlike peers": unlike}

    def _falls(self, state: State, epoch: int, runs: Sequence[Path]) -> list[float]:
        """Return how immature each module is beside other runs: 0 as they are at an epoch, 1 re-initialised."""
        healthy = [self._healthy(epoch, run) for run in runs]
        now = self._statistics(state)
        return [fall(now[m], [one[m] for one in healthy], self.twin[m]) for m in self.names]

    def _healthy(self, epoch: int, run: Path) -> Statistics:
        if (epoch, run) not in self._known:
            self._known[epoch, run] = self._statistics(self._state(epoch, run))
        return self._known[epoch, run]

    def _statistics(self, state: State) -> Statistics:
        model = self.build()
        model.load_state_dict(state)
        return module_statistics(model, self.names, self.probe, self.classes)

    def _since(self, run: Path, epoch: int, triangles: Sequence[Triangle | None]) -> list[float]:
        """Return each module's drift from an epoch of a run."""
        known = load_grams(run, epoch).triangles
        return list(map(_drift, [known[name] for name in self.names], triangles))

    def _measured(self, run: Path, epoch: int) -> dict[str, Any]:
        """Return what is known of a run's outputs at an epoch, against the other runs."""
        others = [one for one in self.others if one != run]
        kept = load_grams(run, epoch).triangles
        triangles = [kept[name] for name in self.names]
        rows = read_metrics(run)[epoch - 1]["modules"]
        since: dict[str, Any] = {}
        if epoch > OLD:
            own_fall = self._falls(self._state(epoch, run), OLD, [run])
            since = {"old drift": self._since(run, OLD, triangles), "own fall": own_fall}
        return {
            **since,
            **self._clocks(triangles, self._others(epoch, others)),
            "rank": [rows[name]["outputs"][name]["rank"] for name in self.names],
            "fall": self._falls(self._state(epoch, run), epoch, others),
        }

    def _references(self, epoch: int) -> list[dict[str, Any]]:
        return [self._measured(run, epoch) for run in self.others]

    def _clocks(
        self, triangles: Sequence[Triangle | None], others: Sequence[Sequence[Triangle]]
    ) -> dict[str, Any]:
        """Return each module's drift to other runs, and how much it changes its input."""
        drift = np.mean([list(map(_drift, one, triangles)) for one in others], 0)
        change = map(_drift, [self.input, *triangles[:-1]], triangles)
        return {"drift": drift.tolist(), "change": list(change)}

    def _others(self, epoch: int, runs: Sequence[Path] | None = None) -> list[list[Triangle]]:
        found = [load_grams(run, epoch).triangles for run in runs or self.others]
        return [[one[name] for name in self.names] for one in found]

    def _state(self, epoch: int, run: Path | None = None) -> State:
        return dict(load_weights((run or self.run) / "checkpoints" / f"epoch_{epoch:04d}"))

    def _places(self, named: Sequence[str]) -> list[int]:
        return [self.names.index(name) for name in named]


def _drift(first: Triangle | None, second: Triangle | None) -> float:
    """Return 1 − CKA; 1 where one is undefined, since nothing is left in common."""
    drift = math.nan if first is None or second is None else drift_between(first, second)
    return 1.0 if math.isnan(drift) else drift


if __name__ == "__main__":
    run_script(main)
