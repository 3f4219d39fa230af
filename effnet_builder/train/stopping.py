"""SIGINT and SIGTERM: the first lets the step end and the run be saved, the second stops at once.

Before the first step there is nothing to save, and the first one stops at once.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .processes import Processes

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):  # noqa: N818
    """The run was told to stop, and is at a point from which it can go on."""


class StopRequest:
    """Whether the process was told to stop, and by which signal."""

    def __init__(self, *, at_once: bool = False) -> None:
        self.at_once = at_once  # while there is nothing to save
        self.signal: signal.Signals | None = None
        self._received = False  # by this process itself

    def __bool__(self) -> bool:
        return self.signal is not None

    def anywhere(self, processes: Processes) -> bool:
        """Whether any process was told to stop; then all of them know by which signal. All must ask."""
        number = processes.most(int(self.signal or 0))
        if number and not self:
            self.signal = signal.Signals(number)
        return number > 0  # not what this process knows by now: all must come to the same

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take note of the first signal instead of dying of it; the second raises SystemExit(128 + its number).

        Where it is to stop at once, the first one does.
        """
        before = {one: signal.signal(one, self._note) for one in SIGNALS}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self._received or self.at_once:
            self.signal = signal.Signals(number)
            # Not KeyboardInterrupt: it may arrive inside a library, and some catch every Exception.
            raise SystemExit(128 + number)
        self._received = True
        self.signal = signal.Signals(number)
