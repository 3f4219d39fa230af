"""Opening files that others may have put there: regular ones alone, and without ever waiting."""

from __future__ import annotations

import errno
import os
import stat
from typing import IO

_FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


class NotRegularError(OSError):
    """A pipe, a socket or a device lies in the place of a file."""


def open_regular(path: str | os.PathLike[str], buffering: int = -1) -> IO[bytes]:
    """Open a regular file for reading. Raises OSError if it is anything else, such as a pipe or a device.

    A pipe is not waited for. A device is not even opened, unless it takes the place of a file at that very moment.
    """
    _check(os.stat(path), path)
    file = open(path, "rb", buffering, opener=lambda name, flags: os.open(name, flags | _FLAGS))  # noqa: SIM115
    try:
        _check(os.fstat(file.fileno()), path)
    except OSError:
        file.close()
        raise
    return file


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """Read a regular file of at most `most` bytes. Raises OSError."""
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"expected at most {most:,} bytes", os.fspath(path))
    return content


def _check(found: os.stat_result, path: str | os.PathLike[str]) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "expected a regular file", os.fspath(path))
    if not stat.S_ISREG(found.st_mode):
        raise NotRegularError(errno.EINVAL, "expected a regular file", os.fspath(path))
