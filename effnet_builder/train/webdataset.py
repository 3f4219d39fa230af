"""Images in tar files, as the webdataset format packs them: a random access to their members, without the package.

The package `webdataset` reads shards in sequence and shuffles in a buffer, so an interrupted epoch cannot go on with
the images that it has not shown. Here the members are listed once, and each is read by its place in the file: the order
of a training is then that of every other source, and so is the ladder.
"""

from __future__ import annotations

import glob
import itertools
import math
import os
import re
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from ..config import of_system
from ..files import open_regular, read_regular
from .encoded import Encoded, Listing
from .folders import TEST_PARTS
from .images import Dataset, Wanted
from .ladder import keep
from .tar import Member, TarError, read_members

_IMAGES = ("jpg", "jpeg", "png", "webp")
_BRACES = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}|\{([^{}]*,[^{}]*)\}")
_MOST_SHARDS = 100_000
_MOST_CLASSES = 100_000
_LONGEST_CLASS = 1000  # bytes of a .cls
_LONGEST_NAME = 4096  # characters of a sample's, as of a path
_LONGEST_LIST = 2**24  # bytes of classes.txt
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}


def read_webdataset(argument: str, wanted: Wanted) -> Dataset:
    """`DIR/train*.tar`, or the shards of a pattern such as `DIR/{a,b}-{000..009}.tar`, and `DIR/test*.tar` (or val).

    A sample is an image and a `.cls` of the same name up to its first dot. The `.cls` holds a number, or the name of a
    class; `DIR/classes.txt` may give the names by number, one in a line. The tar files may not be compressed.
    """
    path = os.path.expanduser(argument)
    if "://" in path or path.startswith("pipe:"):
        raise wanted.refuse("expected files on this machine")
    root = path if os.path.isdir(path) else os.path.dirname(path) or "."
    train = _shards(os.path.join(glob.escape(path), "train*.tar") if os.path.isdir(path) else path, wanted)
    parts = ((name, sorted(glob.glob(os.path.join(glob.escape(root), f"{name}*.tar")))) for name in TEST_PARTS)
    part, test = next(((name, shards) for name, shards in parts if shards), ("", []))
    if not test:
        raise wanted.refuse(f"expected test shards {root}/test*.tar, or val*.tar")
    notes = () if part == "test" else (f"{root}/{part}*.tar are the test set: there are no {root}/test*.tar",)
    index = _Index(root, wanted)
    for shard in train:
        index.add(shard)
    cut = len(index.ends)
    for shard in test:
        index.add(shard)
    classes, labels = _labels(root, index.classes, wanted)
    unknown = sorted(set(labels[cut:].tolist()) - set(labels[:cut].tolist()))
    if unknown:
        names = ", ".join(_brief(classes[label]) for label in unknown[:10])
        raise wanted.refuse(f"test has images of classes that train has not: {names}")
    listing = Listing(Path(root).resolve().name, classes, index.encoded(), labels, cut, index.ignored, notes)
    return keep(listing, wanted)


def expand(pattern: str) -> list[str]:
    """`{00..11}` and `{a,b}` written out, as bash does: `a-{0..2}` is a-0, a-1, a-2. Raises ValueError for too many."""
    parts, end = [], 0
    for found in _BRACES.finditer(pattern):
        parts += [[pattern[end : found.start()]], _choices(*found.groups())]
        end = found.end()
        if math.prod(map(len, parts)) > _MOST_SHARDS:
            raise ValueError(f"expected at most {_MOST_SHARDS:,} shards")
    return ["".join(chosen) + pattern[end:] for chosen in itertools.product(*parts)]


def _choices(first: str | None, last: str | None, words: str | None) -> Sequence[str]:
    if first is None or last is None:
        return (words or "").split(",")
    low, high = int(first), int(last)
    if abs(high - low) >= _MOST_SHARDS:
        raise ValueError(f"expected at most {_MOST_SHARDS:,} shards")
    padded = any(len(number) > 1 and number.startswith("0") for number in (first, last))
    width, step = max(len(first), len(last)) if padded else 0, 1 if low <= high else -1
    return [str(number).zfill(width) for number in range(low, high + step, step)]


def _shards(pattern: str, wanted: Wanted) -> list[str]:
    """The files that a pattern with braces and wildcards names, in its order."""
    try:
        texts = expand(pattern)
    except ValueError as error:
        raise wanted.refuse(str(error)) from None
    found = [name for text in texts for name in (sorted(glob.glob(text)) if glob.has_magic(text) else [text])]
    missing = [name for name in found if not os.path.isfile(name)]
    if missing or not found:
        raise wanted.refuse(f"there is no file {missing[0] if missing else pattern}")
    return found


