"""What PyTorch's side of a benchmark does with a device: the layout of images, half precision, waiting."""

import contextlib
from typing import Any

import numpy as np


def network_on(net: Any, device: str) -> Any:
    """A module on the device, its kernels in channels_last, which is as fast as NCHW or faster."""
    import torch

    return net.to(device=device, memory_format=torch.channels_last)


def image_layout(x: np.ndarray, device: str) -> Any:
    """A tensor on the device; images NHWC become NCHW in channels_last, where nothing moves in memory."""
    import torch

    tensor = torch.from_numpy(x).to(device)
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor


def half_precision(device: str, dtype: Any) -> Any:
    """Autocast to the dtype, or nothing for None."""
    import torch

    return contextlib.nullcontext() if dtype is None else torch.autocast(device, dtype)


def wait(device: str) -> None:
    """Until the device has computed everything."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
