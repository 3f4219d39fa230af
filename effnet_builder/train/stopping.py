"""SIGINT and SIGTERM: the first lets the step end and the run be saved, the second stops at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):  # noqa: N818
    """The run was told to stop, and is at a point from which it can go on."""


class StopRequest:
    """Whether the process was told to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take note of the first signal instead of dying of it; the second raises SystemExit(128 + its number)."""
        before = {one: signal.signal(one, self._note) for one in SIGNALS}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None:
            # Not KeyboardInterrupt: it may arrive inside a library, and some catch every Exception.
            raise SystemExit(128 + number)
        self.signal = signal.Signals(number)
