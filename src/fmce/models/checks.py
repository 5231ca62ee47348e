"""Checks, before the first epoch, that a model can be trained as a config asks."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from fmce.models.features import eval_mode

# Measured with torch 2.14 and oneDNN on AVX2: below 8 input channels the backward pass of such a
# convolution writes outside its memory. 16 leaves room for processors with wider registers.
_LEAST_CHANNELS = 16


def check_channels_last(model: nn.Module, device: torch.device) -> None:
    """Refuse a model whose training in NHWC order would corrupt the process's memory.

    That is so on CPUs for 1×1 convolutions with a stride and few input channels. `torch.compile`
    chooses NHWC order on CPUs by itself.

    Raises:
        ValueError: If it has such a convolution and the device is the CPU.

    >>> check_channels_last(nn.Conv2d(64, 128, 1, stride=2), torch.device("cpu"))
    """
    name = unsafe_in_channels_last(model, device)
    if name is not None:
        raise ValueError(
            f"{name or 'the model'} is a strided 1×1 convolution of few channels, which PyTorch cannot "
            "train on CPUs in the memory order that runtime.channels_last and runtime.compile use; "
            f"turn them off, or use {_LEAST_CHANNELS} channels or more"
        )


def unsafe_in_channels_last(model: nn.Module, device: torch.device) -> str | None:
    """Return the name of a submodule for which `check_channels_last` refuses the model, else None.

    >>> unsafe_in_channels_last(nn.Sequential(nn.Conv2d(4, 8, 1, 2)), torch.device("cpu"))
    '0'
    """
    if device.type != "cpu":
        return None
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and set(module.kernel_size) == {1}:
            few = module.in_channels // module.groups < _LEAST_CHANNELS
            if few and max(module.stride) > 1:
                return str(name)
    return None


def check_classifier(
    model: nn.Module, side: int, num_classes: int, train_batches: tuple[int, int] | None = None
) -> None:
    """Refuse a model that cannot take square images of a size, or returns anything but one logit per class.

    Runs one black image (1, 3, side, side) in eval mode; the model is left as found.

    Args:
        model: Images → logits, in the mode in which it trains.
        side: Pixels.
        num_classes: Classes of the data set.
        train_batches: Number of training images and of images per batch.

    Raises:
        ValueError: If no weight can be trained or one is not float32, if the model fails on such an image
            (the message holds its reason), its output has another form or is not finite, or a batch of one image
            would leave a norm layer one value per channel.

    >>> check_classifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5)), 8, 5)
    """
    name, parameters = type(model).__name__, list(model.parameters())
    other = {p.dtype for p in parameters} - {torch.float32}
    if other:
        raise ValueError(
            f"expected weights in float32, got {other.pop()} from {name}; leave that to the run: "
            "runtime.precision=bfloat16 computes forward passes in bfloat16"
        )
    image = torch.zeros(1, 3, side, side, device=next(iter(parameters), torch.empty(0)).device)
    try:
        with _norms_of_one_value(model) as starved, eval_mode(model), torch.no_grad():
            logits = model(image)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{name} cannot take images of {side}×{side} pixels ({reason}); set "
            "data.image_size to what it needs, or give its builder a size by model.options"
        ) from error
    form = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if form != (1, num_classes):
        raise ValueError(
            f"expected logits of shape {(1, num_classes)} for one image, one per class, got {form} from "
            f"{name}; let its builder use the num_classes that it is given"
        )
    if not logits.isfinite().all():
        broken = [
            n
            for n, p in model.state_dict().items()
            if p.is_floating_point() and not p.isfinite().all()
        ]
        raise ValueError(
            f"{name} gives NaN or infinite logits before any training; "
            + (
                f"its weights hold such values, first {broken[0]}: load others"
                if broken
                else "check its forward"
            )
        )
    if not any(p.requires_grad for p in parameters):
        raise ValueError(f"{name} has no weight that trains; leave requires_grad on for some")
    if train_batches is not None and starved:
        images, size = train_batches
        if (images % size or min(size, images)) == 1:
            fits = [s for s in range(2, images + 1) if images % s != 1]
            nearest = min(fits, key=lambda s: abs(s - size), default="one that fits more images")
            raise ValueError(
                f"{starved[0]!r} normalises over the batch and has one value per channel for each image, and the last "
                f"batch of an epoch has one image ({images} images in batches of {size}); set train.batch_size to "
                f"another size, such as {nearest}"
            )


@contextmanager
def _norms_of_one_value(model: nn.Module) -> Iterator[list[str]]:
    """Yield a list that gets the names of batch norms in training mode that see one value per channel of an image."""
    found: list[str] = []

    def note(name: str, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].numel() == len(inputs[0]) * inputs[0].shape[1]:
            found.append(name)

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
                hook = module.register_forward_pre_hook(lambda _m, x, name=name: note(name, x))
                hooks.callback(hook.remove)
        yield found
