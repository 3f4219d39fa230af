"""Images in folders, one for each class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..config import of_system
from .encoded import Listing, encoded_files
from .images import Dataset, Wanted
from .ladder import keep

IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
TEST_PARTS = ("test", "val", "valid", "validation")


def read_folder(argument: str, wanted: Wanted) -> Dataset:
    """`DIR/train/CLASS/*` and `DIR/test/CLASS/*`, listed as torchvision's ImageFolder lists them.

    Without a folder `test`, the first of `val`, `valid` and `validation` takes its place.
    """
    root = Path(os.path.expanduser(argument))
    there = [name for name in TEST_PARTS if (root / name).is_dir()] or ["test"]
    parts = ("train", there[0])
    train, test = (_classes(root / part, wanted) for part in parts)
    if train != test:
        only = sorted(set(train) ^ set(test))
        raise wanted.refuse(f"train and {parts[1]} differ in their classes: {', '.join(only[:10])}")
    names: list[str] = []
    labels, ends, ignored = [], [], 0
    for part in parts:
        for label, name in enumerate(train):
            found = list(_files(root, f"{part}/{name}", wanted))
            images = [file for file in found if file.lower().endswith(IMAGES)]
            if not images:
                raise wanted.refuse(f"no images in {root / part / name}; expected files {', '.join(IMAGES)}")
            names += images
            labels += [label] * len(images)
            ignored += len(found) - len(images)
        ignored += sum(entry.is_file() for entry in os.scandir(root / part))
        ends.append(len(names))
    files = encoded_files(str(root), names)
    notes = _notes(root, there)
    listing = Listing(root.resolve().name, train, files, np.array(labels, np.int64), ends[0], ignored, notes)
    return keep(listing, wanted)


def _classes(folder: Path, wanted: Wanted) -> tuple[str, ...]:
    """The folders in it, sorted."""
    try:
        found = tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))
    except OSError as error:
        raise wanted.refuse(f"expected {folder}/CLASS/IMAGE files: {error.strerror}") from None
    if not found:
        raise wanted.refuse(f"expected {folder}/CLASS/IMAGE files: there are no folders in it")
    return found


def _files(root: Path, below: str, wanted: Wanted) -> Iterator[str]:
    """The files of a class, relative to the root, also in folders of folders and behind links. Raises ConfigError."""
    for folder, _, files in sorted(_folders(root / below, wanted)):
        relative = os.path.relpath(folder, root)
        yield from (f"{relative}/{file}" for file in sorted(files))


def _folders(top: Path, wanted: Wanted) -> Iterator[tuple[str, list[str], list[str]]]:
    """What os.walk finds, which follows a link back to where it is over and over, and passes over what it cannot read.

    Raises ConfigError for both.
    """

    def refuse(error: OSError) -> None:
        raise wanted.refuse(of_system(error))

    for found in os.walk(top, onerror=refuse, followlinks=True):
        folder = found[0]
        if os.path.islink(folder):
            above, to = (os.path.join(os.path.realpath(path), "") for path in (os.path.dirname(folder), folder))
            if above.startswith(to):
                raise wanted.refuse(f"{folder} is a link to {to}, in which it lies itself")
        yield found


def _notes(root: Path, there: list[str]) -> tuple[str, ...]:
    taken, *left = there
    notes = [] if taken == "test" else [f"{root / taken} is the test set: there is no {root / 'test'}"]
    return (*notes, *(f"{root / name} is not read" for name in left))
