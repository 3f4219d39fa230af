"""A process that decodes images into memory that it shares with this one."""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import signal
import threading
import warnings
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize

import numpy as np
from torch import Tensor

from .encoded import Encoded, Streamed, decode_rows
from .images import DataError
from .stopping import SIGNALS

# Forked: a worker starts in milliseconds, loads no libraries of its own, and shares memory that is no part of /dev/shm,
# which containers keep small. It runs Pillow and NumPy only: no thread of torch, no CUDA.
_FORK = multiprocessing.get_context("fork")
_GRACE = 5.0  # seconds for a process that was killed to be gone


class _Lost(Exception):  # noqa: N818
    """A process died, or gives no answer."""


class Worker:
    """A process that decodes up to `most` images at a time; it ends with this object, or with the parent process.

    One that dies, or gives no answer, is replaced by another, which reads the same images: none is lost. What kills two
    in a row is no accident.
    """

    def __init__(self, pixels: Streamed, most: int, timeout: float) -> None:
        shape = (most, *pixels.shape[1:])
        self.files = pixels.files
        self.timeout = timeout
        self.images = np.frombuffer(mmap.mmap(-1, int(np.prod(shape))), np.uint8).reshape(shape)
        self._changing = threading.Lock()
        self._ended = threading.Event()
        self._start()

    def _start(self) -> None:
        self.connection, theirs = _FORK.Pipe()
        arguments = (self.files, self.images, theirs, self.connection)
        self.process = _FORK.Process(target=_serve, args=arguments, name="images", daemon=True)
        # Held back until the child has its own answers: before, it has the parent's, and a copy of all that is open.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        # Before multiprocessing itself ends its children, and waits: a stopped process would not hear of that.
        self._end = Finalize(self, _kill, (self.process, self._ended), exitpriority=1)

    def end(self) -> None:
        """Kill the process; there is no other after it."""
        with self._changing:
            self._end()

    def read(self, index: Tensor, out: Tensor) -> None:
        """The images of these rows, as `out`. Raises DataError, also where the process and its successor failed."""
        try:
            refusal = self._ask(index)
        except _Lost as lost:
            self._replace(lost, index)
            try:
                refusal = self._ask(index)
            except _Lost as again:
                raise DataError(f"{again}, as another one before; {self._place(index)}") from None
        if refusal is not None:
            raise DataError(refusal)
        out.numpy()[...] = self.images[: len(index)]

    def _ask(self, index: Tensor) -> str | None:
        """What is wrong with one of the images, if anything is. Raises _Lost."""
        try:
            self.connection.send(index.numpy())
            if not self.connection.poll(self.timeout):
                raise _Lost(f"a worker that decodes images gave no answer for {self.timeout:g} s")
            refusal: str | None = self.connection.recv()
        except (EOFError, OSError):
            raise _Lost(f"a worker that decodes images {self._fate()}") from None
        return refusal

    def _replace(self, lost: _Lost, index: Tensor) -> None:
        with self._changing:
            if self._ended.is_set():
                raise DataError(str(lost))
            self._end.cancel()
            _kill(self.process)
            self.connection.close()
            self._start()
        warnings.warn(f"{lost}; {self._place(index)}; another one reads them", stacklevel=2)

    def _place(self, index: Tensor) -> str:
        first, others = self.files.label(int(index[0])), len(index) - 1
        return f"it was at {first}, or at one of the {others} images after it"

    def _fate(self) -> str:
        self.process.join(_GRACE)
        code = self.process.exitcode
        if code is None or code >= 0:
            return f"ended with code {code}"
        name = signal.Signals(-code).name
        return f"was killed by {name}" + ("; perhaps the memory was full" if name == "SIGKILL" else "")


def _kill(process: BaseProcess, ended: threading.Event | None = None) -> None:
    if ended is not None:
        ended.set()
    process.kill()
    process.join(_GRACE)


def _serve(files: Encoded, images: np.ndarray, connection: Connection, parents: Connection) -> None:
    """Answer each array of rows with None, or with what is wrong, until the other end is closed."""
    for number in SIGNALS:  # they go to every process of a terminal or a job, and the parent says when to end
        signal.signal(number, signal.SIG_DFL if number is signal.SIGTERM else signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    parents.close()
    with contextlib.suppress(EOFError, OSError):
        while True:
            rows = connection.recv()
            refusal = None
            try:
                decode_rows(files, rows.tolist(), images[: len(rows)])
            except DataError as error:
                refusal = str(error)
            connection.send(refusal)
