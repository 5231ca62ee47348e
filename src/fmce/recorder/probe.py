"""Outputs of named modules on a fixed probe: one forward per epoch, after which the model is as it was found."""

import inspect
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fmce.models.features import eval_mode, find_module, running_eagerly, underlying_module
from fmce.recorder.gram import FEWEST_SAMPLES
from fmce.recorder.outputs import ModuleFacts, OutputWatch, tensors_of
from fmce.recorder.samples import checked_labels

# Samples per forward pass: without gradients that takes less memory than a training step.
TOGETHER = 64


@dataclass(frozen=True)
class ScoredProbe:
    """A probe on which maturity scores are measured too; it is given wherever a probe is.

    Args:
        inputs: As those of a probe, but as the training varies them, and better 768 of them: there the loss lives.
        labels: Their classes, see `Probe`; None for the scores that need no labels.
    """

    inputs: Any
    labels: Tensor | None = None


class Probe:
    """A fixed batch and the modules whose outputs on it are measured.

    A dict is passed as keyword arguments where `forward` has parameters of those names and as one argument
    otherwise, a tuple as positional arguments, anything else as one argument.

    Args:
        model: The network; wrappers of `torch.compile` and DistributedDataParallel are looked through.
        modules: Names as in `model.named_modules()`.
        inputs: What `forward` takes, for at least 8 samples: a tensor (N,…), or a dict, list or tuple of such. Or a
            `ScoredProbe`, which holds labels too.
        labels: Classes of the samples, for the statistics that a maturity score is made of: whole numbers (N,), or
            a map of them (N,H,W), where 255 and negative ones are ignored, or boxes (N,M,5 or 6) as x1, y1, x2, y2
            in pixels, class (−1: padding) and, optionally, 1 where the box is to be ignored.

    Raises:
        ValueError: If a name is unknown (near names are listed), there are fewer than 8 samples, or the labels do
            not fit them.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: Sequence[str],
        inputs: Any,
        labels: Tensor | None = None,
    ) -> None:
        self.model = bare_model(model)
        self.modules = {name: find_module(self.model, name) for name in modules}
        self.scored = isinstance(inputs, ScoredProbe)
        if isinstance(inputs, ScoredProbe):
            inputs, labels = inputs.inputs, inputs.labels
        self.inputs = inputs
        self._told: set[str] = set()  # modules whose layout was reported
        self.samples = count_samples(inputs)
        if self.samples < FEWEST_SAMPLES:
            raise ValueError(
                f"the probe has {self.samples} samples, expected at least {FEWEST_SAMPLES} and better 256; "
                "take a fixed batch of unvaried inputs"
            )
        self.labels = None if labels is None else checked_labels(labels, self.samples)

    def check(self) -> None:
        """Run a few samples.

        Raises:
            ValueError: If the model cannot take the probe, or a module returns nothing to measure.
        """
        self._run(FEWEST_SAMPLES)

    def measure(self) -> dict[str, ModuleFacts]:
        """Run the complete probe and return what each module gave."""
        watches = self._run(self.samples, scored=self.scored)
        return {name: watch.facts() for name, watch in watches.items()}

    def statistics(self) -> dict[str, dict[str, dict[str, float]]]:
        """Run the complete probe and return what scores are made of: module → output → statistic → value."""
        watches = self._run(self.samples, scored=True)
        return {name: watch.statistics() for name, watch in watches.items()}

    def _run(self, samples: int, *, scored: bool = False) -> dict[str, OutputWatch]:
        watches = {
            name: OutputWatch(name, module, self._told) for name, module in self.modules.items()
        }
        with ExitStack() as stack:
            stack.enter_context(untouched(self.model))
            for watch in watches.values():
                watch.attach(stack)
            for rows, chosen in parts_of(self.inputs, self.samples, samples):
                part = moved_to(chosen, self.model)
                images = next((t.shape for _, t in tensors_of(part) if t.ndim == 4), torch.Size())
                labels = None if self.labels is None else moved_to(self.labels[rows], self.model)
                for watch in watches.values():
                    watch.begin(rows.stop - rows.start, images, labels, scored=scored)
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
    if isinstance(inputs, ScoredProbe):
        return count_samples(inputs.inputs)
    if isinstance(inputs, Tensor):
        return len(inputs) if inputs.ndim else 0
    if isinstance(inputs, Mapping):
        return next((n for n in map(count_samples, inputs.values()) if n), 0)
    if isinstance(inputs, tuple):
        return next((n for n in map(count_samples, inputs) if n), 0)
    return len(inputs) if isinstance(inputs, list) else 0


def parts_of(inputs: Any, count: int, first: int | None = None) -> Iterator[tuple[slice, Any]]:
    """Yield a probe's samples, all or the first ones, in parts that are run together."""
    end = count if first is None else first
    for start in range(0, end, TOGETHER):
        rows = slice(start, min(start + TOGETHER, end))
        yield rows, _rows(inputs, count, rows)


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


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
