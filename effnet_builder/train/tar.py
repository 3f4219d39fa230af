"""Bounded reading of tar archives: each header is checked before it is believed, and none is kept.

tarfile believes sizes: a negative one makes some versions loop forever (CVE-2025-8194). Here a member must lie within
the file and end after it starts. What tarfile reads in a well-formed archive is read alike; what readers of the format
read differently is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

BLOCK = 512
MOST_BYTES = 2**20  # of the records before a member: long names, and pax headers
MOST_HEADERS = 16  # of such records before one member

_NUMBERS = ((100, 108), (108, 116), (116, 124), (124, 136), (136, 148), (329, 337), (337, 345))
_SIZE, _CHECKSUM = (124, 136), (148, 156)
_FOLDER = b"5"
_WITHOUT_CONTENT = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes
_LONG_NAME, _LONG_LINK, _SPARSE = b"L", b"K", b"S"
_PAX, _GLOBAL = (b"x", b"X"), b"g"
_GNU = (_LONG_NAME, _LONG_LINK, _SPARSE)
_OCTAL = re.compile(rb"[+-]?[0-7]+")
_DECIMAL = re.compile(rb"[0-9]{1,18}")


class TarError(ValueError):
    """A file is not a tar archive, or not one that every reader reads alike."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an archive, and where its bytes lie in the file."""

    name: str
    start: int
    size: int
    is_plain: bool  # a regular file without holes
    is_folder: bool


@dataclass(slots=True)
class _Changes:
    """What the records before a header change of it."""

    name: bytes | None = None
    from_pax: bool = False
    size: int | None = None
    sparse: bool = False


def read_members(file: IO[bytes]) -> Iterator[Member]:
    """Yield the members of an archive in their order. The file may be read in between. Raises TarError and OSError."""
    total = file.seek(0, os.SEEK_END)
    offset = 0
    while True:
        header = _header(file, offset)
        if header is None:
            return
        changes, spent = _Changes(), 0
        for _ in range(MOST_HEADERS + 1):
            kind, offset = header[156:157], offset + BLOCK
            if kind not in (_LONG_NAME, _LONG_LINK, *_PAX, _GLOBAL):
                break
            size = _size(header)
            spent += size
            if spent > MOST_BYTES:
                raise TarError(f"more than {MOST_BYTES:,} bytes of names and pax headers, at byte {offset:,}")
            _apply(kind, _record(file, offset, size), changes)
            offset += _padded(size)
            header = _header(file, offset)
            if header is None:
                raise TarError(f"a member is missing after its name or pax header, at byte {offset:,}")
        else:
            raise TarError(f"more than {MOST_HEADERS} headers for one member, at byte {offset:,}")
        if kind == _SPARSE:
            offset = _after_holes(file, header, offset)
        member, offset = _member(header, offset, changes)
        if offset > total:
            raise TarError("unexpected end of data")
        yield member


def _header(file: IO[bytes], offset: int) -> bytes | None:
    """Return the header there, or None if the archive ends there. Raises TarError."""
    file.seek(offset)
    header = file.read(BLOCK)
    if len(header) < BLOCK:
        if offset:
            raise TarError(f"no end where one is expected, at byte {offset:,}")
        raise TarError("truncated header" if header else "empty file")
    if not any(header):
        return None
    try:
        _check(header)
    except TarError as error:
        where = f", so no end where one is expected, at byte {offset:,}" if offset else ""
        raise TarError(f"{error}{where}") from None
    return header


def _check(header: bytes) -> None:
    """Check the sum of a header, and that its numbers are some. Raises TarError."""
    start, end = _CHECKSUM
    others = header[:start] + header[end:]
    unsigned = sum(others) + 8 * ord(" ")
    expected = _number(header[start:end])
    if expected != unsigned and expected != unsigned - 256 * sum(byte > 127 for byte in others):
        raise TarError("bad checksum")
    for first, last in _NUMBERS:
        _number(header[first:last])


def _number(field: bytes) -> int:
    """Octal digits, or a number to base 256. Raises TarError."""
    if field[0] in (0o200, 0o377):
        return int.from_bytes(field[1:], "big", signed=False) - (256 ** (len(field) - 1) if field[0] == 0o377 else 0)
    text = field.partition(b"\0")[0].strip()
    if text and not _OCTAL.fullmatch(text):
        raise TarError("bad number")
    return int(text or b"0", 8)


