"""Decoded images in one file on disk: built once, whole or not there, and found again by what it was made of.

The file is a .safetensors file: `pixels` (N, C, H, W) uint8, `crc32` (N,) uint32 of each image, `bad` (N,) uint8 for
those that could not be decoded. When it is opened, its size and header are checked; when an image is read, its sum is,
each time: that costs 0.05 ms for one of 256 px, and disks do err.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import time
import weakref
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..files import open_in_place, open_regular, require_regular, same_file
from ..tensors import tensors_header
from .images import DataError, Shape

VERSION = "1"
_SILENCE = 300.0  # seconds without a byte written, after which another process's build is not waited for
_POLL = 0.2

Write = Callable[[int, np.ndarray], None]
"""Keeps images (n, C, H, W) as the rows from the given one on."""


class NoCache(Exception):  # noqa: N818
    """A cache cannot be made, with the reason."""


@dataclass(frozen=True, eq=False)
class Cached:
    """Pixels in a file, read from it each time.

    Read and not mapped, because a mapped file that is cut short, or a disk that fails, ends the process.
    """

    path: Path
    file: int  # kept open: where the path is replaced, this one stays what it was
    start: int
    shape: Shape
    sums: np.ndarray  # (N,) uint32
    bad: np.ndarray  # (N,) bool

    def __post_init__(self) -> None:
        weakref.finalize(self, os.close, self.file)

    def read(self, index: Tensor, out: Tensor | None = None) -> Tensor:
        """The images with these indices, read in the order of the file. Raises DataError for one that changed."""
        if out is None:
            out = torch.empty(len(index), *self.shape[1:], dtype=torch.uint8)
        images = out.flatten(1).numpy()
        for position in index.argsort().tolist():
            row, image = int(index[position]), images[position]
            try:
                count = os.preadv(self.file, [image], self.start + row * image.nbytes)
            except OSError as error:
                raise DataError(f"{self.path} cannot be read: {error.strerror}") from None
            if count != image.nbytes or zlib.crc32(image) != self.sums[row]:
                raise DataError(f"image {row} of {self.path} is not what was written; remove the file to build it anew")
        return out


def open_cache(path: Path, state: str, allow_bad: bool) -> Cached | None:
    """The cache in this file, if it is whole and was made of this state of the files; with bad ones, if allowed."""
    try:
        require_regular(path)
        with safe_open(path, "np") as tensors:  # checks size and header
            if tensors.metadata() != {"version": VERSION, "state": state}:
                return None
            n, c, h, w = tensors.get_slice("pixels").get_shape()
            sums, bad = tensors.get_tensor("crc32"), tensors.get_tensor("bad").astype(bool)
        if bad.any() and not allow_bad:
            return None
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError, SafetensorError):
        return None
    start = 8 + int.from_bytes(os.pread(file, 8, 0), "little")
    return Cached(path, file, start, (n, c, h, w), sums, bad)


def build_cache(
    path: Path,
    state: str,
    shape: Shape,
    allow_bad: bool,
    fill: Callable[[Write], np.ndarray],
    waiting: Callable[[], object],
) -> Cached:
    """Let `fill` write every image and say which are bad (N,); or take the cache that another process builds meanwhile.

    `waiting` is called while that goes on. Raises NoCache, and what `fill` raises; neither leaves a file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_over(path.parent)
        with _only_builder(path, waiting) as file:
            if open_cache(path, state, allow_bad) is None:  # else another process was faster
                _write(file, state, shape, fill)
                os.replace(_unfinished(path), path)
    except OSError as error:
        raise NoCache(f"{error.strerror or error}") from None
    found = open_cache(path, state, allow_bad)
    if found is None:
        raise NoCache("it was replaced while it was built")
    return found


def _write(file: IO[bytes], state: str, shape: Shape, fill: Callable[[Write], np.ndarray]) -> None:
    n, image = shape[0], shape[1] * shape[2] * shape[3]
    header = _header(shape, state)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        # All of the disk's blocks are taken now: where there are too few, nothing was decoded in vain.
        os.posix_fallocate(file.fileno(), 0, len(header) + n * (image + 5))
    sums = np.zeros(n, np.uint32)

    def write(row: int, images: np.ndarray) -> None:
        for i in range(len(images)):
            sums[row + i] = zlib.crc32(images[i])
        _write_all(file.fileno(), images.reshape(-1).data, len(header) + row * image)

    bad = fill(write)
    _write_all(file.fileno(), header, 0)
    _write_all(file.fileno(), sums.view(np.uint8).data, len(header) + n * image)
    _write_all(file.fileno(), bad.astype(np.uint8).data, len(header) + n * (image + 4))
    os.fsync(file.fileno())


def _header(shape: Shape, state: str) -> bytes:
    n = shape[0]
    table = {"pixels": ("U8", shape, math.prod(shape)), "crc32": ("U32", (n,), 4 * n), "bad": ("U8", (n,), n)}
    return tensors_header(table, {"version": VERSION, "state": state})


def _write_all(file: int, data: memoryview | bytes, offset: int) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(file, data[written:], offset + written)


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.unfinished")


@contextmanager
def _only_builder(path: Path, waiting: Callable[[], object]) -> Iterator[IO[bytes]]:
    """The unfinished file, locked and empty. Where it is not renamed, it is removed."""
    unfinished = _unfinished(path)
    while True:
        with open_in_place(unfinished) as file:
            _wait_for_lock(file, waiting)
            if not same_file(file, unfinished):
                continue  # the other process has renamed or removed it
            if os.fstat(file.fileno()).st_nlink > 1:
                raise NoCache(f"{unfinished} has another name, too, and may be anybody's file")
            try:
                file.truncate(0)
                yield file
            finally:
                with contextlib.suppress(OSError):
                    if same_file(file, unfinished):
                        unfinished.unlink()
            return


def _wait_for_lock(file: IO[bytes], waiting: Callable[[], object]) -> None:
    """Wait for as long as the process that has the lock goes on writing. Raises NoCache."""
    written, since = 0, time.monotonic()
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            now = os.fstat(file.fileno()).st_mtime_ns
        if now != written:
            written, since = now, time.monotonic()
        if time.monotonic() - since > _SILENCE:
            raise NoCache(f"another process has been building it, and wrote nothing for {_SILENCE:.0f} s")
        waiting()
        time.sleep(_POLL)


def _remove_left_over(folder: Path) -> None:
    """Remove the unfinished files of processes that were killed: those that nobody has locked."""
    for path in folder.glob(".*.unfinished"):
        with contextlib.suppress(OSError), open_regular(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if same_file(file, path):
                path.unlink()
