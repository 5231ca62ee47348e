"""Two checks before a long training: do all modules learn from a step, and were the weights loaded at all."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fmce.recorder.alarms import Alarm, find_alarms
from fmce.recorder.meter import ModuleMeter
from fmce.recorder.probe import bare_model, call_model, moved_to, untouched
from fmce.runs.weights import best_prefix, read_state_dict


@dataclass(frozen=True)
class ModelCheck:
    """What one training step did to each module.

    Args:
        loss: The step's loss.
        facts: Module → its facts, see `ModuleMeter.measure`.
        alarms: What is wrong; empty where every module learns.
    """

    loss: float
    facts: dict[str, dict[str, Any]]
    alarms: tuple[Alarm, ...]

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.alarms

    def to_dict(self) -> dict[str, Any]:
        """Return the check as JSON values."""
        return {
            "loss": self.loss,
            "modules": self.facts,
            "alarms": [asdict(a) for a in self.alarms],
        }


def check_model(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Any,
    loss_fn: Callable[[Any], Tensor],
    *,
    modules: Sequence[str] | None = None,
    frozen: Sequence[str] = (),
) -> ModelCheck:
    """Take one training step on a copy of the model, and say which modules would not learn.

    The model, its gradients and the optimizer are left as they were.

    Args:
        model: The network.
        optimizer: The one that will train it.
        batch: What `forward` takes: a tensor, or a dict, list or tuple; see `Probe`.
        loss_fn: The model's output → the loss, a scalar; closes over the targets.
        modules: Submodules to check; None takes the children with parameters.
        frozen: Modules that are meant to be frozen.

    Raises:
        ValueError: If a module is unknown, the model cannot take the batch, or the loss is no finite scalar.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> forgotten = torch.optim.SGD(model[0].parameters(), lr=0.1)
    >>> check_model(model, forgotten, torch.ones(8, 4), lambda y: y.mean()).alarms[0].kind
    'not_in_optimizer'
    """
    with untouched(bare_model(model), training=True):
        twin, own = copy.deepcopy((bare_model(model), optimizer))
    meter = ModuleMeter(Path(), twin, modules, optimizers=[own], frozen=frozen)
    with untouched(twin, training=True), torch.enable_grad():
        meter.begin_check()
        output = call_model(twin, moved_to(batch, twin))
        loss = loss_fn(output)
        if not (isinstance(loss, Tensor) and loss.numel() == 1 and torch.isfinite(loss)):
            shown = loss.item() if isinstance(loss, Tensor) and loss.numel() == 1 else loss
            raise ValueError(f"loss_fn returned {shown!r:.100}, expected one finite number")
        own.zero_grad()
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        own.step()
        meter.after_step()
    facts = meter.measure_weights()
    return ModelCheck(loss.item(), facts, tuple(find_alarms([{"epoch": 1, "modules": facts}])))


@dataclass(frozen=True)
class WeightsComparison:
    """How a checkpoint fits a model, module by module.

    Args:
        modules: Module → counts: "tensors" of the model, "equal" to the checkpoint's, "different", "missing" from
            the checkpoint, "wrong_shape".
        unused: Names of the checkpoint that the model does not have.
        prefix: What makes more names fit: ("backbone.", "") means to replace the first by the second in the
            checkpoint's names; None where they fit best as they are.
        fitting: Names that fit with `prefix` replaced.
    """

    modules: dict[str, dict[str, int]]
    unused: tuple[str, ...]
    prefix: tuple[str, str] | None
    fitting: int

    @property
    def loaded(self) -> bool:
        """Whether every tensor of the model equals the checkpoint's."""
        return all(one["equal"] == one["tensors"] for one in self.modules.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        return asdict(self) | {"loaded": self.loaded}


def compare_weights(
    model: nn.Module,
    checkpoint: str | Path | Mapping[str, Any],
    *,
    modules: Sequence[str] | None = None,
) -> WeightsComparison:
    """Say which weights of a model are those of a checkpoint, and which prefix would make the rest fit.

    Args:
        model: The network as it is after loading.
        checkpoint: A state dict, a safetensors or `torch.save` file (read without running code from it), or a
            checkpoint folder. Containers such as {"state_dict": …} are looked into.
        modules: Submodules to report; None takes the children.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no state dict.

    >>> model = nn.Sequential(nn.Linear(2, 2))
    >>> saved = {f"module.{name}": value for name, value in model.state_dict().items()}
    >>> compare_weights(model, saved).prefix
    ('module.', '')
    """
    theirs = read_state_dict(checkpoint)
    bare = bare_model(model)
    ours = bare.state_dict()
    names = [name for name, _ in bare.named_children()] if modules is None else list(modules)
    found = {name: _compared(name, ours, theirs) for name in names or [""]}
    prefix, fitting = best_prefix(ours, theirs)
    unused = tuple(name for name in theirs if name not in ours)
    return WeightsComparison(found, unused, prefix, fitting)


def _compared(
    module: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> dict[str, int]:
    counts = dict.fromkeys(("tensors", "equal", "different", "missing", "wrong_shape"), 0)
    for name, own in ours.items():
        if module and not name.startswith(f"{module}."):
            continue
        counts["tensors"] += 1
        other = theirs.get(name)
        if other is None:
            counts["missing"] += 1
        elif other.shape != own.shape:
            counts["wrong_shape"] += 1
        else:
            same = torch.equal(own.detach().cpu(), other.detach().cpu().to(own.dtype))
            counts["equal" if same else "different"] += 1
    return counts