def _size(header: bytes) -> int:
    size = _number(header[slice(*_SIZE)])
    if size < 0:
        raise TarError(f"a member of {size:,} bytes")
    return size


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _record(file: IO[bytes], offset: int, size: int) -> bytes:
    """Return the content of a record that stands before a member. Raises TarError."""
    file.seek(offset)
    content = file.read(_padded(size))
    if len(content) < _padded(size):
        raise TarError("unexpected end of data")
    if any(content[size:]):
        raise TarError(f"a name or pax header is longer than it says, at byte {offset:,}")
    return content[:size]


def _apply(kind: bytes, content: bytes, changes: _Changes) -> None:
    """Note what a record changes. Raises TarError."""
    if kind == _LONG_LINK:
        return
    found = {b"path": content.partition(b"\0")[0]} if kind == _LONG_NAME else _pax_records(content)
    holes = [key for key in found if key.startswith(b"GNU.sparse.")]
    if kind == _GLOBAL:
        if holes or b"path" in found or b"size" in found:
            raise TarError("a global pax header sets the name or the size of members")
        return
    name = found.get(b"GNU.sparse.name", found.get(b"path"))
    size = found.get(b"size")
    if (name is not None and changes.name is not None) or (size is not None and changes.size is not None):
        raise TarError("the name or the size of a member is set twice")
    if name is not None:
        if not name or b"\0" in name:
            raise TarError("a member without a name")
        changes.name, changes.from_pax = name, kind != _LONG_NAME
    if size is not None:
        if not _DECIMAL.fullmatch(size):
            raise TarError("a pax header whose size is not a number")
        changes.size = int(size)
    changes.sparse |= bool(holes)


def _pax_records(content: bytes) -> dict[bytes, bytes]:
    """Return the values of a pax header by keyword: of records `LENGTH KEYWORD=VALUE`, each a line. Raises TarError."""
    found: dict[bytes, bytes] = {}
    start, stop = 0, len(content.rstrip(b"\0"))
    while start < stop:
        space = content.find(b" ", start, start + 20)
        length = content[start:space] if space > start else b""
        if not _DECIMAL.fullmatch(length):
            raise TarError("a damaged pax header")
        end = start + int(length)
        equals = content.find(b"=", space + 1, end)
        if not space + 1 < equals < end <= len(content) or content[end - 1] != ord("\n"):
            raise TarError("a damaged pax header")
        found[content[space + 1 : equals]] = content[equals + 1 : end - 1]
        start = end
    return found


def _after_holes(file: IO[bytes], header: bytes, offset: int) -> int:
    """Return where the content of a sparse member of the old GNU format starts: after all blocks of its table."""
    more = header[482]
    while more:
        file.seek(offset)
        block = file.read(BLOCK)
        if len(block) < BLOCK:
            raise TarError("unexpected end of data")
        more, offset = block[504], offset + BLOCK
    return offset


def _member(header: bytes, start: int, changes: _Changes) -> tuple[Member, int]:
    """Return the member of a header whose content starts there, and where the next header lies. Raises TarError."""
    kind = header[156:157]
    name, prefix = (header[slice(*place)].partition(b"\0")[0] for place in ((0, 100), (345, 500)))
    folder = kind == _FOLDER or (kind == b"\0" and name.endswith(b"/"))
    name = name.rstrip(b"/") if folder else name
    if prefix and kind not in _GNU:
        name = prefix + b"/" + name
    if changes.name is not None:
        name = changes.name.rstrip(b"/") if changes.from_pax else changes.name
    if folder:
        name = name.removesuffix(b"/") if changes.name is not None and not changes.from_pax else name.rstrip(b"/")
    size = changes.size if changes.size is not None and _size(header) >= 0 else _size(header)
    plain = kind in (b"0", b"\0", b"7") and not folder and not changes.sparse
    content = 0 if kind in _WITHOUT_CONTENT or folder else _padded(size)
    return Member(os.fsdecode(name), start, size, plain, folder), start + content
