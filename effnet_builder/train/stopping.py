"""Signals that ask a run to stop: the step ends, the run is saved, and the exit code is 128 + the signal's number.

Ctrl-C and SIGTERM; SIGHUP of a terminal or an ssh connection that is gone; SIGUSR1, SIGUSR2 and SIGXCPU, with which
schedulers announce the end of a job's time (SLURM's `--signal`). Before the first step there is nothing to save, and
the first one stops at once.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .processes import Processes

_URGENT = (signal.SIGINT, signal.SIGTERM)  # a second one stops at once
# A terminal sends SIGHUP to its shell, which sends it again; the system repeats SIGXCPU every second.
_REPEATED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
SIGNALS = (*_URGENT, *_REPEATED)


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
        """Take note of the first signal instead of dying of it.

        A second SIGINT or SIGTERM raises SystemExit(128 + its number), and any signal does if it is to stop at once.
        What was ignored at the start, as `nohup` ignores SIGHUP, stays ignored.
        """
        heard = [one for one in SIGNALS if one in _URGENT or signal.getsignal(one) is not signal.SIG_IGN]
        before = {one: signal.signal(one, self._note) for one in heard}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self._received and not self.at_once and number in _REPEATED:
            return
        if self._received or self.at_once:
            self.signal = signal.Signals(number)
            # Not KeyboardInterrupt: it may arrive inside a library, and some catch every Exception.
            raise SystemExit(128 + number)
        self._received = True
        self.signal = signal.Signals(number)
