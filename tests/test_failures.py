"""Errors of devices: which say that memory ran out, which that a device failed, and which are neither."""

from __future__ import annotations

import pytest
import torch

from effnet_builder.failures import first_line, is_device_failure, is_out_of_memory

MEMORY = [
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 1",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "FIND was unable to find an engine to execute this computation",
    "GET was unable to find an engine to execute this computation",
    "NCCL error in: ProcessGroupNCCL.cpp:268, unhandled cuda error. Last error: Cuda failure 2 'out of memory'",
]
FAILURES = [
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: unspecified launch failure",
    "CUDA error: device-side assert triggered",
]


@pytest.mark.parametrize("message", MEMORY)
def test_memory_that_ran_out_is_recognized_from_every_source(message: str) -> None:
    for kind in (RuntimeError, torch.AcceleratorError):
        assert is_out_of_memory(kind(message))
        assert not is_device_failure(kind(message))
    assert not is_out_of_memory(ValueError(message))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()])
def test_errors_of_a_type_of_their_own_are(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("message", FAILURES)
def test_a_device_that_failed_is_recognized(message: str) -> None:
    assert is_device_failure(torch.AcceleratorError(message))
    assert not is_out_of_memory(torch.AcceleratorError(message))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
        RuntimeError("Expected all tensors to be on the same device"),
        KeyError("out of memory"),
    ],
)
def test_other_errors_are_neither(error: BaseException) -> None:
    assert not is_out_of_memory(error)
    assert not is_device_failure(error)


def test_advice_of_pytorch_is_left_out() -> None:
    assert first_line(RuntimeError("CUDA error: x\nCompile with TORCH_USE_CUDA_DSA")) == "CUDA error: x"
    assert first_line(RuntimeError()) == "RuntimeError"
