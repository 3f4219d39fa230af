"""The CPU's view of device memory, which is host memory on the fake GPU."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from .counters import runtime

_start = ctypes.c_void_p()
_bytes = ctypes.c_size_t()
runtime().fakegpu_device_memory(ctypes.byref(_start), ctypes.byref(_bytes))
_START: int = _start.value or 0
_ALL = torch.frombuffer((ctypes.c_char * _bytes.value).from_address(_START), dtype=torch.uint8)
_BY_DTYPE: dict[torch.dtype, tuple[Tensor, int]] = {}


def _all_of(dtype: torch.dtype) -> tuple[Tensor, int]:
    """Return all device memory as a tensor of a dtype, and the size of an element."""
    _BY_DTYPE[dtype] = (_ALL.view(dtype), dtype.itemsize)
    return _BY_DTYPE[dtype]


def cpu_view(tensor: Tensor) -> Tensor:
    """Return a CPU tensor on the memory of a CUDA tensor.

    A view of the one tensor that is all device memory: nothing has to be kept up to date when memory is freed.
    """
    pointer = tensor.data_ptr()
    if pointer == 0:  # a tensor without elements
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)
    memory, itemsize = _BY_DTYPE.get(tensor.dtype) or _all_of(tensor.dtype)
    view = memory.as_strided(tensor.size(), tensor.stride(), (pointer - _START) // itemsize)
    if tensor.is_neg():
        return view.neg()
    if tensor.is_conj():
        return view.conj()
    return view


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a CUDA tensor with the values and the layout of a CPU tensor; counts as no copy."""
    result = torch.empty_like(tensor, device=device)
    if tensor.numel():
        cpu_view(result).copy_(tensor)
    return result
