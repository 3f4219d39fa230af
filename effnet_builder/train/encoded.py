"""Images as files, or as members of tar files: listed without an object for each, decoded when they are asked for."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..files import open_regular
from .images import DataError, Shape

MOST_PIXELS = 89_478_485  # 256 MiB as RGB; Pillow warns from there on, and decodes up to twice as many
MOST_BYTES = 2**30  # of a file: four times as many as that
_HEAD = 2**16  # bytes that hold the header of most images

# What the files may hold, whatever their names. Not everything that Pillow knows: it gives EPS to Ghostscript to run.
_FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


@dataclass(frozen=True, eq=False)
class Encoded:
    """N encoded images below a folder: each a file, or `sizes` bytes at `starts` of one of `shards`."""

    folder: str
    names: bytes  # relative to the folder, or of the member of the tar file, one after the other
    ends: np.ndarray  # (N,) int64, of each in `names`
    sizes: np.ndarray  # (N,) int64, in bytes
    times: np.ndarray  # (N,) int64, of the last change in ns
    shards: tuple[str, ...] = ()
    shard: np.ndarray | None = None  # (N,) int32
    starts: np.ndarray | None = None  # (N,) int64

    def __len__(self) -> int:
        return len(self.ends)

    def name(self, row: int) -> str:
        """Relative to the folder, or of the member of a tar file."""
        return os.fsdecode(self.names[self.ends[row - 1] if row else 0 : self.ends[row]])

    def label(self, row: int) -> str:
        """Where the image lies, for messages."""
        if self.shard is None:
            return os.path.join(self.folder, self.name(row))
        return f"{os.path.join(self.folder, self.shards[self.shard[row]])}: {self.name(row)}"

    def content(self, row: int, most: int = 2**62) -> bytes:
        """The encoded image, or its first `most` bytes. Raises OSError."""
        if self.shard is None or self.starts is None:
            with open_regular(os.path.join(self.folder, self.name(row)), buffering=0) as file:
                return file.read(most) if most < 2**62 else file.read()
        with open_regular(os.path.join(self.folder, self.shards[self.shard[row]]), buffering=0) as file:
            return os.pread(file.fileno(), min(int(self.sizes[row]), most), int(self.starts[row]))

    @cached_property
    def identity(self) -> str:
        """A name for the files, wherever they lie: of names, order and sizes."""
        return self._digest(self.sizes)

    @cached_property
    def state(self) -> str:
        """A name for the files as they are now: of names, order, sizes and times of change."""
        return self._digest(self.sizes, self.times)

    def _digest(self, *arrays: np.ndarray) -> str:
        digest = hashlib.blake2b(repr((len(self), self.shards)).encode(), digest_size=16)
        for array in (self.ends, self.shard, self.starts, *arrays):
            digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        digest.update(self.names)
        return digest.hexdigest()


def encoded_files(folder: str, names: Iterable[str]) -> Encoded:
    """These files below a folder; what is wrong with one is found when it is read."""
    joined, ends, sizes, times = bytearray(), [], [], []
    for name in names:
        joined += os.fsencode(name)
        ends.append(len(joined))
        size, time = _size_and_time(os.path.join(folder, name))
        sizes.append(size)
        times.append(time)
    numbers = [np.array(values, np.int64) for values in (ends, sizes, times)]
    return Encoded(folder, bytes(joined), numbers[0], numbers[1], numbers[2])


@dataclass(frozen=True, eq=False)
class Listing:
    """What a source found: encoded images, those of training first, with their labels."""

    name: str
    classes: tuple[str, ...]
    files: Encoded
    labels: np.ndarray  # (N,) int64
    train: int  # how many of them are for training
    ignored: int = 0  # files that are no images by their names
    notes: tuple[str, ...] = ()


def _size_and_time(path: str) -> tuple[int, int]:
    """Of a regular file; size -1 of everything else."""
    try:
        found = os.stat(path)
    except OSError:
        return -1, 0
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else (-1, 0)


def short_side(files: Encoded, row: int) -> int:
    """The smaller of width and height in px, from the header alone. Raises an exception of any kind."""
    if files.sizes[row] < 0:
        os.stat(files.label(row))  # says why it is not there
        raise ValueError("not a regular file")  # a pipe would be waited for
    if files.sizes[row] > MOST_BYTES:
        raise ValueError(f"{files.sizes[row]:,} bytes exceed limit of {MOST_BYTES:,}")
    head = files.content(row, _HEAD)
    try:
        image = Image.open(io.BytesIO(head), formats=_FORMATS)
    except Exception:
        if len(head) < _HEAD:
            raise
        image = Image.open(
            io.BytesIO(files.content(row)), formats=_FORMATS
        )  # a header behind a large preview or colour profile
    _check(image)
    return min(image.size)


def decode(content: bytes, out: np.ndarray) -> None:
    """The central square of an image as `out` (C, S, S): grey where C is one, else red, green, blue in turn.

    The orientation that cameras note in EXIF is not applied, as in torchvision's ImageFolder: published accuracies and
    weights were made so. JPEGs of four and more times the size are decoded at a fraction, at least twice the size.
    Raises an exception of any kind.
    """
    channels, size = out.shape[:2]
    with Image.open(io.BytesIO(content), formats=_FORMATS) as file:
        _check(file)
        file.draft(file.mode, (2 * size, 2 * size))
        # Straight to RGB, a palette with transparency gives the same colours, and a warning.
        full = file.convert("RGBA") if file.mode == "P" and "transparency" in file.info else file
        image = full.convert("L" if channels == 1 else "RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    if side != size:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image).reshape(size, size, -1)
    for channel in range(channels):
        out[channel] = pixels[:, :, channel % pixels.shape[2]]


def _check(image: Image.Image) -> None:
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"pixels of more than 8 bits (mode {image.mode})")
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"Image size ({image.width} x {image.height} px) exceeds limit of {MOST_PIXELS:,} px")


def why(error: Exception) -> str:
    """What is wrong with an image that could not be read."""
    if isinstance(error, UnidentifiedImageError):
        return "not a readable image: of no known format"  # Pillow's sentence names a buffer by its address
    return f"not a readable image: {(isinstance(error, OSError) and error.strerror) or error or type(error).__name__}"


def decode_rows(files: Encoded, rows: Sequence[int], out: np.ndarray) -> None:
    """The images of these rows as `out` (n, C, S, S). Raises DataError that names the file."""
    for row, image in zip(rows, out, strict=True):
        try:
            content = files.content(row)
            if len(content) != files.sizes[row]:
                raise ValueError(
                    f"{len(content):,} bytes instead of {files.sizes[row]:,}: it was changed since the start"
                )
            decode(content, image)
        except MemoryError:
            raise DataError(f"no memory to decode {files.label(row)}") from None
        except Exception as error:
            raise DataError(f"{files.label(row)}: {why(error)}") from None


@dataclass(frozen=True, eq=False)
class Streamed:
    """Pixels that are decoded anew each time, of `shape` (N, C, S, S)."""

    files: Encoded
    shape: Shape

    def read(self, index: Tensor, out: Tensor | None = None) -> Tensor:
        """The images with these indices. Raises DataError that names the file."""
        if out is None:
            out = torch.empty(len(index), *self.shape[1:], dtype=torch.uint8)
        decode_rows(self.files, index.tolist(), out.numpy())
        return out
