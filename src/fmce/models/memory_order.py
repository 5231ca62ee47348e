"""Which models may run in NHWC memory order on a processor."""

import torch
from torch import nn

# Measured with torch 2.14 and oneDNN on AVX2: below 8 input channels the backward pass of such a
# convolution writes outside its memory. 16 leaves room for processors with wider registers.
_LEAST_CHANNELS = 16


def check_channels_last(model: nn.Module, device: torch.device) -> None:
    """Refuse a model whose training in NHWC order would corrupt the process's memory.

    That is so on CPUs for 1×1 convolutions with a stride and few input channels. `torch.compile`
    chooses NHWC order on CPUs by itself.

    Args:
        model: any module.
        device: where it is to run.

    Raises:
        ValueError: If it has such a convolution and the device is the CPU.

    Example:
        >>> check_channels_last(nn.Conv2d(64, 128, 1, stride=2), torch.device("cpu"))
    """
    if device.type != "cpu":
        return
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and _is_unsafe(module):
            raise ValueError(
                f"{name or 'the model'} is a strided 1×1 convolution of {module.in_channels} channels, which "
                "PyTorch cannot train on CPUs in the memory order that runtime.channels_last and "
                f"runtime.compile use; turn them off, or use {_LEAST_CHANNELS} channels or more"
            )


def _is_unsafe(convolution: nn.Conv2d) -> bool:
    strided = max(convolution.stride) > 1 and set(convolution.kernel_size) == {1}
    return strided and convolution.in_channels // convolution.groups < _LEAST_CHANNELS
