"""Feature maps of a network's named submodules, captured by forward hooks; the network is left as found."""

import difflib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn


def underlying_module(model: nn.Module) -> nn.Module:
    """Return the module inside a `torch.compile(model)` wrapper, or the model itself."""
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else model


def find_module(model: nn.Module, name: str) -> nn.Module:
    """Return the submodule that `model.named_modules()` calls `name`.

    Raises:
        ValueError: If there is none; the message lists the nearest names.

    >>> find_module(nn.Sequential(nn.ReLU()), "0")
    ReLU()
    """
    # One module registered under two names is found under both.
    modules = dict(model.named_modules(remove_duplicate=False))
    modules.pop("", None)
    if name not in modules:
        near = difflib.get_close_matches(name, modules, n=5, cutoff=0.4)
        known = near or [child for child, _ in model.named_children()]
        raise ValueError(
            f"{type(model).__name__} has no submodule {name!r}; "
            f"{'near matches' if near else 'its children'}: {', '.join(known) or 'none'}"
        )
    module: nn.Module = modules[name]
    return module


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Put the model into eval mode inside the block, then give every submodule its own mode back.

    `model.train(was_training)` would not do: a model may hold frozen parts in eval mode.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def running_eagerly(model: nn.Module) -> Iterator[None]:
    """Let modules compiled in place by `module.compile()` run uncompiled inside the block.

    Hooks added after compilation never fire (measured with torch 2.14).
    """
    compiled = [(m, m._compiled_call_impl) for m in model.modules() if m._compiled_call_impl]
    for module, _ in compiled:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, implementation in compiled:
            module._compiled_call_impl = implementation


def check_map(
    maps: Tensor, name: str, images: torch.Size | None = None, *, carries_gradient: bool = True
) -> None:
    """Refuse a captured map that is not what its use takes it for.

    Every use of a captured map comes through here: auxiliary losses, feature matching, Grad-CAM, extraction.
    The recorder, which pools any output, moves channels that are last to the front.

    Args:
        maps: What a submodule returned, (B, C, h, w).
        name: The submodule.
        images: Shape (B, channels, H, W) of what this forward of the model was given, None if it was no such batch.
        carries_gradient: Whether a loss on the map reaches weights; True where none is needed.

    Raises:
        ValueError: If a gradient is needed and absent, the batch is another, the channels are last, or height and
            width are of another shape than the images'.

    >>> check_map(torch.zeros(2, 64, 7, 7), "layer4", torch.Size((2, 3, 224, 224)))
    """
    if not carries_gradient:
        raise ValueError(
            f"the maps of {name!r} carry no gradient, without which an auxiliary loss trains nothing and Grad-CAM has "
            "nothing to weigh: keep torch.no_grad away from the layers up to there, leave requires_grad on for some of "
            "them, and checkpoint with use_reentrant=False"
        )
    if images is None:
        return
    batch, _, height, width = maps.shape
    shape = f"{tuple(maps.shape)} for images of {images[2]}×{images[3]} pixels"
    if batch != images[0]:
        raise ValueError(
            f"module {name!r} returned maps {shape} and a batch of {images[0]}, expected (B, C, h, w) with one map per "
            "image; name a module that keeps the batch"
        )
    if channels_last(maps.shape, images):
        raise ValueError(
            f"module {name!r} returned maps {shape}, with the channels last, expected (B, C, h, w); name a module that "
            "puts them first, such as 'permute' of torchvision's Swin, or wrap it in one that does"
        )
    # A side may shrink by another whole factor, as in range images and lines of text.
    whole = images[2] % height == 0 and images[3] % width == 0
    if not whole and height != width and _cells_off(height, width, images) > _ROUNDING:
        raise ValueError(
            f"module {name!r} returned {shape}, expected maps (B, C, h, w) of the images' proportions; name a module "
            "whose output is a map, or wrap it in one that reshapes it"
        )


def channels_last(maps: torch.Size, images: torch.Size) -> bool:
    """Return whether a module's output holds the channels in its last axis.

    Args:
        maps: Its shape, of four axes.
        images: Shape (B, channels, H, W) of what the model was given.

    >>> channels_last(torch.Size((2, 7, 7, 768)), torch.Size((2, 3, 224, 224)))
    True
    """
    first, last = _cells_off(maps[2], maps[3], images), _cells_off(maps[1], maps[2], images)
    return first > 0 and (last == 0 or last <= _ROUNDING < first)


# By as many cells do the sides of a map differ from the image's proportions after rounding at each layer.
_ROUNDING = 2.0


def _cells_off(height: int, width: int, images: torch.Size) -> float:
    """Return by how many cells a map's sides differ from the proportions of the images; 0 if they are the same."""
    return abs(height * images[3] - width * images[2]) / max(images[2], images[3])


