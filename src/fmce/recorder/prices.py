"""What freezing a network's first modules would save of each training step."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fmce.metrics.network_cost import training_multiply_adds
from fmce.models.features import find_module
from fmce.recorder.outputs import tensors_of
from fmce.recorder.probe import bare_model, call_model, moved_to, untouched
from fmce.runs.run import open_run


@dataclass(frozen=True)
class ModulePrice:
    """What a training step costs with a module and all before it frozen.

    Args:
        name: The module.
        own_saving: Share of the step's multiply-adds, forward and backward, that freezing this one adds.
        saving: Share that is saved with all before it frozen too, in [0, 1).
    """

    name: str
    own_saving: float
    saving: float

    def to_dict(self) -> dict[str, Any]:
        """Return the price as JSON values."""
        return asdict(self)


def module_prices(model: nn.Module, modules: Sequence[str], inputs: Any) -> list[ModulePrice]:
    """Count what freezing up to each module would save of a training step, by torch's counter of operations.

    Counted are products and convolutions of one forward and backward. A frozen module still runs forward. It saves its
    weights' gradients, and its inputs' too where all before it is frozen as well. Parameters outside all modules
    (position embeddings, say) are frozen with the first. Weights, modes and gradients are left as found.

    Args:
        model: Any network, in its training state or not; it runs in eval mode.
        modules: Submodules in the order in which they would be frozen, as they run.
        inputs: A tensor, or a tuple, dict or list of the model's arguments; a few samples are enough.

    Raises:
        ValueError: If a module is unknown, or no output of the model depends on its weights.

    >>> net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    >>> [round(price.saving, 3) for price in module_prices(net, ["0", "1"], torch.ones(1, 4))]
    [0.4, 0.6]
    """
    if not modules:
        raise ValueError("modules is empty; name at least one submodule")
    network = bare_model(model)
    parts = [set(find_module(network, name).parameters()) for name in modules]
    found = {p: p.requires_grad for p in network.parameters()}
    parts[0] |= set(found) - set().union(*parts)
    costs = []
    with untouched(network), torch.enable_grad():
        try:
            for parameter in found:
                parameter.requires_grad_(parameter.is_floating_point())
            costs.append(_cost(network, inputs))
            for part in parts:
                for parameter in part:
                    parameter.requires_grad_(False)
                costs.append(_cost(network, inputs))
        finally:
            for parameter, wanted in found.items():
                parameter.requires_grad_(wanted)
    savings = [1 - cost / costs[0] for cost in costs]
    found_savings = zip(modules, pairwise(savings), strict=True)
    return [ModulePrice(name, after - before, after) for name, (before, after) in found_savings]


def _cost(model: nn.Module, inputs: Any) -> float:
    def loss() -> Tensor:
        output = call_model(model, moved_to(inputs, model))
        return sum(
            (t.float().sum() for _, t in tensors_of(output) if t.requires_grad), torch.zeros(())
        )

    return training_multiply_adds(loss, [p for p in model.parameters() if p.requires_grad])


def price_inputs(run: Path) -> tuple[nn.Module, Tensor]:
    """Return the network of a run of `fmce train`, and two blank images (2,3,H,W) of its size.

    Raises:
        ValueError: If it was no training of `fmce train`, or names functions of the user's own.
    """
    how = "name its network and inputs: --prices --model module:function --probe module:function"
    try:
        opened = open_run(run)
        setup = opened.training
    except ValueError as error:
        raise ValueError(f"{error}. Or {how}") from error
    side = setup.config.data.image_size
    return setup.new_model(), torch.zeros(2, 3, side, side)
