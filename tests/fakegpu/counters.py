"""What the fake GPU counts: launches, synchronizations, copies and allocations."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

CopyKind = Literal[
    "device to device", "pinned to device", "pageable to device", "device to pinned", "device to pageable", "host to host"
]  # fmt: skip
COPY_KINDS: tuple[CopyKind, ...] = get_args(CopyKind)
_MAX_DEVICES = 16


@dataclass(frozen=True, slots=True)
class Copies:
    """The copies of one kind."""

    calls: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Counts:
    """What the process did since the last reset."""

    launches: int
    """Kernels, and graphs, of which each is one launch. Exact in count mode; emulated ops launch nothing."""
    graph_launches: int
    captured_launches: int
    """Kernels that were recorded into a graph."""
    stream_synchronizations: int
    device_synchronizations: int
    event_synchronizations: int
    blocking_copies: int
    memsets: int
    copies: Mapping[CopyKind, Copies]
    allocations: tuple[int, ...]
    """Calls of cudaMalloc, by device."""
    pinned_allocations: tuple[int, ...]
    """Calls of cudaHostAlloc and cudaHostRegister, by the device that was current."""
    allocated_bytes: tuple[int, ...]
    """Device memory that is allocated now, by device; a reset leaves it alone."""
    contexts: tuple[bool, ...]
    """Whether this process has a context on a device; a reset leaves it alone."""
    kernels: Mapping[str, int]
    """Launches by kernel, as the compiler named it; empty unless FAKE_CUDA_NAMES=1."""

    @property
    def synchronizations(self) -> int:
        """The times that the host waited for a device."""
        return (
            self.stream_synchronizations
            + self.device_synchronizations
            + self.event_synchronizations
            + self.blocking_copies
        )

    @property
    def pageable_copies(self) -> int:
        """The copies between a device and memory that is not pinned."""
        return self.copies["pageable to device"].calls + self.copies["device to pageable"].calls


class _Raw(ctypes.Structure):
    """`Counts` of runtime/state.h."""

    _fields_ = (
        ("launches", ctypes.c_int64),
        ("graph_launches", ctypes.c_int64),
        ("captured_launches", ctypes.c_int64),
        ("stream_synchronizations", ctypes.c_int64),
        ("device_synchronizations", ctypes.c_int64),
        ("event_synchronizations", ctypes.c_int64),
        ("blocking_copies", ctypes.c_int64),
        ("memsets", ctypes.c_int64),
        ("copies", ctypes.c_int64 * len(COPY_KINDS)),
        ("copied_bytes", ctypes.c_int64 * len(COPY_KINDS)),
        ("allocations", ctypes.c_int64 * _MAX_DEVICES),
        ("pinned_allocations", ctypes.c_int64 * _MAX_DEVICES),
        ("allocated_bytes", ctypes.c_int64 * _MAX_DEVICES),
        ("contexts", ctypes.c_int64 * _MAX_DEVICES),
    )


@cache
def runtime() -> ctypes.CDLL:
    """Return the stub runtime of this process. Raises RuntimeError if it does not run on the fake GPU."""
    library = ctypes.CDLL(None)
    try:
        library.fakegpu_counts.restype = ctypes.POINTER(_Raw)
    except AttributeError:
        raise RuntimeError("this process does not run on the fake GPU: see tests/fakegpu/README.md") from None
    library.fakegpu_dead.restype = ctypes.POINTER(ctypes.c_int)
    library.fakegpu_kernels.restype = ctypes.c_size_t
    library.fakegpu_kernels.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
    library.fakegpu_launch.argtypes = (ctypes.c_void_p,)
    library.fakegpu_device_memory.argtypes = (ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_size_t))
    return library


def active() -> bool:
    """Return whether this process runs on the fake GPU."""
    return hasattr(ctypes.CDLL(None), "fakegpu_counts")


def counts() -> Counts:
    """Return what the process did since the last reset."""
    raw = runtime().fakegpu_counts().contents
    devices = ctypes.c_int()
    runtime().cudaGetDeviceCount(ctypes.byref(devices))
    scalars = ("launches", "graph_launches", "captured_launches", "stream_synchronizations", "device_synchronizations",
               "event_synchronizations", "blocking_copies", "memsets")  # fmt: skip
    return Counts(
        **{name: getattr(raw, name) for name in scalars},
        copies={kind: Copies(raw.copies[i], raw.copied_bytes[i]) for i, kind in enumerate(COPY_KINDS)},
        allocations=tuple(raw.allocations[: devices.value]),
        pinned_allocations=tuple(raw.pinned_allocations[: devices.value]),
        allocated_bytes=tuple(raw.allocated_bytes[: devices.value]),
        contexts=tuple(bool(context) for context in raw.contexts[: devices.value]),
        kernels=_kernels(),
    )


def reset() -> None:
    """Set all counts to zero, except for `allocated_bytes` and `contexts`, which are states."""
    runtime().fakegpu_reset_counts()
    runtime().fakegpu_reset_kernels()


def _kernels() -> dict[str, int]:
    length = runtime().fakegpu_kernels(None, 0)
    text = ctypes.create_string_buffer(length + 1)
    runtime().fakegpu_kernels(text, length + 1)
    lines = (line.split(" ", 1) for line in text.value.decode().splitlines())
    return {name: int(count) for count, name in lines}
