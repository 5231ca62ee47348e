"""Build a classifier from its name, and find the module whose maps FMCE measures."""

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from fmce.models.features import FeatureMaps, eval_mode, underlying_module
from fmce.models.options import check_options
from fmce.models.timm_models import import_timm
from fmce.models.tiny import tiny

Options = Mapping[str, Any]

# Name of the last stage that returns maps, by the start of torchvision's model name.
_TORCHVISION_LAYERS = {
    "resnet": "layer4",
    "resnext": "layer4",
    "wide_resnet": "layer4",
    "shufflenet": "conv5",
    "mobilenet": "features",
    "efficientnet": "features",
    "densenet": "features",
    "convnext": "features",
    "vgg": "features",
    "alexnet": "features",
    "squeezenet": "features",
    "mnasnet": "layers",
    "regnet": "trunk_output",
    "googlenet": "inception5b",
    "inception": "Mixed_7c",
    # Its stages keep channels last; this module puts them first.
    "swin": "permute",
    "maxvit": "blocks.3",
}
LIBRARIES = ("torchvision", "timm")
"""Whose classifiers can be named, as "torchvision:NAME"; other prefixes are modules of the user's own."""
_KINDS = ("tiny", "torchvision:NAME", "timm:NAME", "my.module:function")
_MODELS = f"expected one of {', '.join(_KINDS)}, with your own module on PYTHONPATH or installed"


def build_model(
    name: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    options: Options | None = None,
    weights: str | None = None,
) -> nn.Module:
    """Build a classifier by name, on the CPU and in training mode.

    Args:
        name: "tiny", "torchvision:NAME", "timm:NAME", or "my.module:function", a function of your
            own that is called with `num_classes=…` and the options and returns an `nn.Module`.
        num_classes: Number of logits, at least 1.
        in_channels: Channels of the images; torchvision's models take 3 only. Your own function
            gets `in_channels=…` when it is not 3.
        options: Further keyword arguments of the model's constructor.
        weights: None trains from scratch. "DEFAULT" or another of torchvision's weight names, or
            "pretrained" for timm, starts from downloaded weights with a new classifier layer.

    Raises:
        ValueError: If the name, weights or options are unknown (near names are listed), a number is
            out of range, or your function returns no module.
        ModuleNotFoundError: If "timm:…" is asked for and timm is not installed.

    >>> build_model("tiny", 10, options={"width": 8}).head.in_features
    32
    """
    kwargs = dict(options or {})
    for argument, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value < 1:
            raise ValueError(f"{argument} must be at least 1, got {value}")
        if argument in kwargs:
            raise ValueError(f"options holds {argument!r}; pass it as build_model's own argument")
    family, _, rest = name.partition(":")
    if name == "tiny":
        _refuse_weights(name, weights)
        return _construct(name, tiny, num_classes=num_classes, in_channels=in_channels, **kwargs)
    if not rest:
        known = [*_KINDS[:1], *(f"torchvision:{model}" for model in _torchvision_names())]
        raise ValueError(_unknown("a model", name, known, f"choose from {', '.join(_KINDS)}"))
    if family == "torchvision":
        return _torchvision_model(rest, num_classes, in_channels, kwargs, weights)
    if family == "timm":
        return _timm_model(rest, num_classes, in_channels, kwargs, weights)
    _refuse_weights(name, weights)
    if in_channels != 3:
        kwargs["in_channels"] = in_channels
    return _construct(name, import_function(family, rest), num_classes=num_classes, **kwargs)


