"""Layers that compute over the global batch while several processes train together."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Forward = Callable[..., Tensor]


@contextmanager
def replaced_forward(
    layers: Iterable[nn.Module], replacement: Callable[[Any, Forward], Forward]
) -> Iterator[None]:
    """Replace the forward methods of layers; they are left as found.

    Args:
        layers: Modules of any kind.
        replacement: Takes a layer and its forward method, returns the one to use instead.
    """
    layers = list(layers)
    for layer in layers:
        # Compiled code cannot hold what the ranks tell each other; it is cut in two here.
        # An attribute of the instance hides the class's method, and deleting it brings that back.
        uncompiled = torch.compiler.disable(replacement(layer, layer.forward))  # type: ignore[no-untyped-call]
        layer.forward = uncompiled
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
