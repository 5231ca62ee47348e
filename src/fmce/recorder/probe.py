"""Outputs of named modules on a fixed probe: one forward per epoch, after which the model is as it was found."""

import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fmce.console.log import logger
from fmce.models.features import (
    channels_last,
    eval_mode,
    find_module,
    running_eagerly,
    underlying_module,
)
from fmce.recorder.gram import (
    FEWEST_SAMPLES,
    Triangle,
    effective_rank,
    gram_matrix,
    gram_triangle,
    pooled,
)

# Samples per forward pass: without gradients that takes less memory than a training step.
TOGETHER = 64
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
    """

    channels: int
    dead: int
    repeated: int
    finite: bool
    rank: float | None
    triangle: Triangle | None = field(repr=False)


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


class Probe:
    """A fixed batch and the modules whose outputs on it are measured.

    A dict is passed as keyword arguments where `forward` has parameters of those names and as one argument
    otherwise, a tuple as positional arguments, anything else as one argument.

    Args:
        model: The network; wrappers of `torch.compile` and DistributedDataParallel are looked through.
        modules: Names as in `model.named_modules()`.
        inputs: What `forward` takes, for at least 8 samples: a tensor (N,…), or a dict, list or tuple of such.

    Raises:
        ValueError: If a name is unknown (near names are listed) or there are fewer than 8 samples.
    """

    def __init__(self, model: nn.Module, modules: Sequence[str], inputs: Any) -> None:
        self.model = bare_model(model)
        self.modules = {name: find_module(self.model, name) for name in modules}
        self.inputs = inputs
        self._told: set[str] = set()  # modules whose layout was reported
        self.samples = count_samples(inputs)
        if self.samples < FEWEST_SAMPLES:
            raise ValueError(
                f"the probe has {self.samples} samples, expected at least {FEWEST_SAMPLES} and better 256; "
                "take a fixed batch of unvaried inputs"
            )

    def check(self) -> None:
        """Run a few samples.

        Raises:
            ValueError: If the model cannot take the probe, or a module returns nothing to measure.
        """
        self._run(FEWEST_SAMPLES)

    def measure(self) -> dict[str, ModuleFacts]:
        """Run the complete probe and return what each module gave."""
        return {name: watch.facts() for name, watch in self._run(self.samples).items()}

    def _run(self, samples: int) -> "dict[str, _Watch]":
        watches = {name: _Watch(name, module, self._told) for name, module in self.modules.items()}
        with ExitStack() as stack:
            stack.enter_context(untouched(self.model))
            for watch in watches.values():
                watch.attach(stack)
            for start in range(0, samples, TOGETHER):
                size = min(TOGETHER, samples - start)
                rows = slice(start, start + size)
                part = moved_to(_rows(self.inputs, self.samples, rows), self.model)
                images = next((t.shape for _, t in _tensors(part) if t.ndim == 4), torch.Size())
                for watch in watches.values():
                    watch.begin(size, images)
                try:
                    call_model(self.model, part)
                except Exception as error:
                    if isinstance(error, torch.OutOfMemoryError):
                        raise
                    raise ValueError(
                        f"{type(self.model).__name__} cannot take the probe: {type(error).__name__}: "
                        f"{_line(error)}; pass what its forward takes, a tensor, dict, list or tuple"
                    ) from error
                for watch in watches.values():
                    watch.end()
        return watches


class _Watch:
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

    def attach(self, stack: ExitStack) -> None:
        stack.callback(self.module.register_forward_hook(self._on_output).remove)
        for name, inner in self.module.named_modules():
            if isinstance(inner, _RECTIFIERS):
                hook = inner.register_forward_hook(self._on_rectifier(name))
                stack.callback(hook.remove)

    def begin(self, size: int, images: torch.Size) -> None:
        self.size, self.images, self.calls = size, images, {}

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
        names = _part_names(self.name, self.features)
        outputs = {names[key]: self._output(key) for key in self.features}
        units = sum(len(peak) for peak in self.peaks.values())
        dead = sum(int((peak <= 0).sum()) for peak in self.peaks.values())
        return ModuleFacts(outputs, units, dead)

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
        )

    def _on_output(self, _module: nn.Module, _inputs: object, output: object) -> None:
        call = self.calls[""] = self.calls.get("", 0) + 1
        for path, given in _tensors(output):
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
            zero = _over_channels(tensor, axis, lambda x: (x == 0).all(1))
            finite = torch.isfinite(tensor).all()
            self.dead[key] = self.dead.get(key, torch.ones_like(zero)) & zero
            self.finite[key] = self.finite.get(key, torch.ones_like(finite)) & finite

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


def bare_model(model: nn.Module) -> nn.Module:
    """Return the network inside the wrappers of `torch.compile` and (Distributed)DataParallel.

    Raises:
        ValueError: If its weights are sharded over processes, so that none of them could run the probe alone.
    """
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        inner = underlying_module(model)
        if isinstance(inner, parallel):
            inner = inner.module
        if inner is model:
            break
        model = inner
    for parameter in model.parameters():
        if type(parameter).__name__ == "FlatParameter" or hasattr(parameter, "placements"):
            raise ValueError(
                f"the weights of {type(model).__name__} are sharded over processes, which the recorder cannot "
                "measure; use DistributedDataParallel"
            )
    return model


@contextmanager
def untouched(model: nn.Module, *, training: bool = False) -> Iterator[None]:
    """Leave mode, buffers and random generators as they are before, whatever the block runs.

    Args:
        model: The network; in eval mode and without gradients inside the block.
        training: Leave its mode as it is inside the block too.
    """
    buffers = [(b, b._version, b.detach().clone()) for b in model.buffers()]
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 (forwards may draw from it)
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.is_cuda})
    mode = nullcontext(model) if training else eval_mode(model)
    with (
        torch.random.fork_rng(devices=devices),
        mode,
        running_eagerly(model),
        torch.no_grad(),
    ):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
            for buffer, version, copy in buffers:
                if buffer._version != version:
                    buffer.copy_(copy)


def count_samples(inputs: Any) -> int:
    """Return how many samples a probe has; 0 where nothing tells.

    >>> count_samples({"image": torch.zeros(9, 3, 4, 4), "scale": 2.0})
    9
    """
    if isinstance(inputs, Tensor):
        return len(inputs) if inputs.ndim else 0
    if isinstance(inputs, Mapping):
        return next((n for n in map(count_samples, inputs.values()) if n), 0)
    if isinstance(inputs, tuple):
        return next((n for n in map(count_samples, inputs) if n), 0)
    return len(inputs) if isinstance(inputs, list) else 0


def _rows(inputs: Any, count: int, rows: slice) -> Any:
    """Return some samples of a probe; what has no row per sample is passed on as it is."""
    if isinstance(inputs, Tensor):
        return inputs[rows] if inputs.ndim and len(inputs) == count else inputs
    if isinstance(inputs, Mapping):
        return {key: _rows(value, count, rows) for key, value in inputs.items()}
    if isinstance(inputs, tuple):
        parts = [_rows(value, count, rows) for value in inputs]
        return type(inputs)(*parts) if hasattr(inputs, "_fields") else tuple(parts)
    if isinstance(inputs, list):
        return inputs[rows] if len(inputs) == count else inputs
    return inputs


def moved_to(inputs: Any, model: nn.Module) -> Any:
    """Return inputs with their tensors on a model's device."""
    return _moved(inputs, next(model.parameters(), torch.empty(0)).device)


