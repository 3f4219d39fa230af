"""Recognize what errors of a device mean: memory that ran out, a device that computes no more."""

from __future__ import annotations

import gc

import torch

# What a RuntimeError other than OutOfMemoryError says if memory ran out: of the CPU's allocator and oneDNN; of the CUDA
# runtime (pinned memory, contexts, kernels) and the driver; of cuBLAS and cuDNN, for handles and workspaces; of NCCL.
_SIGNS = (
    "can't allocate memory", "not enough memory", "could not create a primitive", "could not create a memory",
    "CUDA error: out of memory", "CUDA out of memory", "CUDA_ERROR_OUT_OF_MEMORY", "cudaErrorMemoryAllocation",
    "CUBLAS_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED", "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "unable to find an engine to execute this computation", "'out of memory'",
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out: that of the device, pinned memory, or the CPU's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def first_line(error: BaseException) -> str:
    """Return what an error says, without the advice that PyTorch adds on further lines."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def is_device_failure(error: BaseException) -> bool:
    """Return whether an error is that of a CUDA device that computes no more: ECC, Xid, an illegal access, a reset."""
    return isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)


def release_memory() -> None:
    """Collect garbage, and give the memory that PyTorch keeps for later back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
