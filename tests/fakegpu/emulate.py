"""Emulate mode: each op on CUDA tensors is computed by the CPU's kernel on the same memory.

What a GPU refuses is refused, and where the host would wait for the device, it does.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, _tensor_str
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode, _push_mode

from . import graphs
from .copies import to_other_device, transfer
from .counters import runtime
from .generators import Draw, generator_of
from .memory import cpu_view, to_device
from .operators import OPERATORS, Kind, Operator, classify

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_DEAD = runtime().fakegpu_dead().contents


class Emulator(TorchDispatchMode):
    """Computes what is on CUDA devices on the CPU."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spare each op a call of torch._dynamo, and each process the second that its import takes."""
        return False

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        operator = OPERATORS.get(func) or classify(func)
        kind = operator.kind
        if kind is Kind.REAL:
            return func(*args, **kwargs)
        if kind is Kind.COLLECTIVE:
            from . import ranks  # with torch.distributed, which most processes do not need

            return ranks.collective(func, args, kwargs)
        tensors: list[Tensor] = []
        _collect(args, tensors)
        if kwargs:
            _collect(kwargs.values(), tensors)
        device = _device(tensors, kwargs)
        if device is None:
            return func(*args, **kwargs)
        if _DEAD.value:
            torch.cuda.current_stream(device).synchronize()  # raises
        if kind is Kind.COMPUTE:
            _check_devices(operator, args, tensors, device)
            if operator.waits:
                wait(device)
            return compute(operator, args, kwargs, device)
        if kind is Kind.DECOMPOSE:
            with self:
                return func.decompose(*args, **kwargs)
        if kind is Kind.INDEX:
            return _index(operator, args, kwargs, device)
        return _copy(func, operator, args, kwargs, device)


def _collect(values: Iterable[Any], tensors: list[Tensor]) -> None:
    for value in values:
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, (list, tuple)):
            _collect(value, tensors)


def _device(tensors: list[Tensor], kwargs: dict[str, Any]) -> torch.device | None:
    """Return the CUDA device of an op; None if it has none."""
    for tensor in tensors:
        if tensor.is_cuda:
            return tensor.device
    device = kwargs.get("device")
    if device is None or device.type != "cuda":
        return None
    return device if device.index is not None else torch.device("cuda", torch.cuda.current_device())


def _check_devices(operator: Operator, args: tuple[Any, ...], tensors: list[Tensor], device: torch.device) -> None:
    """Raise RuntimeError, as CUDA does, if tensors are on two devices; a CPU tensor of one value may be among them."""
    number = device.index
    for tensor in tensors:
        other = tensor.get_device()
        if other != number and (other >= 0 or tensor.dim() > 0):
            refuse(operator, tensor.device, device)
    if operator.written and isinstance(args[0], Tensor) and not args[0].is_cuda:
        refuse(operator, args[0].device, device)


def refuse(operator: Operator, one: torch.device, other: torch.device) -> None:
    raise RuntimeError(
        f"Expected all tensors to be on the same device, but found at least two devices, {other} and {one}! "
        f"(in aten::{operator.name}, on the fake GPU)"
    )


def wait(device: torch.device) -> None:
    """Wait for the device, which counts, and which `torch.cuda.set_sync_debug_mode` may forbid."""
    torch.cuda.current_stream(device).synchronize()


# --- Computing ---


def compute(operator: Operator, args: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device) -> Any:
    """Compute an op on the CPU; its results are new CUDA tensors, or those of its arguments that it wrote to."""
    of_view: dict[int, Tensor] = {}
    cpu_args = _views(args, of_view)
    cpu_kwargs: dict[str, Any] = {}
    draw = None
    if kwargs:
        if operator.random:
            kwargs = dict(kwargs)
            draw = Draw(operator, generator_of(kwargs, device))
        cpu_kwargs = _cpu_kwargs(kwargs, of_view)
    elif operator.random:
        draw = Draw(operator, generator_of({}, device))
    if operator.outputs:
        return _compute_into(operator, cpu_args, cpu_kwargs, kwargs, draw)
    call = graphs.Call(operator, cpu_args, cpu_kwargs, draw)
    if graphs.RECORDING:
        return graphs.record(call, lambda result: _results(result, of_view, device))
    return _results(call(), of_view, device)


def _views(values: Iterable[Any], of_view: dict[int, Tensor]) -> list[Any]:
    views: list[Any] = []
    for value in values:
        if isinstance(value, Tensor):
            if value.is_cuda:
                view = cpu_view(value)
                of_view[id(view)] = value
                views.append(view)
            else:
                views.append(value)
        elif isinstance(value, (list, tuple)):
            views.append(_views(value, of_view))
        elif isinstance(value, torch.device):
            views.append(torch.device("cpu"))
        else:
            views.append(value)
    return views


