"""Batches of images on the device, read ahead of the training, and the time for which it waited for them."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing

import torch
from torch import Tensor

from .ahead import ahead
from .cache import Cached
from .device import staging, upload
from .encoded import Streamed
from .images import DataError, ImageSet, Resident
from .workers import Worker

PIECE = 64  # images that are read at once: a batch is read by several
_THREADS = min(4, os.cpu_count() or 1)
_BATCHES = 2  # read ahead, beyond what the threads are at
_MARGIN = 10.0  # seconds for which the error of a second worker is waited for

Batch = tuple[Tensor, Tensor, Tensor]
_Piece = tuple[Tensor, Tensor]  # rows (n,) of the source, and where their images go, uint8 (n, C, H, W)


class Loader:
    """Images uint8 (n, C, H, W) and labels (n,) of a set, on a device; nothing about them is random.

    Images on the device, and images in memory for the CPU, are picked out as they are asked for. All others are read
    ahead by threads; those that are decoded anew, by `workers` processes where there are any. A worker that dies or has
    not answered after `timeout` seconds is replaced, with a warning; the second one at the same images ends in a
    DataError, and so do images that are not there in time.
    """

    def __init__(self, data: ImageSet, device: torch.device, workers: int = 0, timeout: float = 120) -> None:
        self.data = data
        self.device = device
        self.workers = workers
        self.timeout = timeout
        self.waited = 0.0  # seconds, so far
        self._idle: list[Worker] = []

    def batches(self, batches: Sequence[Tensor]) -> Generator[Batch, None, None]:
        """Images and labels on the device, and the indices on the CPU, for each of these index tensors (n,).

        Raises DataError. Workers stay for the next epoch; closed before its end, it leaves no thread and no process.
        """
        pixels = self.data.pixels
        if isinstance(pixels, Resident) and _same(pixels.images.device, self.device):
            source: Iterator[Tensor] = (pixels.read(self.data.index[index]) for index in batches)
        else:
            source = self._read_ahead(batches)
        with closing(source):  # type: ignore[type-var]
            for index in batches:
                start = time.perf_counter()
                images = next(source)
                self.waited += time.perf_counter() - start
                yield upload(images, self.device), upload(self.data.labels[index], self.device), index
            next(source, None)  # to its end

    def _read_ahead(self, batches: Sequence[Tensor]) -> Generator[Tensor, None, None]:
        """The images of each batch, on the CPU; pinned for CUDA."""
        rooms: deque[Tensor] = deque()

        def pieces() -> Iterator[_Piece]:
            for index in batches:
                room = staging((len(index), *self.data.pixels.shape[1:]), torch.uint8, self.device)
                rooms.append(room)
                yield from zip(self.data.index[index].split(PIECE), room.split(PIECE), strict=True)

        workers = self._start()
        works = [_reading(worker.read) for worker in workers] or [_reading(self.data.pixels.read)] * _THREADS
        most = max((len(index) for index in batches), default=0)
        depth = len(works) + _BATCHES * -(-most // PIECE)
        results = ahead(works, pieces(), depth, 2 * self.timeout + _MARGIN if workers else self.timeout)
        finished = False
        try:
            for index in batches:
                for rows in self.data.index[index].split(PIECE):
                    self._next(results, rows)
                yield rooms.popleft()
            finished = True
        finally:
            if finished:
                self._idle += workers
            for worker in () if finished else workers:
                worker.end()  # the threads that wait for it wake up
            results.close()

    def _start(self) -> list[Worker]:
        pixels = self.data.pixels
        if not isinstance(pixels, Streamed):
            return []
        return [self._idle.pop() if self._idle else Worker(pixels, PIECE, self.timeout) for _ in range(self.workers)]

    def _next(self, results: Iterator[None], rows: Tensor) -> None:
        try:
            next(results)
        except TimeoutError:
            pixels, first = self.data.pixels, int(rows[0])
            place = pixels.files.label(first) if isinstance(pixels, Streamed) else f"image {first}"
            place += f" of {pixels.path}" if isinstance(pixels, Cached) else ""
            message = f"images could not be read within {self.timeout:g} s; the first of them is {place}"
            raise DataError(message) from None


def _reading(read: Callable[[Tensor, Tensor], object]) -> Callable[[_Piece], None]:
    def work(piece: _Piece) -> None:
        read(*piece)

    return work


def _same(one: torch.device, other: torch.device) -> bool:
    """`cuda` is the current CUDA device."""
    if one.type == other.type == "cuda":
        current = torch.cuda.current_device()
        return (current if one.index is None else one.index) == (current if other.index is None else other.index)
    return one.type == other.type
