"""The processes that share a run, as torchrun starts them: who this one is, and the few sums they need."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeAlias, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from ..failures import is_out_of_memory
from .company import Company, Lost, own_store

T = TypeVar("T")
Forward: TypeAlias = Callable[[Tensor], Tensor]


@dataclass
class Place:
    """What a process is at, to be said where it loses the others."""

    doing: str = "meeting the others"
    step: int | None = None

    def __str__(self) -> str:
        return ("" if self.step is None else f" at step {self.step:,},") + f" while {self.doing}"


@dataclass(frozen=True)
class Processes:
    """One of `count` processes; `control` is for what the host must know without waiting for a CUDA device."""

    rank: int = 0
    count: int = 1
    control: dist.ProcessGroup | None = None
    company: Company | None = None
    place: Place = field(default_factory=Place)

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    def at(self, doing: str, step: int | None = None) -> None:
        """Note what comes now, and the step where it is another one."""
        self.place.doing = doing
        if step is not None:
            self.place.step = step

    def meet(self) -> None:
        """Wait for all, as long as what they are at may take: after what one does alone, or some do slowly."""
        if self.company is not None:
            self.company.meet()

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

    def tell(self, value: T) -> T:
        """The first process's value, for all."""
        said = [value]
        if self.count > 1:
            dist.broadcast_object_list(said, src=0, group=self.control)
        return said[0]

    def share(self, model: Forward, device: torch.device) -> Forward:
        """A module whose gradients are averaged over the processes in backward, on CUDA; itself on a CPU, or alone."""
        if self.count == 1:
            return model
        self.meet()  # what follows are sums, and one may have been at work alone
        if device.type == "cpu":  # see average_gradients
            return model
        # Statistics of batch norm are averaged by the loop, in one sum with the rest, so that all processes have equal
        # ones after a step and not only at the start of the next.
        assert isinstance(model, nn.Module)
        # The one-dimensional strides of a 1x1 weight can be written in two ways; both are the same memory.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        with warnings.catch_warnings():
            # Its successor `forward_sync_buffers` is not in all versions of torch that are supported.
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
            return nn.parallel.DistributedDataParallel(
                model, device_ids=[device.index], broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def average_gradients(self, forward: Forward, parameters: Sequence[nn.Parameter]) -> None:
        """Replace gradients by their means over the processes, where backward has not done it.

        DistributedDataParallel groups them anew after its first step. Of more than two processes, the order in which
        numbers are added depends on their place in a group, so a run that goes on would differ in its last bits.
        """
        if self.count == 1 or isinstance(forward, nn.parallel.DistributedDataParallel):
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = self.sum_(torch.cat([gradient.reshape(-1) for gradient in gradients])) / self.count
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))


ALONE = Processes()


def local_rank() -> int:
    """The number of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def processes(device: torch.device, timeout: float) -> Iterator[Processes]:
    """The place of this process among those of torchrun, or alone. They talk by Gloo on CPUs, by NCCL on CUDA.

    Raises Lost where others are gone, or give no answer for `timeout` seconds. Nothing can then be done but to leave.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    place = Place()
    try:
        who = _join(device, timeout, place)
        yield who
        who.at("waiting for the others to end")  # the first may still be writing results, and may be lost over it
        who.meet()
    except Lost as error:
        raise Lost(f"{error}{place}") from None
    except RuntimeError as error:
        reason = _reason(error, timeout)
        if reason is None or is_out_of_memory(error):
            raise
        raise Lost(f"{reason}{place}") from None
    # Not after an error: to take leave of a process that is stopped would be to wait for it.
    assert who.company is not None
    who.company.end()
    dist.destroy_process_group()


def _join(device: torch.device, timeout: float, place: Place) -> Processes:
    cuda = device.type == "cuda"
    silence = timedelta(seconds=timeout)
    store, rank, count = next(rendezvous("env://", timeout=silence))
    store = own_store(store, rank, count, timeout)
    # NCCL ends a process that waits too long, without a sentence: Gloo, by which each step is agreed upon, comes first.
    if cuda:  # else NCCL, pinned memory and every new tensor without a device would be those of the first one
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        store=store, rank=rank, world_size=count, timeout=2 * silence if cuda else silence,
        device_id=device if cuda else None,
    )  # fmt: skip
    control: dist.ProcessGroup | None = None
    if cuda:
        control = dist.new_group(backend="gloo", timeout=silence)  # type: ignore[assignment]
    company = Company(PrefixStore("company", store), rank, count, timeout)
    return Processes(rank, count, control, company, place)


def _reason(error: RuntimeError, timeout: float) -> str | None:
    """What an error says of the other processes; None where it is not about them. Gloo has no type of its own."""
    if not isinstance(error, dist.DistError) and "gloo/" not in str(error):
        return None
    if "timed out" in str(error).lower() or "timeout" in str(error).lower():
        return f"no answer from the others for {timeout:g} s"
    return "another process is gone"
