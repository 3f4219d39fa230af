"""How a training step computes: autocast, TensorFloat-32, and the scale that keeps float16 gradients from vanishing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .optim_settings import Precision

_CASTS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raises ValueError where the device has no such arithmetic.

    A CPU has fp32, bf16 and, since torch casts to it there, fp16: right, but many times slower than fp32 on most.
    """
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(f"tf32 is arithmetic of CUDA devices; {device.type} has fp32, bf16 and fp16")
    if device.type == "cuda" and precision in ("tf32", "bf16"):
        name, (major, minor) = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
        if major < 8:
            known = "fp32 and fp16; bf16 and tf32 need compute capability 8.0"
            raise ValueError(f"{name} has compute capability {major}.{minor}, and so {known}")


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The context of the forward pass and the loss, and of nothing behind them; nothing changes for fp32 and tf32."""
    return torch.autocast(device.type, _CASTS.get(precision), enabled=precision in _CASTS)


@contextmanager
def float32_products(precision: Precision, device: torch.device) -> Iterator[None]:
    """Inside, float32 products on CUDA are TF32, but for fp32, where they are exact; afterwards all is as before.

    Set both ways, because torch's own default is neither: convolutions in TF32, matrix products not. Put back, because
    the setting is the process's, and other code runs in it. By the old switches: torch.compile reads them, and torch
    refuses to read what was set by the new ones.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    rounded = device.type == "cuda" and precision != "fp32"
    try:
        _set("high" if rounded else "highest", rounded)
        yield
    finally:
        _set(*before)


def gradient_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Scales the loss for fp16, and is transparent for the others.

    A step is `scale(loss).backward()`, `unscale_(optimizer)`, clipping, `step(optimizer)`, `update()`, of which `step`
    leaves the weights alone where a gradient is not finite. With fp16 it waits for the device, and so does
    `state_dict()`: floats and whole numbers, or nothing but for fp16.
    """
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def _set(matmul: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = convolutions
