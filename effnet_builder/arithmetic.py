"""Arithmetic on the device: autocast, TensorFloat-32, deterministic kernels, and the loss scale of float16."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .precisions import Precision

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
    """Compute float32 products on CUDA in TF32 inside, except for fp32, where they are exact; then restore everything.

    Set both ways, because torch's own default is neither: convolutions in TF32, matrix products not. Restored, because
    the settings are those of the process, and other code runs in it. Raises nothing whichever switches were set before:
    torch's older ones (`allow_tf32`), or the newer `fp32_precision` of the backend, or of all.
    """
    rounded = device.type == "cuda" and precision != "fp32"
    older, newer = _older_switches(), _newer_switches()
    try:
        _set_older("high" if rounded else "highest", rounded)  # torch.compile reads them
        for switch in _OPERATORS:  # the older ones leave an operator to the switch of its backend, or of all
            switch.fp32_precision = "tf32" if rounded else "ieee"
        yield
    finally:
        _set_older(*older)
        _restore(newer)


@contextmanager
def deterministic_algorithms(enabled: bool, device: torch.device) -> Iterator[None]:
    """Let CUDA use kernels inside that give the same bits in each run, if `enabled`; then restore everything.

    For the same GPU model, driver and versions. An operation without such a kernel raises RuntimeError. Reductions by
    atomics become sorts, and cuDNN may choose slower convolutions. A CPU is deterministic as it is.
    """
    if not enabled or device.type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    fill, benchmark = settings.fill_uninitialized_memory, torch.backends.cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is refused
    try:
        torch.use_deterministic_algorithms(True)
        settings.fill_uninitialized_memory = False  # a launch for each new tensor
        torch.backends.cudnn.benchmark = False  # it would choose by time
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        settings.fill_uninitialized_memory = fill
        torch.backends.cudnn.benchmark = benchmark


def gradient_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Scales the loss for fp16, and is transparent for the others.

    A step is `scale(loss).backward()`, `unscale_(optimizer)`, clipping, `step(optimizer)`, `update()`, of which `step`
    leaves the weights alone where a gradient is not finite. With fp16 it waits for the device, and so does
    `state_dict()`: floats and whole numbers, or nothing but for fp16.
    """
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


# From that of all backends to that of an operator: a `none` takes the value of the one above.
_GENERAL: tuple[Any, ...] = (torch.backends, torch.backends.cudnn, torch.backends.mkldnn)
_OPERATORS: tuple[Any, ...] = (
    torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn,  # type: ignore[attr-defined]
)  # fmt: skip
_CPU_OPERATORS: tuple[Any, ...] = (
    torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv, torch.backends.mkldnn.rnn,  # type: ignore[attr-defined]
)  # fmt: skip


def _newer_switches() -> list[tuple[Any, str, str]]:
    """Return each `fp32_precision` with its effective value, and with its own, seen while those above it are unset."""
    switches = (*_GENERAL, *_OPERATORS, *_CPU_OPERATORS)
    effective, own = [switch.fp32_precision for switch in switches], []
    try:
        for switch in switches:
            own.append(switch.fp32_precision)
            if switch in _GENERAL:
                switch.fp32_precision = "none"
    finally:
        for switch, value in reversed(list(zip(_GENERAL, own, strict=False))):
            switch.fp32_precision = value
    return list(zip(switches, effective, own, strict=True))


def _restore(switches: list[tuple[Any, str, str]]) -> None:
    for switch, _, own in reversed(switches):  # that of all last: torch unsets it with that of a backend
        switch.fp32_precision = own
    for switch, effective, _ in switches:
        if (
            switch.fp32_precision != effective
        ):  # torch's defaults give way to a switch above, and are not to be had back
            switch.fp32_precision = effective


def _older_switches() -> tuple[str, bool]:
    """Return the older switches; where newer ones say otherwise, torch refuses to read them, and nobody misses them."""
    try:
        matmul = torch.get_float32_matmul_precision()
    except RuntimeError:
        matmul = "highest"
    try:
        return matmul, torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return matmul, True


def _set_older(matmul: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = convolutions