class FeatureMaps:
    """Capture the outputs of named submodules while the model runs inside the block.

    `maps[name]` is the output (B, C, H, W) in the latest forward of `model`, or the list of outputs
    in call order if the submodule was called several times in it (a head shared over levels). Each
    forward of `model` drops what was held; direct calls of a submodule, or of a method such as
    timm's `forward_features`, do not. What the last forward left stays readable after the block.
    Maps are checked when they are asked for: one per image, channels first, in the images' proportions.

    Maps are detached copies, so that later operations in place cannot change them. With
    `keep_gradients` they are the tensors themselves, on the path from the weights to the loss, and
    later layers get a copy. The values that the network computes are unchanged.

    Modules compiled in place run uncompiled inside the block. For the wrapper that `torch.compile`
    returns, hooks do not fire: run `maps.model(images)`, the module inside it.

    Args:
        model: Any module; its mode, attributes and other hooks are left as found.
        names: One or several names as in `model.named_modules()`.
        keep_gradients: Whether maps stay part of the autograd graph.

    Raises:
        ValueError: If `names` is empty or a name is unknown (the nearest are listed).

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten())
    >>> with FeatureMaps(model, "0") as maps:
    ...     _ = model(torch.zeros(2, 3, 5, 5))
    >>> maps["0"].shape
    torch.Size([2, 8, 3, 3])
    """

    def __init__(
        self, model: nn.Module, names: str | Sequence[str], *, keep_gradients: bool = False
    ) -> None:
        self.names: tuple[str, ...] = (names,) if isinstance(names, str) else tuple(names)
        if not self.names:
            raise ValueError("names is empty; name at least one submodule whose maps you want")
        self.model = underlying_module(model)
        self.keep_gradients = keep_gradients
        self._wrapper = model
        self._called_compiled = False
        self._modules = {name: find_module(self.model, name) for name in self.names}
        self._held: dict[str, list[Any]] = {name: [] for name in self.names}
        self._images: torch.Size | None = None
        self._carries_gradient = dict.fromkeys(self.names, False)
        self._cleanup: ExitStack | None = None

    def __enter__(self) -> Self:
        if self._cleanup is not None:
            raise ValueError("this FeatureMaps is already active; make a second one to nest")
        with ExitStack() as stack:
            stack.enter_context(running_eagerly(self.model))
            # The wrapper's own hooks do fire, so a call of it at least drops stale maps.
            for module in {self.model, self._wrapper}:
                stack.callback(module.register_forward_pre_hook(self._clear).remove)
            for name, module in self._modules.items():
                stack.callback(module.register_forward_hook(self._holder(name)).remove)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._cleanup is not None:
            self._cleanup.close()
            self._cleanup = None

    def __getitem__(self, name: str) -> Tensor | list[Tensor]:
        """Return the maps of one submodule from the latest forward.

        Raises:
            ValueError: If the name was not asked for, the submodule was not called in the latest
                forward, or it returned something other than one 4-d tensor, or as `check_map`.
        """
        maps = self._maps_of(name)
        return maps[0] if len(maps) == 1 else maps

    def single(self, name: str) -> Tensor:
        """Return the maps (B, C, H, W) of a submodule that is called once a forward.

        Raises:
            ValueError: As for `maps[name]`, and if the submodule was called several times.
        """
        maps = self._maps_of(name)
        if len(maps) > 1:
            raise ValueError(
                f"module {name!r} was called {len(maps)} times in the latest forward, expected "
                f"once; name a module that runs once, or take the list maps[{name!r}]"
            )
        return maps[0]

    def take(self, name: str) -> Tensor:
        """Return the maps of the latest forward for a loss on them, and hold them no longer.

        A second call before the next forward is an error, so that no step uses the maps of another.

        Raises:
            ValueError: As `single`, and if a loss on the maps would reach no weights.
        """
        maps = self.single(name)
        check_map(maps, name, carries_gradient=self._carries_gradient[name])
        if self.keep_gradients:
            self._held[name] = []
        return maps

    def clear(self) -> None:
        """Drop what the latest forward left, so that its memory is free."""
        for name in self.names:
            self._held[name] = []

    def _maps_of(self, name: str) -> list[Tensor]:
        if name not in self._held:
            raise ValueError(f"{name!r} is not captured here; captured: {', '.join(self.names)}")
        outputs = self._held[name]
        if not outputs:
            raise ValueError(self._why_empty(name))
        for output in outputs:
            if not isinstance(output, Tensor):
                raise ValueError(
                    f"module {name!r} returned {output}, expected one 4-d tensor (B, C, H, W); "
                    "name a module further inside it, or wrap it in one that returns a map"
                )
            # The parts of a head that is shared over levels have proportions of their own.
            check_map(output, name, self._images if len(outputs) == 1 else None)
        return outputs

    def _why_empty(self, name: str) -> str:
        if self._called_compiled:
            return (
                f"module {name!r} was not called: hooks do not fire inside a compiled model; "
                "call `maps.model(images)`, the module underneath, instead of the compiled one"
            )
        return (
            f"module {name!r} was not called in the latest forward; run the model inside the "
            "`with` block and name a module that its forward calls (a container that is only "
            "looped over, or a part compiled on its own, never fires its hooks)"
        )

    def _clear(self, module: nn.Module, inputs: tuple[object, ...]) -> None:
        # While a compiled wrapper traces the model, hooks must leave no trace in the compiled code.
        if torch.compiler.is_compiling():
            return
        self._called_compiled = module is not self.model
        self.clear()
        first = inputs[0] if inputs else None
        self._images = first.shape if isinstance(first, Tensor) and first.ndim == 4 else None

    def _holder(self, name: str) -> Any:
        def hold(_module: nn.Module, _inputs: object, output: object) -> Tensor | None:
            if torch.compiler.is_compiling():
                return None
            held = self._held[name]
            self._carries_gradient[name] = isinstance(output, Tensor) and output.requires_grad
            if not isinstance(output, Tensor):
                held.append(f"a {type(output).__name__}")
            elif output.ndim != 4:
                held.append(f"a {output.ndim}-d tensor of shape {tuple(output.shape)}")
            elif not self.keep_gradients:
                held.append(output.detach().clone())
            else:
                held.append(output)
                return output.clone()
            return None

        return hold