class _Index:
    """Where the images of some shards lie, and the text of their classes."""

    def __init__(self, root: str, wanted: Wanted) -> None:
        self.root, self.wanted = root, wanted
        self.names, self.shards, self.classes, self.ignored = bytearray(), list[str](), list[str](), 0
        self.ends, self.sizes, self.times, self.shard, self.starts = (array("q") for _ in range(5))

    def encoded(self) -> Encoded:
        """The images of all shards."""
        ends, sizes, times, starts = (np.array(a, np.int64) for a in (self.ends, self.sizes, self.times, self.starts))
        shard = np.array(self.shard, np.int32)
        return Encoded(self.root, bytes(self.names), ends, sizes, times, tuple(self.shards), shard, starts)

    def add(self, path: str) -> None:
        """List the samples of one more shard. Raises ConfigError."""
        images, classes = self._members(path)
        if not images:
            raise self.wanted.refuse(f"{path} has no images ({', '.join(_IMAGES)})")
        alone = sorted(images.keys() ^ classes.keys())
        if alone:
            missing = ".cls" if alone[0] in images else f"image ({', '.join(_IMAGES)})"
            raise self.wanted.refuse(f"{path}: {_brief(alone[0])} has no {missing}")
        changed = os.stat(path).st_mtime_ns
        for key, member in images.items():
            self.names += os.fsencode(member.name)
            self.ends.append(len(self.names))
            self.sizes.append(member.size)
            self.times.append(changed)
            self.shard.append(len(self.shards))
            self.starts.append(member.start)
            self.classes.append(classes[key])
        self.shards.append(os.path.relpath(path, self.root))

    def _members(self, path: str) -> tuple[dict[str, Member], dict[str, str]]:
        """Return images and class texts by the name of the sample. Raises ConfigError."""
        images: dict[str, Member] = {}
        classes: dict[str, str] = {}
        try:
            with open_regular(path) as file:
                self._refuse_compressed(path, file.read(2))
                for member in read_members(file):
                    self._sort(path, file, member, images, classes)
        except OSError as error:
            raise self.wanted.refuse(of_system(error)) from None
        except TarError as error:
            raise self.wanted.refuse(f"{path} cannot be read: {error}; it was cut short, or is no tar file") from None
        return images, classes

    def _refuse_compressed(self, path: str, start: bytes) -> None:
        if start in _COMPRESSED:
            kind = _COMPRESSED[start]
            raise self.wanted.refuse(
                f"{path} is compressed ({kind}), so its members cannot be read one by one; unpack it"
            )

    def _sort(
        self, path: str, file: IO[bytes], member: Member, images: dict[str, Member], classes: dict[str, str]
    ) -> None:
        """Put a member where it belongs: with the images, the classes, or nowhere. Raises ConfigError."""
        folder, _, base = member.name.rpartition("/")
        stem, _, kind = base.partition(".")
        key, kind = f"{folder}/{stem}".removeprefix("/"), kind.lower()
        if member.is_folder:
            return
        if not stem or kind not in (*_IMAGES, "cls"):
            self.ignored += 1
            return
        if not member.is_plain:
            raise self.wanted.refuse(f"{path}: {_brief(member.name)} is a link or has holes, and not a plain file")
        if len(member.name) > _LONGEST_NAME:
            raise self.wanted.refuse(f"{path}: {_brief(member.name)} has a name of {len(member.name):,} characters")
        if key in (classes if kind == "cls" else images):
            raise self.wanted.refuse(f"{path}: there are two {'.cls' if kind == 'cls' else 'images'} of {_brief(key)}")
        if kind != "cls":
            images[key] = member
            return
        file.seek(member.start)
        content = file.read(member.size) if member.size <= _LONGEST_CLASS else b""
        try:
            classes[key] = content.strip().decode()
        except UnicodeDecodeError:
            content = b""
        if not content.strip():
            raise self.wanted.refuse(f"{path}: {_brief(member.name)} is not the number or the name of a class")


def _labels(root: str, texts: Sequence[str], wanted: Wanted) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the classes, and the number (N,) of each text: those in classes.txt, numbers, or sorted names."""
    numbers = {text: int(text) for text in set(texts) if re.fullmatch("[0-9]{1,9}", text)}
    named = set(texts) - numbers.keys()
    listed = _listed_classes(os.path.join(root, "classes.txt"), wanted)
    if listed is None:
        if numbers and named:
            raise wanted.refuse(f"some .cls hold numbers, others names, such as {_brief(min(named))!r}")
        count = max(numbers.values(), default=-1) + 1
        if count > _MOST_CLASSES:
            raise wanted.refuse(f"class {count - 1:,} without a classes.txt; expected at most {_MOST_CLASSES:,}")
        listed = tuple(sorted(named)) or tuple(str(number) for number in range(count))
    classes = listed
    known = {name: number for number, name in enumerate(classes)}
    if len(known) < len(classes):
        raise wanted.refuse(f"{root}/classes.txt has a name twice")
    number_of = {text: numbers.get(text, len(classes)) for text in set(texts)}
    number_of |= {text: known.get(text, -1) for text, number in number_of.items() if number >= len(classes)}
    unknown = [text for text, number in number_of.items() if number < 0]
    if unknown:
        raise wanted.refuse(f"class {_brief(min(unknown))!r} is not one of the {len(classes)} of {root}/classes.txt")
    return classes, np.array([number_of[text] for text in texts], np.int64)


def _listed_classes(file: str, wanted: Wanted) -> tuple[str, ...] | None:
    """Return the names in classes.txt, or None without one. Raises ConfigError."""
    try:
        lines = read_regular(file, _LONGEST_LIST).decode().replace("\r\n", "\n").replace("\r", "\n").split("\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise wanted.refuse(f"{file} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise wanted.refuse(f"{file} cannot be read: {error}") from None
    return tuple(name.strip() for name in lines if name.strip())


def _brief(text: str) -> str:
    """At most 200 characters of a name that may be endless."""
    return text if len(text) <= 200 else f"{text[:197]}..."
