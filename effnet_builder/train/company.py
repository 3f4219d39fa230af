"""Waits for the other processes: as long as their work takes, but not for one that gives no sign of life."""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
import uuid
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

_POLL = 0.005  # seconds between two looks whether all are here
_GRACE = 5.0  # seconds
_LONGEST = timedelta(days=30)  # for the exchange itself: what bounds it are the signs of life


class Lost(Exception):  # noqa: N818
    """Other processes of the run are gone, or give no answer."""


def own_store(store: Store, rank: int, count: int, timeout: float) -> Store:
    """A part of the store that has seen no other processes than these. Raises Lost where not all are here in time.

    torchrun keeps one store for all its starts, and in it the addresses of the processes that died. It counts the
    starts, but not when processes of other machines join or leave. So the first process names a new part, and the
    others ask whether they were seen there, which only living ones are.
    """
    latest, name = time.monotonic() + timeout, uuid.uuid4().hex
    if rank == 0:
        store.set("part", name)
        others = [f"{name}/{one}" for one in range(1, count)]
        try:
            store.wait(others, timedelta(seconds=timeout))
        except dist.DistStoreError:
            raise Lost(f"not all processes have begun after {timeout:g} s") from None
        store.set(f"{name}/seen", b" ".join(store.multi_get(others)).decode())
        return PrefixStore(name, store)
    while time.monotonic() < latest:
        if store.check(["part"]):
            part = store.get("part").decode()
            store.set(f"{part}/{rank}", name)
            if store.check([f"{part}/seen"]) and name.encode() in store.get(f"{part}/seen"):
                return PrefixStore(part, store)
        time.sleep(10 * _POLL)
    raise Lost(f"not all processes have begun after {timeout:g} s")


class Company:
    """The signs of life of `count` processes, which each of them gives by a thread, and a place where all meet.

    The loss of a connection, by which a process that was killed is noticed, ends a wait at once. One that is stopped
    keeps its connections, and is noticed by its silence.
    """

    def __init__(self, store: Store, rank: int, count: int, timeout: float) -> None:
        self.timeout = timeout
        self.interval = min(5.0, timeout / 10)
        self._signs = [f"alive/{one}" for one in range(count)]
        self._heard = [0.0] * count  # when each gave its last sign
        self._meetings = 0
        self._ended = threading.Event()
        store.set(self._signs[rank], "")
        # A group of its own: what it waits for would block the sums of the others. On CPUs, for the host waits here.
        self.group = dist.new_group(backend="gloo", timeout=_LONGEST)
        # The store has its answers from a process that may be the one that is stopped: only the thread asks it.
        self._thread = threading.Thread(target=self._live, args=(store.clone(), rank), name="alive", daemon=True)
        self._thread.start()
        atexit.register(self.end)  # the interpreter may not go while a thread is in torch

    def meet(self) -> None:
        """Wait until all are here. Raises Lost, and RuntimeError where a connection is lost."""
        self._heard = [time.monotonic()] * len(self._heard)
        self._meetings += 1
        work = dist.barrier(self.group, async_op=True)  # type: ignore[arg-type]
        assert work is not None
        while not work.is_completed():
            time.sleep(_POLL)
            silent = [f"{one}" for one, at in enumerate(self._heard) if time.monotonic() - at > self.timeout]
            if len(silent) == len(self._heard):
                raise Lost(f"no answer from the others for {self.timeout:g} s")
            if silent:
                one = "process" if len(silent) == 1 else "processes"
                raise Lost(f"no sign of life from {one} {', '.join(silent[:10])} for {self.timeout:g} s")
        work.wait()

    def end(self) -> None:
        """Give no more signs."""
        atexit.unregister(self.end)
        self._ended.set()
        self._thread.join(_GRACE)

    def _live(self, store: Store, rank: int) -> None:
        signs, number = [b""] * len(self._signs), 0
        with contextlib.suppress(RuntimeError):  # the store has gone with the one who kept it
            while not self._ended.wait(self.interval):
                number += 1
                store.set(self._signs[rank], f"{self._meetings} {number}")
                before, signs = signs, store.multi_get(self._signs)
                here = [int(sign.split()[0]) >= self._meetings if sign else False for sign in signs]
                if not all(here):  # else to be alive is no reason any more
                    now = time.monotonic()
                    changed = [old != new for old, new in zip(before, signs, strict=True)]
                    self._heard = [now if new else at for new, at in zip(changed, self._heard, strict=True)]
