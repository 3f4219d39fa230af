"""Work that runs ahead of the one who needs its results, in threads, in order, and with a bound on every wait."""

from __future__ import annotations

import atexit
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_GRACE = 5.0  # seconds in which all threads may end what they are at


def ahead(
    works: Sequence[Callable[[Item], Result]], items: Iterable[Item], depth: int, timeout: float
) -> Generator[Result, None, None]:
    """`works[i % len(works)](item)` of the i-th item, in order: a thread for each work, at most `depth` items ahead.

    Raises what the work raised, and TimeoutError where a result is not there after `timeout` seconds. Threads are
    those of `threading` and not of a pool, because a pool waits for them at exit, and one may hang in a read.
    """
    stopped = threading.Event()
    lanes = [_Lane(work, stopped) for work in works]

    def end() -> None:
        stopped.set()
        for lane in lanes:
            lane.tasks.put(None)
        latest = time.monotonic() + _GRACE
        for lane in lanes:
            lane.thread.join(max(0.0, latest - time.monotonic()))

    # The interpreter may not go while a thread is in torch: that would abort the process.
    atexit.register(end)
    sent = received = 0
    try:
        for item in items:
            lanes[sent % len(lanes)].tasks.put((item,))
            sent += 1
            if sent - received >= depth:
                yield lanes[received % len(lanes)].receive(timeout)
                received += 1
        while received < sent:
            yield lanes[received % len(lanes)].receive(timeout)
            received += 1
    finally:
        atexit.unregister(end)
        end()


class _Lane:
    """A thread with what it is to do, and what it has done."""

    def __init__(self, work: Callable[..., object], stopped: threading.Event) -> None:
        self.tasks: queue.SimpleQueue[tuple[object] | None] = queue.SimpleQueue()
        self.results: queue.SimpleQueue[tuple[object, BaseException | None]] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._run, args=(work, stopped), name="images", daemon=True)
        self.thread.start()

    def _run(self, work: Callable[..., object], stopped: threading.Event) -> None:
        while (task := self.tasks.get()) is not None and not stopped.is_set():
            try:
                self.results.put((work(*task), None))
            except BaseException as error:  # it is raised where the result is wanted
                self.results.put((None, error))

    def receive(self, timeout: float) -> Any:
        try:
            result, error = self.results.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError from None
        try:
            if error is not None:
                raise error
            return result
        finally:
            del error  # it holds this frame, and by that everything of its callers, for as long as this holds it