def default_layer(model: nn.Module, name: str) -> str:
    """Return the name of the last convolutional stage, whose output FMCE measures, of `build_model(name, …)`.

    The papers take the maps before global pooling of ResNet-50 ("layer4") and ShuffleNet v2 ("conv5").

    Raises:
        ValueError: If the family is not known here or has no maps with channels first; the message
            lists modules to choose from.

    >>> default_layer(build_model("tiny", 10), "tiny")
    'blocks.2'
    """
    model = underlying_module(model)
    family, _, rest = name.partition(":")
    if name == "tiny":
        return "blocks.2"
    if family == "torchvision":
        for prefix, layer in _TORCHVISION_LAYERS.items():
            if rest.startswith(prefix):
                return layer
    # HRNet's last stage returns a list of four resolutions; this layer joins them.
    if family == "timm" and rest.startswith("hrnet"):
        return "final_layer"
    # timm's transformers of the Swin kind return channels last, which FMCE-Net would misread.
    if family == "timm" and getattr(model, "output_fmt", "NCHW") == "NCHW":
        stages = getattr(model, "feature_info", None)
        if stages:
            return str(stages[-1]["module"])
    raise ValueError(
        f"the last convolutional stage of {name!r} is not known; name the module to measure "
        f"(layer) yourself, one that returns (B, C, H, W), such as: {_candidates(model)}"
    )


def feature_shape(
    model: nn.Module,
    layer: str,
    image_shape: tuple[int, int, int],
    device: torch.device | str | None = None,
) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of the layer's maps for images of shape (channels, height, width).

    Runs one black image in eval mode; the model is left as found. By default it runs where its parameters are.

    Raises:
        ValueError: As `FeatureMaps`, if the layer is unknown, not called, called several times or
            returns no maps.

    >>> feature_shape(tiny(10), "blocks.2", (3, 16, 16))
    (64, 4, 4)
    """
    parameter = next(model.parameters(), torch.empty(0))
    image = torch.zeros(1, *image_shape, dtype=parameter.dtype, device=device or parameter.device)
    with FeatureMaps(model, layer) as maps, eval_mode(maps.model), torch.no_grad():
        maps.model(image)
    _, channels, height, width = maps.single(layer).shape
    return channels, height, width


def _refuse_weights(name: str, weights: str | None) -> None:
    if weights is not None:
        raise ValueError(
            f"{name!r} has no pretrained weights, got weights={weights!r}; leave weights out, or "
            "load them inside a function of your own"
        )


def _unknown(what: str, name: str, known: Iterable[str], otherwise: str) -> str:
    near = difflib.get_close_matches(name, list(known), n=5, cutoff=0.5)
    return f"expected {what}, got {name!r}; " + (f"near: {', '.join(near)}" if near else otherwise)


def _construct(name: str, function: Callable[..., Any], **kwargs: Any) -> nn.Module:
    # A user's own function keeps its errors; a library's may make anything of its options.
    known = name.partition(":")[0] in ("tiny", *LIBRARIES)
    try:
        model = function(**kwargs)
    except Exception as error:
        if not (known or isinstance(error, TypeError)):
            raise
        given = ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
        raise ValueError(f"{name!r} could not be built with {given}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"{name!r} returned a {type(model).__name__}, expected an nn.Module; name a function that returns one"
        )
    return model


def import_function(
    module_name: str, function_name: str, remedy: str | None = None
) -> Callable[..., Any]:
    """Import the user's function; `remedy` is what the error about a missing module advises.

    Raises:
        ValueError: If there is no such module or function; near names are listed.
    """
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise ValueError(
            f"expected module:function with the full name of a module, got {module_name}:{function_name}; "
            f"{remedy or _MODELS}"
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A module that exists but fails to import another one keeps its own message.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"cannot import module {module_name!r}: {error}; {remedy or _MODELS}"
        ) from error
    found: Callable[..., Any] | None = getattr(module, function_name, None)
    if not callable(found):
        known = (f"{module_name}:{name}" for name in vars(module) if not name.startswith("_"))
        name, message = f"{module_name}:{function_name}", f"is it defined in {module_name}?"
        raise ValueError(_unknown("a function", name, known, message))
    return found


VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def parameters_of(name: str, function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of the function that a name stands for.

    Raises:
        ValueError: If Python does not know them, as of some built-in functions.
    """
    try:
        return list(inspect.signature(function).parameters.values())
    except ValueError as error:
        raise ValueError(
            f"{name}: expected a Python function, but {error}; name another"
        ) from error


