"""The processes that share a run, as torchrun starts them: who this one is, and the few sums they need."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")
Forward: TypeAlias = Callable[[Tensor], Tensor]

_TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class Processes:
    """One of `count` processes; `control` is for what the host must know without waiting for a CUDA device."""

    rank: int = 0
    local_rank: int = 0
    count: int = 1
    control: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process; all must ask."""
        return bool(self.most(int(flag)))

    def most(self, number: int) -> int:
        """The largest number of all processes; all must ask."""
        if self.count == 1:
            return number
        said = torch.tensor(number)
        dist.all_reduce(said, dist.ReduceOp.MAX, group=self.control)
        return int(said)

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over the processes, in place."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def tell(self, value: T | None) -> T:
        """The first process's value, for all."""
        said = [value]
        if self.count > 1:
            dist.broadcast_object_list(said, src=0, group=self.control)
        assert said[0] is not None
        return said[0]

    def share(self, model: Forward, device: torch.device) -> Forward:
        """A module whose gradients are averaged over the processes in backward; itself where there is one."""
        if self.count == 1:
            return model
        # Statistics of batch norm are averaged by the loop, in one sum with the rest, so that all processes have equal
        # ones after a step and not only at the start of the next.
        ids = [device.index] if device.type == "cuda" else None
        assert isinstance(model, nn.Module)
        # The one-dimensional strides of a 1x1 weight can be written in two ways; both are the same memory.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        with warnings.catch_warnings():
            # Its successor `forward_sync_buffers` is not in all versions of torch that are supported.
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
            return nn.parallel.DistributedDataParallel(
                model, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
            )


ALONE = Processes()


@contextmanager
def processes(device_name: str) -> Iterator[Processes]:
    """The place of this process among those of torchrun, or alone. They talk by Gloo on CPUs, by NCCL on CUDA."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    cuda = device_name == "cuda" or (device_name == "auto" and torch.cuda.is_available())
    dist.init_process_group("nccl" if cuda else "gloo", timeout=_TIMEOUT)
    try:
        control: dist.ProcessGroup | None = None
        if cuda:
            control = dist.new_group(backend="gloo", timeout=_TIMEOUT)  # type: ignore[assignment]
        yield Processes(dist.get_rank(), int(os.environ.get("LOCAL_RANK", "0")), count, control)
    finally:
        dist.destroy_process_group()
