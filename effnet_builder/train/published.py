"""Published data sets: CIFAR-10 and -100, MNIST, Fashion-MNIST, SVHN.

torchvision says where they are and what their sums are; it reads none of their files.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import in_short, printable
from .download import Archive, fetch_missing
from .idx import idx_shape, read_idx
from .images import Dataset, ImageSet, Wanted, in_memory, with_channels
from .storage import data_folder
from .unpickle import read_checked, unpickle

# What is raised for files in another format, or cut short; scipy's reader raises many kinds.
_UNREADABLE = (OSError, RuntimeError, ValueError, TypeError, KeyError, AssertionError)
_Shape = tuple[int, ...]


@dataclass(frozen=True)
class Published:
    """A data set: its class in torchvision, what is in it, how to find its files, their sizes and their pixels."""

    name: str
    torchvision: str
    count: int
    channels: int
    side: int
    files: Callable[[Any], tuple[str, tuple[Archive, ...]]]  # of the class: the folder under DIR, and what is in it
    pixels: Callable[[Any, Path, bool], tuple[Any, Tensor, Tensor]]  # of class, folder, train: classes, images, labels
    shapes: Callable[[Path], Sequence[_Shape]] | None = None  # (N, H, W) of each part; None where a sum fixes them


def read_published(found: Published, argument: str, wanted: Wanted) -> Dataset:
    """Read a data set from `DIR` or the folder for all of them; it is downloaded if its files are not there."""
    from torchvision import datasets

    kind = getattr(datasets, found.torchvision)
    try:
        root = data_folder(argument)
    except RuntimeError:
        raise wanted.refuse(f"there is no home folder {argument.partition('/')[0] or '~'}") from None
    below, archives = found.files(kind)
    folder = root / below

    def check_memory() -> None:
        wanted.check_memory(found.count, found.side, found.channels)

    fetched = fetch_missing(archives, folder, wanted, check_memory)
    try:
        _check_memory(found, folder, wanted)
        (classes, train), (_, test) = (_read(found, kind, folder, part, wanted.channels) for part in (True, False))
    except _UNREADABLE as error:
        reason = printable(in_short(error))
        raise wanted.refuse(f"the files in {folder} cannot be read ({reason}); remove them to get them anew") from None
    notes = (f"{found.name} is now in {folder}",) if fetched else ()
    known = " ".join([found.name, *(f"{archive.name} {archive.md5}" for archive in archives)])
    return Dataset(found.name, classes, train, test, notes=notes, fingerprint=known)


def _check_memory(found: Published, folder: Path, wanted: Wanted) -> None:
    """Check the memory for what the files say is in them. Raises ConfigError."""
    if found.shapes is None:
        wanted.check_memory(found.count, found.side, found.channels)
        return
    shapes = found.shapes(folder)
    count, (_, height, width) = sum(shape[0] for shape in shapes), max(shapes, key=lambda shape: shape[1:])
    size = f"{height:,} px" if height == width else f"{height:,} x {width:,} px"
    pixels = sum(math.prod(shape) for shape in shapes)
    wanted.check_pixels(pixels, found.channels, f"{count:,} images of {size}")


def _read(found: Published, kind: Any, folder: Path, train: bool, channels: int) -> tuple[tuple[str, ...], ImageSet]:
    names, images, labels = found.pixels(kind, folder, train)
    classes = tuple(str(name) for name in names)
    if not len(images) or len(images) != len(labels):
        raise ValueError(f"{len(images):,} images with {len(labels):,} labels")
    if not 0 <= int(labels.min()) <= int(labels.max()) < len(classes):
        raise ValueError(f"labels from {int(labels.min())} to {int(labels.max())} for {len(classes)} classes")
    return classes, in_memory(with_channels(images, channels), labels)


def _cifar_files(kind: Any) -> tuple[str, tuple[Archive, ...]]:
    files = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    holds = tuple((f"{kind.base_folder}/{name}", md5) for name, md5 in files)
    return "", (Archive(kind.filename, kind.tgz_md5, (kind.url,), holds),)


def _cifar(kind: Any, folder: Path, train: bool) -> tuple[Any, Tensor, Tensor]:
    def read(name: str, md5: str) -> dict[str, Any]:
        return unpickle(read_checked(folder / kind.base_folder / name, md5))

    images, labels = list[np.ndarray](), list[int]()
    for name, md5 in kind.train_list if train else kind.test_list:
        batch = read(name, md5)
        images.append(np.asarray(batch["data"]).astype(np.uint8, casting="no").reshape(-1, 3, 32, 32))
        labels += batch["labels"] if "labels" in batch else batch["fine_labels"]
    classes = read(kind.meta["filename"], kind.meta["md5"])[kind.meta["key"]]
    return classes, torch.from_numpy(np.concatenate(images)), torch.tensor(labels, dtype=torch.int64)


def _mnist_files(kind: Any) -> tuple[str, tuple[Archive, ...]]:
    return f"{kind.__name__}/raw", tuple(
        Archive(name, md5, tuple(mirror + name for mirror in kind.mirrors), ((name.removesuffix(".gz"), None),))
        for name, md5 in kind.resources
    )


def _mnist(kind: Any, folder: Path, train: bool) -> tuple[Any, Tensor, Tensor]:
    images, labels = _idx_files(folder, train)
    pixels = read_idx(images, 3)
    return kind.classes, pixels.unsqueeze(1), read_idx(labels, 1).to(torch.int64)


def _mnist_shapes(folder: Path) -> list[_Shape]:
    shapes = []
    for images, labels in (_idx_files(folder, True), _idx_files(folder, False)):
        shapes.append(idx_shape(images, 3))
        if shapes[-1][:1] != (many := idx_shape(labels, 1)):
            raise ValueError(f"{shapes[-1][0]:,} images with {many[0]:,} labels")
    return shapes


def _idx_files(folder: Path, train: bool) -> tuple[Path, Path]:
    part = "train" if train else "t10k"
    return folder / f"{part}-images-idx3-ubyte", folder / f"{part}-labels-idx1-ubyte"


def _svhn_files(kind: Any) -> tuple[str, tuple[Archive, ...]]:
    parts = (kind.split_list["train"], kind.split_list["test"])
    return "", tuple(Archive(name, md5, (url,), ((name, md5),)) for url, name, md5 in parts)


def _svhn(kind: Any, folder: Path, train: bool) -> tuple[Any, Tensor, Tensor]:
    from scipy.io import loadmat

    _, name, md5 = kind.split_list["train" if train else "test"]
    found = loadmat(io.BytesIO(read_checked(folder / name, md5)))
    images = np.transpose(found["X"].astype(np.uint8, casting="no"), (3, 2, 0, 1))
    labels = found["y"].astype(np.int64).reshape(-1)
    return range(10), torch.from_numpy(images), torch.from_numpy(np.where(labels == 10, 0, labels))


CIFAR10 = Published("cifar10", "CIFAR10", 60_000, 3, 32, _cifar_files, _cifar)
CIFAR100 = Published("cifar100", "CIFAR100", 60_000, 3, 32, _cifar_files, _cifar)
MNIST = Published("mnist", "MNIST", 70_000, 1, 28, _mnist_files, _mnist, _mnist_shapes)
FASHION_MNIST = Published("fashion-mnist", "FashionMNIST", 70_000, 1, 28, _mnist_files, _mnist, _mnist_shapes)
SVHN = Published("svhn", "SVHN", 99_289, 3, 32, _svhn_files, _svhn)
