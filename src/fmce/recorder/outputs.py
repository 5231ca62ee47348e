"""What one module gives on a probe, collected by hooks and reduced at once, so that no map is kept."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fmce.console.log import logger
from fmce.models.features import channels_last
from fmce.recorder.gram import Triangle, effective_rank, gram_matrix, gram_triangle, pooled
from fmce.recorder.samples import labelled_rows
from fmce.scoring.class_statistics import class_statistics
from fmce.scoring.free_statistics import free_statistics

# More outputs than that are those of a loop, not parts of a module.
_MOST_PARTS = 32
_RECTIFIERS = (nn.ReLU, nn.ReLU6)


@dataclass(frozen=True)
class OutputFacts:
    """One output of a module on the probe.

    Attributes:
        channels: How many it has.
        dead: Channels that are exactly 0 on the complete probe.
        repeated: Further channels that equal another one bit for bit.
        finite: Whether every value is.
        rank: Effective rank; None where it is undefined.
        triangle: Gram triangle; None where a value is not finite.
        statistics: What a score is made of, by name; empty where none were asked for.
    """

    channels: int
    dead: int
    repeated: int
    finite: bool
    rank: float | None
    triangle: Triangle | None = field(repr=False)
    statistics: dict[str, float] = field(repr=False, default_factory=dict)


@dataclass(frozen=True)
class ModuleFacts:
    """A module on the probe: each of its outputs by name, and the units of the ReLUs in it.

    Attributes:
        outputs: "neck" → facts; parts of a module are "neck[0]", "neck[p3]", and "head#2" in the second call.
        units: Channels of all ReLUs in it.
        dead_units: Those that never rise above 0 on the probe.
    """

    outputs: dict[str, OutputFacts]
    units: int
    dead_units: int


class OutputWatch:
    """Collects what one module gives during a run; maps are reduced at once, so that none is kept."""

    def __init__(self, name: str, module: nn.Module, told: set[str]) -> None:
        self.name, self.module, self.told = name, module, told
        self.tokens = not any(isinstance(m, nn.Conv1d) for m in module.modules())
        self.features: dict[str, list[Tensor]] = {}
        self.peaks: dict[str, Tensor] = {}
        self.dead: dict[str, Tensor] = {}
        self.finite: dict[str, Tensor] = {}
        self.calls: dict[str, int] = {}
        self.size, self.images = 0, torch.Size()
        self.labels: Tensor | None = None
        self.rows: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self.means: dict[str, list[Tensor]] = {}
        self.activity: dict[str, Tensor] = {}
        self.scored = False

    def attach(self, stack: ExitStack) -> None:
        """Add the hooks, until the stack closes."""
        stack.callback(self.module.register_forward_hook(self._on_output).remove)
        for name, inner in self.module.named_modules():
            if isinstance(inner, _RECTIFIERS):
                hook = inner.register_forward_hook(self._on_rectifier(name))
                stack.callback(hook.remove)

    def begin(
        self, size: int, images: torch.Size, labels: Tensor | None = None, *, scored: bool = False
    ) -> None:
        """Prepare for a forward of so many samples; `scored` asks for statistics even without labels."""
        self.size, self.images, self.calls = size, images, {}
        self.labels, self.scored = labels, scored or labels is not None

    def end(self) -> None:
        """Check that the forward gave something to measure."""
        if not self.calls.get("", 0):
            raise ValueError(
                f"module {self.name!r} was not called by the model's forward; name a module that it calls (a "
                "container that is only looped over never is)"
            )
        if not self.features:
            raise ValueError(
                f"module {self.name!r} returns no tensor of numbers; name a module further inside it"
            )

    def facts(self) -> ModuleFacts:
        """Return what all forwards gave."""
        names = _part_names(self.name, self.features)
        outputs = {names[key]: self._output(key) for key in self.features}
        units = sum(len(peak) for peak in self.peaks.values())
        dead = sum(int((peak <= 0).sum()) for peak in self.peaks.values())
        return ModuleFacts(outputs, units, dead)

    def statistics(self) -> dict[str, dict[str, float]]:
        """Return what a score is made of, by output and statistic."""
        names = _part_names(self.name, self.features)
        return {names[key]: self._statistics(key) for key in self.features}

    def _statistics(self, key: str) -> dict[str, float]:
        means = torch.cat(self.means[key]).cpu().double().numpy()  # (N,C)
        found = free_statistics(means)
        if rows := self.rows.get(key):
            features, labels = (torch.cat(part).cpu().numpy() for part in zip(*rows, strict=True))
            found |= class_statistics(features, labels)
        size = float(self.activity[key]) / len(means)
        found["mean_activation"] = float(np.log(max(size, 1e-12)))
        return found

    def _output(self, key: str) -> OutputFacts:
        zero = self.dead[key]
        features = torch.cat(self.features[key])  # (N,D)
        finite = bool(self.finite[key])
        gram = gram_matrix(features) if finite else None
        rank = float("nan") if gram is None else effective_rank(gram)
        return OutputFacts(
            channels=len(zero),
            dead=int(zero.sum()),
            repeated=_repeated(features, zero) if finite else 0,
            finite=finite,
            rank=None if np.isnan(rank) else rank,
            triangle=None if gram is None else gram_triangle(gram),
            statistics=self._statistics(key) if self.scored else {},
        )

    def _on_output(self, _module: nn.Module, _inputs: object, output: object) -> None:
        call = self.calls[""] = self.calls.get("", 0) + 1
        for path, given in tensors_of(output):
            key, tensor = f"{path}#{call}", self._channels_first(given)
            if not tensor.ndim or len(tensor) != self.size:
                raise ValueError(
                    f"module {self.name!r} returned {tuple(tensor.shape)} for {self.size} samples; expected one "
                    "row per sample; name a module before samples are mixed"
                )
            if len(self.features) >= _MOST_PARTS and key not in self.features:
                raise ValueError(
                    f"module {self.name!r} gave more than {_MOST_PARTS} outputs in one forward; name a module "
                    "outside the loop"
                )
            axis = self._channel_axis(tensor)
            features = pooled(tensor, channels_last=axis == 2)
            self.features.setdefault(key, []).append(features)
            if self.scored:
                channels = tensor.movedim(axis, 1) if tensor.ndim > 1 else tensor[:, None]
                self._keep_rows(key, channels.detach().float())
            zero = _over_channels(tensor, axis, lambda x: (x == 0).all(1))
            finite = torch.isfinite(tensor).all()
            self.dead[key] = self.dead.get(key, torch.ones_like(zero)) & zero
            self.finite[key] = self.finite.get(key, torch.ones_like(finite)) & finite

    def _keep_rows(self, key: str, x: Tensor) -> None:
        """Keep what statistics are computed from, of a module's output (N,C,…)."""
        self.means.setdefault(key, []).append(x.flatten(2).mean(2) if x.ndim > 2 else x)
        size = x.abs().mean() * self.size
        self.activity[key] = self.activity[key] + size if key in self.activity else size
        if self.labels is not None:
            rows = labelled_rows(self.name, x, self.labels, self.images)
            self.rows.setdefault(key, []).append(rows)

    def _on_rectifier(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            call = self.calls[name + "/"] = self.calls.get(name + "/", 0) + 1
            if isinstance(output, Tensor) and output.ndim > 1:
                key, units = f"{name}#{call}", self._channels_first(output)
                peak = _over_channels(units, self._channel_axis(units), lambda x: x.amax(1))
                known = self.peaks.get(key)
                if known is None or known.shape == peak.shape:
                    self.peaks[key] = peak if known is None else torch.maximum(known, peak)

        return hook

    def _channels_first(self, tensor: Tensor) -> Tensor:
        """Return a map with its channels in the second axis, where Swin's stages do not have them."""
        last = len(self.images) == tensor.ndim == 4 and channels_last(tensor.shape, self.images)
        if last and self.name not in self.told:
            self.told.add(self.name)
            logger.info(
                "module %s returns its channels last and is measured as if first", self.name
            )
        return tensor.movedim(3, 1) if last else tensor

    def _channel_axis(self, tensor: Tensor) -> int:
        return 2 if tensor.ndim == 3 and self.tokens else min(1, tensor.ndim - 1)


def tensors_of(output: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor of numbers in a module's output with its place, such as "[0][p3]"."""
    if isinstance(output, Tensor):
        if output.dtype != torch.bool:
            yield path, output
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from tensors_of(value, f"{path}[{key}]")
    elif isinstance(output, tuple | list):
        for index, value in enumerate(output):
            yield from tensors_of(value, f"{path}[{index}]")
    elif is_dataclass(output):
        for part in fields(output):
            yield from tensors_of(getattr(output, part.name), f"{path}[{part.name}]")


def _part_names(name: str, keys: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of a module's outputs: the module's own where there is one, else with place and call."""
    several = {key.rpartition("#")[0] for key in keys if not key.endswith("#1")}
    return {
        key: name + (key if path in several else path)
        for key in keys
        for path in [key.rpartition("#")[0]]
    }


def _over_channels(tensor: Tensor, axis: int, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """Reduce a tensor to one value per channel (C,)."""
    x = tensor[:, None] if tensor.ndim == 1 else tensor
    return reduce(x.movedim(axis if x.ndim > 1 else 0, 0).flatten(1))


def _repeated(features: Tensor, zero: Tensor) -> int:
    """Count channels whose features (N,C·cells) equal another channel's bit for bit, constant ones left out."""
    cells = features.shape[1] // max(len(zero), 1)
    by_channel = (
        features.view(len(features), len(zero), cells).movedim(1, 0).flatten(1)
    )  # (C,N·cells)
    varied = by_channel[(by_channel != by_channel[:, :1]).any(1)].cpu().contiguous()
    if not len(varied):
        return 0
    rows = varied.numpy().view(np.uint8)
    return len(rows) - len({row.tobytes() for row in rows})