def call_named(name: str, remedy: str | None = None) -> Any:
    """Return what the user's function "module:function" returns, called without arguments.

    Raises:
        ValueError: If there is no such function, or it needs arguments.
    """
    module, _, function = name.partition(":")
    if not function:
        raise ValueError(f"expected module:function, got {name!r}; {remedy or _MODELS}")
    called = import_function(module, function, remedy)
    needed = [
        p.name
        for p in parameters_of(name, called)
        if p.default is p.empty and p.kind not in VARIADIC
    ]
    if needed:
        raise ValueError(
            f"{name} is called without arguments, but needs {', '.join(needed)}; give each a default"
        )
    return called()


def own_or_named_model(name: str, num_classes: int) -> nn.Module:
    """Return the network of a user's function without arguments, or a library's with so many classes.

    Raises:
        ValueError: If the name is unknown, or the function returns no `nn.Module`.
    """
    if name == "tiny" or name.partition(":")[0] in LIBRARIES:
        return build_model(name, num_classes)
    model = call_named(name)
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"{name} returned a {type(model).__name__}, expected an nn.Module; name a function that returns one"
        )
    return model


def _torchvision_names() -> list[str]:
    from torchvision import models

    # Without `module`, detection and video models would be listed too.
    names: list[str] = models.list_models(module=models)
    return names


def _torchvision_model(
    name: str, num_classes: int, in_channels: int, options: dict[str, Any], weights: str | None
) -> nn.Module:
    from torchvision import models

    if name not in _torchvision_names():
        raise ValueError(
            _unknown("a torchvision model", name, _torchvision_names(), "see torchvision's docs")
        )
    if in_channels != 3:
        raise ValueError(
            f"torchvision:{name} takes images of 3 channels, got {in_channels}; "
            "replicate grey images to 3 channels"
        )
    if name in ("googlenet", "inception_v3"):
        # With auxiliary heads they return a tuple in training mode.
        options = {"aux_logits": False, **options}
        if weights is None:
            options.setdefault("init_weights", True)
    build = models.get_model_builder(name)
    check_options(f"torchvision:{name}", build, options)
    if weights is None:
        return _construct(f"torchvision:{name}", build, num_classes=num_classes, **options)
    choices = models.get_model_weights(name)
    if weights not in choices.__members__:
        known = list(choices.__members__)
        raise ValueError(
            _unknown("the name of weights", weights, known, f"choose from {', '.join(known)}")
        )
    model = _construct(f"torchvision:{name}", build, weights=choices[weights], **options)
    return _with_new_head(model, num_classes)


def _with_new_head(model: nn.Module, num_classes: int) -> nn.Module:
    """Replace the classifier layer, the last linear one or (SqueezeNet) the last convolution."""
    layers = {k: m for k, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
    name = (linear or list(layers))[-1]
    old = layers[name]
    if isinstance(old, nn.Linear):
        model.set_submodule(
            name, nn.Linear(old.in_features, num_classes, bias=old.bias is not None)
        )
    else:
        convolution = nn.Conv2d(old.in_channels, num_classes, old.kernel_size)  # type: ignore[arg-type]
        model.set_submodule(name, convolution)
    return model


def _timm_model(
    name: str, num_classes: int, in_channels: int, options: dict[str, Any], weights: str | None
) -> nn.Module:
    timm = import_timm(f"timm:{name}")
    if weights not in (None, "pretrained"):
        raise ValueError(f"weights of timm models are None or 'pretrained', got {weights!r}")
    if not timm.is_model(name):
        known = timm.list_models()
        raise ValueError(_unknown("a timm model", name, known, "see timm.list_models()"))
    check_options(f"timm:{name}", timm.model_entrypoint(name), options)
    return _construct(
        f"timm:{name}",
        timm.create_model,
        model_name=name,
        pretrained=weights is not None,
        num_classes=num_classes,
        in_chans=in_channels,
        **options,
    )


def _candidates(model: nn.Module) -> str:
    """List the last modules, up to two levels deep, that contain a convolution."""
    near = [(name, module) for name, module in model.named_modules() if name.count(".") < 2]
    names = [n for n, m in near if n and any(isinstance(c, nn.Conv2d) for c in m.modules())]
    return ", ".join((names or [name for name, _ in model.named_children()])[-8:]) or "none"