def _moved(inputs: Any, device: torch.device) -> Any:
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    if isinstance(inputs, Mapping):
        return {key: _moved(value, device) for key, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        parts = [_moved(value, device) for value in inputs]
        return type(inputs)(*parts) if hasattr(inputs, "_fields") else type(inputs)(parts)
    return inputs


def call_model(model: nn.Module, inputs: Any) -> Any:
    """Call a model with a dict, list, tuple or tensor of inputs, as `Probe` describes."""
    if isinstance(inputs, tuple):
        return model(*inputs)
    if isinstance(inputs, dict) and all(isinstance(key, str) for key in inputs):
        try:
            inspect.signature(model.forward).bind(**inputs)
        except TypeError:
            return model(inputs)
        return model(**inputs)
    return model(inputs)


def _tensors(output: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor of numbers in a module's output with its place, such as "[0][p3]"."""
    if isinstance(output, Tensor):
        if output.dtype != torch.bool:
            yield path, output
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from _tensors(value, f"{path}[{key}]")
    elif isinstance(output, tuple | list):
        for index, value in enumerate(output):
            yield from _tensors(value, f"{path}[{index}]")
    elif is_dataclass(output):
        for part in fields(output):
            yield from _tensors(getattr(output, part.name), f"{path}[{part.name}]")


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


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
