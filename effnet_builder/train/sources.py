"""The table of data sources, and the two that need no files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from ..config import nearest
from .folders import read_folder
from .images import Dataset, Wanted, in_memory, with_channels
from .published import CIFAR10, CIFAR100, FASHION_MNIST, MNIST, SVHN, read_published
from .storage import Storage
from .webdataset import read_webdataset

_FAKE_SIDE = 32
_MAX_FAKE = 100_000
_MAX_FAKE_CLASSES = 1000


@dataclass(frozen=True)
class Source:
    """How a source is read, and what stands behind the colon, if anything does."""

    read: Callable[[str, Wanted], Dataset]
    argument: str = ""
    required: bool = False
    encoded: bool = False  # of files that are decoded, which may lie anywhere; the others are kept in memory

    @property
    def of_path(self) -> bool:
        """Whether what stands behind the colon is a path."""
        return self.argument.startswith("DIR")

    def written(self, name: str) -> str:
        """`digits`, `folder:DIR`, `cifar10[:DIR]`."""
        if not self.argument:
            return name
        return f"{name}:{self.argument}" if self.required else f"{name}[:{self.argument}]"


def read_source(source: str, wanted: Wanted) -> Dataset:
    """The data of `NAME` or `NAME:ARGUMENT`. Raises ConfigError."""
    name, colon, argument = source.partition(":")
    found = SOURCES.get(name)
    if found is None:
        known = ", ".join(known.written(name) for name, known in SOURCES.items())
        raise wanted.refuse(f"no such source; there are {known}{nearest(name, list(SOURCES))}")
    fits = bool(found.argument) if argument else not colon and not found.required
    if not fits:
        raise wanted.refuse(f"expected {found.written(name)}")
    if wanted.storage in (Storage.cache, Storage.stream) and not found.encoded:
        allowed = ", ".join(name for name, known in SOURCES.items() if known.encoded)
        raise wanted.refuse(f"storage {wanted.storage.value} is for {allowed}; {name} is kept in memory")
    return found.read(argument, wanted)


def anchored(source: str) -> str:
    """`folder:/home/me/photos` for `folder:photos`: the same source from any working directory."""
    name, _, argument = source.partition(":")
    found = SOURCES.get(name)
    if found is None or not found.of_path or not argument or "://" in argument:
        return source
    path = os.path.expanduser(argument)
    return source if path.startswith("~") else f"{name}:{os.path.abspath(path)}"


def _digits(_: str, wanted: Wanted) -> Dataset:
    """Scikit-learn's copy of the UCI digits: 1,797 images of 8 x 8 px, of which a fixed fifth of each class tests."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    wanted.check_memory(len(digits.target), 8, 1)
    pixels = torch.from_numpy((digits.images * (255 / 16)).round().astype(np.uint8))
    images = with_channels(pixels.unsqueeze(1), wanted.channels)
    everything = in_memory(images, torch.from_numpy(digits.target.astype(np.int64)))
    train, test = train_test_split(np.arange(len(everything)), test_size=0.2, stratify=digits.target, random_state=0)
    return Dataset(
        "digits",
        tuple(str(digit) for digit in digits.target_names),
        everything.take(torch.from_numpy(train)),
        everything.take(torch.from_numpy(test)),
        fingerprint="digits",
    )


def _fake(argument: str, wanted: Wanted) -> Dataset:
    """COUNT images to train and a quarter as many to test, of CLASSES classes in turn; 512x10 if nothing is said."""
    numbers = re.fullmatch("([0-9]{1,9})x([0-9]{1,9})", argument or "512x10")
    count, classes = (int(number) for number in numbers.groups()) if numbers else (0, 0)
    if not 2 <= classes <= _MAX_FAKE_CLASSES or not max(3, classes) <= count <= _MAX_FAKE:
        raise wanted.refuse(
            f"expected fake:COUNTxCLASSES with 2 to {_MAX_FAKE_CLASSES:,} classes and {_MAX_FAKE:,} images at most, "
            "no fewer than classes and 3"
        )
    total = count + max(classes, count // 4)
    wanted.check_memory(total, _FAKE_SIDE, 3)
    labels = torch.arange(total) % classes
    everything = in_memory(with_channels(_fake_images(labels.numpy(), classes), wanted.channels), labels)
    train, test = torch.arange(count), torch.arange(count, total)
    names = tuple(str(i) for i in range(classes))
    return Dataset("fake", names, everything.take(train), everything.take(test), fingerprint=f"fake:{count}x{classes}")


def _fake_images(labels: np.ndarray, classes: int) -> torch.Tensor:
    """RGB images (N, 3, 32, 32): three parts noise of the image's own, one part a mosaic of its class.

    Image i takes the i-th part of a fixed stream of numbers, class j the j-th of another: neither depends on how many.
    """
    tiles = np.random.default_rng([0, 1]).integers(0, 256, (classes, 3, 4, 4), np.uint8)
    mosaics = tiles.repeat(_FAKE_SIDE // 4, 2).repeat(_FAKE_SIDE // 4, 3) // 4
    images = np.random.default_rng([0, 0]).integers(0, 192, (len(labels), 3, _FAKE_SIDE, _FAKE_SIDE), np.uint8)
    for start in range(0, len(labels), 1024):
        images[start : start + 1024] += mosaics[labels[start : start + 1024]]
    return torch.from_numpy(images)


SOURCES = {
    "digits": Source(_digits),
    "folder": Source(read_folder, "DIR", required=True, encoded=True),
    "webdataset": Source(read_webdataset, "DIR|PATTERN", required=True, encoded=True),
    "cifar10": Source(partial(read_published, CIFAR10), "DIR"),
    "cifar100": Source(partial(read_published, CIFAR100), "DIR"),
    "fashion-mnist": Source(partial(read_published, FASHION_MNIST), "DIR"),
    "mnist": Source(partial(read_published, MNIST), "DIR"),
    "svhn": Source(partial(read_published, SVHN), "DIR"),
    "fake": Source(_fake, "COUNTxCLASSES"),
}
