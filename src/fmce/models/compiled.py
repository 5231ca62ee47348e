"""A model trained through `torch.compile` or CUDA graphs that still returns the maps of one submodule.

Hooks added to such a model never fire: the hook is placed before, and the maps leave as a second output.
"""

from typing import Any, Self

import torch
from torch import Tensor, nn

from fmce.models.features import check_map, find_module
from fmce.models.replayed import ReplayedPasses


class CompiledModel(nn.Module):
    """Logits of a model, and after each call the maps of a submodule, from compiled code or recorded passes.

    Use it as a context manager: on leaving, the hook is removed and the compiled code dropped. Weights and
    modes are the model's own, which stays as it was for uncompiled calls. Without a layer there are no maps.

    Args:
        model: The network.
        layer: Submodule whose maps are wanted.
        replay: Record the passes as CUDA graphs and replay them, instead of compiling; only on a GPU.

    Raises:
        ValueError: If there is no submodule of that name.

    >>> with CompiledModel(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten()), "0") as compiled:
    ...     compiled.layer
    '0'
    """

    def __init__(self, model: nn.Module, layer: str | None = None, *, replay: bool = False) -> None:
        super().__init__()
        self.model, self.layer, self.replay = model, layer, replay
        self._layer_module = None if layer is None else find_module(model, layer)
        self._maps: Tensor | None = None

    def __enter__(self) -> Self:
        held: list[Tensor] = []
        model = self.model

        def hold(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            held.append(output)
            # Later layers get a copy: a ReLU in place would change the maps.
            return output.clone()

        def run(images: Tensor) -> tuple[Tensor, list[Tensor]]:
            held.clear()
            logits = model(images)
            maps = list(held)
            held.clear()  # otherwise the last step's graph would live on
            return logits, maps

        self._hook = (
            None if self._layer_module is None else self._layer_module.register_forward_hook(hold)
        )
        # Static shapes: an epoch has two batch sizes, the full one and the last one's, and code for any
        # size would be slower for both.
        self._run: Any = (
            ReplayedPasses(model, run) if self.replay else torch.compile(run, dynamic=False)
        )
        return self

    def __exit__(self, *exception: object) -> None:
        if self._hook is not None:
            self._hook.remove()
        del self._run  # recorded passes hold memory
        if not self.replay:
            # The next model must not inherit shapes and recompilation counts seen with this one.
            torch.compiler.reset()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, classes) of images (B, C, H, W)."""
        logits: Tensor
        logits, maps = self._run(images)
        if self.layer is not None:
            if len(maps) != 1 or not isinstance(maps[0], Tensor) or maps[0].ndim != 4:
                raise ValueError(
                    f"module {self.layer!r} gave {len(maps)} outputs in one call of the model, expected one "
                    "4-d tensor (B, C, H, W); name another layer, or train with runtime.compile=false and "
                    "runtime.cuda_graphs=false"
                )
            check_map(maps[0], self.layer, images.shape)
            self._maps = maps[0]
        return logits

    def take(self, name: str) -> Tensor:
        """Return the maps (B, C, H, W) of the latest call for a loss on them, and hold them no longer.

        Raises:
            ValueError: If another submodule is asked for, the model was not called since, or a loss on the maps
                would reach no weights.
        """
        if name != self.layer or self._maps is None:
            raise ValueError(
                f"{name!r} is not available; captured: {self.layer}, once after each call of the compiled model"
            )
        maps, self._maps = self._maps, None
        check_map(maps, name, carries_gradient=maps.requires_grad)
        return maps