def _cpu_kwargs(kwargs: dict[str, Any], of_view: dict[int, Tensor]) -> dict[str, Any]:
    values = dict(zip(kwargs, _views(kwargs.values(), of_view), strict=True))
    if values.get("pin_memory"):
        values["pin_memory"] = False
    return values


def _results(result: Any, of_view: dict[int, Tensor], device: torch.device) -> Any:
    if isinstance(result, Tensor):
        written = of_view.get(id(result))
        return to_device(result, device) if written is None else written
    if isinstance(result, (list, tuple)):
        return type(result)([_results(value, of_view, device) for value in result])
    return result


def _compute_into(
    operator: Operator, args: list[Any], cpu_kwargs: dict[str, Any], kwargs: dict[str, Any], draw: Draw | None
) -> Any:
    """Compute an op with `out=`, whose tensors the CPU must not resize: they are views."""
    targets = [kwargs[name] for name in operator.outputs]
    results = [torch.empty(0, dtype=target.dtype) for target in targets]
    call = graphs.Call(operator, args, cpu_kwargs | dict(zip(operator.outputs, results, strict=True)), draw)

    def store() -> None:
        call()
        for target, result in zip(targets, results, strict=True):
            if target.shape != result.shape:
                target.resize_(result.shape)
            if result.numel():
                cpu_view(target).copy_(result)

    store()
    if graphs.RECORDING:
        graphs.add(store)
    return targets[0] if len(targets) == 1 else tuple(targets)


# --- Indexing and copying ---


def _index(operator: Operator, args: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device) -> Any:
    """Index by tensors, which may be on the CPU if what they index is not."""
    rest = [value for value in (args[0], *args[2:]) if isinstance(value, Tensor)]
    if not args[0].is_cuda:
        raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    _check_devices(operator, args, rest, device)
    masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
    # A mask for one value of the host is `masked_fill_`, for which PyTorch need not know how many are chosen.
    fills = operator.written and len(args) > 2 and args[2].numel() == 1 and args[2].device.type == "cpu"
    if masks and not (fills and not any(args[3:4])):
        wait(device)
    indices = [
        index if index is None or index.is_cuda else to_other_device(index, device, {}) for index in args[1]
    ]  # fmt: skip
    return compute(operator, (args[0], indices, *args[2:]), kwargs, device)


def _copy(
    func: OpOverload, operator: Operator, args: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device
) -> Any:
    """Carry out `copy_` or `_to_copy`, within a device or between two."""
    if operator.kind is Kind.TO_COPY:
        source: Tensor = args[0]
        target_device = kwargs.get("device") or source.device
        if target_device.type == "cuda" and target_device.index is None:
            target_device = torch.device("cuda", torch.cuda.current_device())
        if target_device == source.device:
            return compute(operator, args, kwargs, device)
        return graphs.recorded_copy(to_other_device(source, target_device, kwargs), source)
    target, source = args[:2]
    if not isinstance(source, Tensor) or target.device == source.device:
        return compute(operator, args, kwargs, device)
    non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
    return graphs.recorded_copy(transfer(target, source, non_blocking), source)


# --- Switching it on ---


def install() -> None:
    """Emulate in this thread, and in each that is started from now on, until the process ends."""
    emulator = Emulator()
    start = threading.Thread.start

    def start_with_mode(thread: threading.Thread) -> None:
        run = thread.run

        def run_with_mode() -> None:
            _push_mode(emulator)
            try:
                run()
            finally:
                _pop_mode()

        thread.run = run_with_mode  # type: ignore[method-assign]
        start(thread)

    _keep_freed_memory()
    _push_mode(emulator)
    threading.Thread.start = start_with_mode  # type: ignore[method-assign]
    _print_on_the_cpu()
    graphs.install()


def _keep_freed_memory() -> None:
    """Let malloc keep what is freed: each op's result is made on the CPU first, and new pages cost more than the op."""
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def _print_on_the_cpu() -> None:
    """Let `repr` read CUDA tensors on the CPU: PyTorch switches modes off while it formats."""
    to_text = _tensor_str._str

    def tensor_to_text(tensor: Tensor, *, tensor_contents: str | None = None) -> str:
        if tensor_contents is None and type(tensor) in (Tensor, torch.nn.Parameter) and tensor.is_cuda:
            tensor_contents = _tensor_str._tensor_str(tensor.detach().cpu(), len("tensor("))
        return to_text(tensor, tensor_contents=tensor_contents)

    _tensor_str._str = tensor_to_text
