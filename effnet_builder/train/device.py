"""The device of a network, and copies to it that the host does not wait for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ..failures import is_out_of_memory

_can_pin = True


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """`cpu`, `cuda`, or `auto`: CUDA where there is one. Raises ValueError where the wanted one is missing.

    Of several processes on a machine, each takes the CUDA device of its own number.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name != "cuda":
        return torch.device(name)
    if not torch.cuda.is_available():
        raise ValueError("torch finds no CUDA device here")
    if local_rank >= torch.cuda.device_count():
        raise ValueError(f"this is process {local_rank + 1} of this machine, which has {torch.cuda.device_count()}")
    return torch.device("cuda", local_rank)


def to_device(model: torch.nn.Module, device: torch.device, *, channels_last: bool) -> torch.nn.Module:
    """The module where it is to run, in place; `channels_last` is the order of the weights of convolutions."""
    model.to(device)
    return model.to(memory_format=torch.channels_last) if channels_last else model


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the CPU to a device, without waiting for CUDA: through pinned memory, if there is any."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    with on_device(device):
        return _pinned(tensor.pin_memory, lambda: tensor).to(device, non_blocking=True)


def staging(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return uninitialized memory of the CPU from which a device reads: pinned for CUDA, if there is any."""
    if device.type != "cuda":
        return torch.empty(*shape, dtype=dtype)
    with on_device(device):
        return _pinned(
            lambda: torch.empty(*shape, dtype=dtype, pin_memory=True), lambda: torch.empty(*shape, dtype=dtype)
        )


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Make a CUDA device the current one of this thread: memory is pinned, and kernels are launched, for that one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _pinned(pin: Callable[[], Tensor], otherwise: Callable[[], Tensor]) -> Tensor:
    """Return what `pin` gives, or once the system has refused to pin memory, the other; and say so, once."""
    global _can_pin
    if _can_pin:
        try:
            return pin()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        _can_pin = False
        warnings.warn("the system pins no more memory: copies to the device are not asynchronous", stacklevel=4)
    return otherwise()
