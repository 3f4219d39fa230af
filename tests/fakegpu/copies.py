"""Copies between devices, as PyTorch's CUDA code makes them: the same calls of the runtime, of the same kinds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .memory import cpu_view, to_device

_copy = torch.ops.aten.copy_.default


def transfer(target: Tensor, source: Tensor, non_blocking: bool) -> Tensor:
    """Copy to a tensor on another device.

    CUDA copies bytes between tensors of one dtype and layout. PyTorch converts before that, on the side of the source,
    and lays out after it, on the side of the target.
    """
    if not target.numel():
        return _copy(target, source, non_blocking)
    landing = target if _is_dense(target) else torch.empty_like(target)
    if source.dtype != landing.dtype or source.shape != landing.shape or source.stride() != landing.stride():
        source = _converted(source, landing)
    _copy(landing, source, non_blocking)
    if landing is not target:
        _on_cpu(target).copy_(_on_cpu(landing))
    return target


def to_other_device(source: Tensor, device: torch.device, kwargs: dict[str, Any]) -> Tensor:
    """Carry out `_to_copy` to another device."""
    non_blocking = kwargs.get("non_blocking", False)
    target = torch.empty_like(
        source,
        dtype=kwargs.get("dtype") or source.dtype,
        device=device,
        memory_format=kwargs.get("memory_format") or torch.preserve_format,
        # PyTorch pins the result of an asynchronous copy to the host.
        pin_memory=bool(kwargs.get("pin_memory")) or (non_blocking and device.type == "cpu"),
    )
    return transfer(target, source, non_blocking)


def _is_dense(tensor: Tensor) -> bool:
    return tensor.is_contiguous() or torch.ops.aten.is_non_overlapping_and_dense.default(tensor)


def _converted(source: Tensor, target: Tensor) -> Tensor:
    """Return the source in the dtype, the shape and the layout of the target, still on its own device."""
    converted = torch.empty_like(target, device="cpu").copy_(_on_cpu(source))
    return to_device(converted, source.device) if source.is_cuda else converted


def _on_cpu(tensor: Tensor) -> Tensor:
    return cpu_view(tensor) if tensor.is_cuda else tensor
