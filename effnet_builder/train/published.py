"""Published data sets, read by torchvision: CIFAR-10 and -100, MNIST, Fashion-MNIST, SVHN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..config import printable
from .download import Archive, fetch_missing
from .images import Dataset, ImageSet, Wanted, in_memory, with_channels
from .storage import data_folder

# What torchvision raises for files in another format, or cut short.
_UNREADABLE = (OSError, RuntimeError, ValueError, TypeError, KeyError, AssertionError)


@dataclass(frozen=True)
class Published:
    """A data set that torchvision reads: its class there, what is in it, how to find its files and its pixels."""

    name: str
    torchvision: str
    count: int
    channels: int
    side: int
    files: Callable[[Any], tuple[str, tuple[Archive, ...]]]  # of the class: the folder under DIR, and what is in it
    pixels: Callable[[Any, str, bool], tuple[Any, Tensor, Tensor]]  # of class, DIR, train: classes, images, labels


def read_published(found: Published, argument: str, wanted: Wanted) -> Dataset:
    """A published data set, from `DIR` or the folder for all of them; downloaded if its files are not there."""
    from torchvision import datasets

    kind = getattr(datasets, found.torchvision)
    wanted.check_memory(found.count, found.side, found.channels)
    try:
        root = data_folder(argument)
    except RuntimeError:
        raise wanted.refuse(f"there is no home folder {argument.partition('/')[0] or '~'}") from None
    below, archives = found.files(kind)
    folder = root / below
    fetched = fetch_missing(archives, folder, wanted)
    try:
        (classes, train), (_, test) = (_read(found, kind, str(root), part, wanted.channels) for part in (True, False))
    except _UNREADABLE as error:
        reason = printable(str(error)) or type(error).__name__
        raise wanted.refuse(f"the files in {folder} cannot be read ({reason}); remove them to get them anew") from None
    notes = (f"{found.name} is now in {folder}",) if fetched else ()
    known = " ".join([found.name, *(f"{archive.name} {archive.md5}" for archive in archives)])
    return Dataset(found.name, classes, train, test, notes=notes, fingerprint=known)


def _read(found: Published, kind: Any, root: str, train: bool, channels: int) -> tuple[tuple[str, ...], ImageSet]:
    names, images, labels = found.pixels(kind, root, train)
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


def _cifar(kind: Any, root: str, train: bool) -> tuple[Any, Tensor, Tensor]:
    data = kind(root, train=train)
    return data.classes, torch.from_numpy(data.data).permute(0, 3, 1, 2), torch.tensor(data.targets)


def _mnist_files(kind: Any) -> tuple[str, tuple[Archive, ...]]:
    return f"{kind.__name__}/raw", tuple(
        Archive(name, md5, tuple(mirror + name for mirror in kind.mirrors), ((name.removesuffix(".gz"), None),))
        for name, md5 in kind.resources
    )


def _mnist(kind: Any, root: str, train: bool) -> tuple[Any, Tensor, Tensor]:
    data = kind(root, train=train)
    return data.classes, data.data.unsqueeze(1), data.targets


def _svhn_files(kind: Any) -> tuple[str, tuple[Archive, ...]]:
    parts = (kind.split_list["train"], kind.split_list["test"])
    return "", tuple(Archive(name, md5, (url,), ((name, md5),)) for url, name, md5 in parts)


def _svhn(kind: Any, root: str, train: bool) -> tuple[Any, Tensor, Tensor]:
    data = kind(root, split="train" if train else "test")
    return range(10), torch.from_numpy(data.data), torch.from_numpy(data.labels)


CIFAR10 = Published("cifar10", "CIFAR10", 60_000, 3, 32, _cifar_files, _cifar)
CIFAR100 = Published("cifar100", "CIFAR100", 60_000, 3, 32, _cifar_files, _cifar)
MNIST = Published("mnist", "MNIST", 70_000, 1, 28, _mnist_files, _mnist)
FASHION_MNIST = Published("fashion-mnist", "FashionMNIST", 70_000, 1, 28, _mnist_files, _mnist)
SVHN = Published("svhn", "SVHN", 99_289, 3, 32, _svhn_files, _svhn)
