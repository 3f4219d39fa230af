"""Several ranks on fake GPUs: Gloo in NCCL's place, and a record of the collectives of the default group.

Each rank appends to the file FAKEGPU_COLLECTIVES, if that is set, a line of JSON for each collective:
{"rank": 0, "op": "allreduce_", "devices": ["cuda:0"]}. A collective without tensors, as Gloo's barrier, has no devices.
NCCL knows CUDA tensors only: a "cpu" among the devices would be an error there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d
from torch.utils._python_dispatch import TorchDispatchMode, _push_mode

_replaced = False
"""Whether the default group was asked for with NCCL; only its collectives are recorded."""


def collective(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Carry out an op of a process group, and record it."""
    if _replaced and func.namespace == "c10d" and (path := os.environ.get("FAKEGPU_COLLECTIVES")):
        group = next((arg for arg in (*args, *kwargs.values()) if _is_group(arg)), None)
        if group is not None and dist.ProcessGroup.unbox(group).group_name == dist.group.WORLD.group_name:
            devices = sorted({str(tensor.device) for tensor in _tensors((*args, *kwargs.values()))})
            line = {"rank": dist.get_rank(), "op": func._schema.name.split("::")[1], "devices": devices}
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    return func(*args, **kwargs)


def _is_group(value: Any) -> bool:
    return isinstance(value, torch.ScriptObject) and value._type().name() == "ProcessGroup"


def _tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


class _Recorder(TorchDispatchMode):
    """Records collectives in count mode; in emulate mode, the emulator does."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.namespace == "c10d":
            return collective(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


def _with_gloo(function: Callable[..., Any]) -> Callable[..., Any]:
    """Ask for Gloo where NCCL is asked for, or would be by default. It takes no device_id."""

    @wraps(function)
    def ask(*args: Any, **kwargs: Any) -> Any:
        global _replaced
        names = ("backend",) if function.__name__ == "init_process_group" else ("ranks", "timeout", "backend")
        kwargs = dict(zip(names, args, strict=False)) | kwargs
        rest = args[len(names) :]
        backend = kwargs.get("backend")
        if isinstance(backend, str) and "nccl" in backend.lower():
            if function.__name__ == "init_process_group":
                _replaced = True
            kwargs["backend"] = backend.lower().replace("nccl", "gloo")
        kwargs.pop("device_id", None)
        if rest:
            raise TypeError(f"{function.__name__} takes no more than {len(names)} positional arguments on the fake GPU")
        return function(**kwargs)

    return ask


def _object_device(function: Callable[..., torch.device]) -> Callable[..., torch.device]:
    """Send objects as NCCL does: by the current CUDA device."""

    @wraps(function)
    def device(group: Any = None) -> torch.device:
        if _replaced and group in (None, dist.group.WORLD):
            return torch.device("cuda", torch.cuda.current_device())
        return function(group)

    return device


def install() -> None:
    """Put Gloo in NCCL's place in this process."""
    for name in ("init_process_group", "new_group"):
        function = _with_gloo(getattr(distributed_c10d, name))
        setattr(distributed_c10d, name, function)
        setattr(dist, name, function)
    distributed_c10d._get_object_coll_device = _object_device(distributed_c10d._get_object_coll_device)
    if os.environ.get("FAKEGPU_MODE") == "count":
        _push_mode(_Recorder())
