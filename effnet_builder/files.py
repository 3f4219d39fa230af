"""Open and write files: atomically, never through a link, never under a name that can be guessed, never waiting.

Everything that the package writes goes through here; tests/test_files.py looks for other ways.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
from collections.abc import Container, Iterator
from pathlib import Path
from typing import IO

_SHOWN = 50  # characters of a name that its temporary file repeats; a name may have 255 bytes
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.\w+")
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_IN_PLACE = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_WAITS_NOT = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_AnyPath = str | os.PathLike[str]


class NotRegularError(OSError):
    """A pipe, a socket or a device lies in the place of a file."""


def write_atomic(path: _AnyPath, content: str | bytes) -> None:
    """Write a file so that other processes, and a crash, see either nothing or all of it. Raises OSError."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def atomic_file(path: _AnyPath) -> Iterator[IO[bytes]]:
    """Yield a new file that replaces `path` at the end of the block, once it is on the disk, and after no error.

    Until then it has a random name in the same folder, which is opened once: whoever swaps that folder for a link
    meanwhile changes nothing. A link at `path` is replaced, not followed. Raises OSError with the name of `path`.
    """
    target = Path(path)
    temporary = f".{target.name[:_SHOWN]}.{os.urandom(8).hex()}"
    with naming(target):
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            handle = os.open(temporary, _NEW, 0o666, dir_fd=folder)
            try:
                with open(handle, "wb") as file:
                    yield file
                    file.flush()
                    os.fsync(handle)
                os.replace(temporary, target.name, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)  # a rename is on the disk when its folder is
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise
        finally:
            os.close(folder)


def left_over(name: str, written: Container[str]) -> bool:
    """Whether a file of this name is what a killed process left of one of the files that are `written`."""
    found = _TEMPORARY.fullmatch(name)
    return found is not None and found["name"] in written


def open_in_place(path: _AnyPath, *, create: bool = True) -> IO[bytes]:
    """Open a file that is changed where it lies, such as a log or a lock; make it if it is not there.

    Raises OSError, also for a link and for anything else that is not a regular file.
    """
    with naming(path):
        try:
            handle = os.open(path, _IN_PLACE | (os.O_CREAT if create else 0), 0o666)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise OSError(errno.ELOOP, "is a link, and nothing is written through links") from None
            raise
        try:
            _check(os.fstat(handle), path)
            return open(handle, "r+b")
        except OSError:
            os.close(handle)
            raise


def open_regular(path: _AnyPath, buffering: int = -1) -> IO[bytes]:
    """Open a regular file for reading. Raises OSError if it is anything else, such as a pipe or a device.

    A pipe is not waited for. A device is not even opened, unless it takes the place of a file at that very moment.
    """
    _check(os.stat(path), path)
    file = open(path, "rb", buffering, opener=lambda name, flags: os.open(name, flags | _WAITS_NOT))  # noqa: SIM115
    try:
        _check(os.fstat(file.fileno()), path)
    except OSError:
        file.close()
        raise
    return file


def read_regular(path: _AnyPath, most: int = sys.maxsize - 1) -> bytes:
    """Read a regular file of at most `most` bytes. Raises OSError."""
    with open_regular(path) as file:
        content = file.read() if most >= sys.maxsize - 1 else file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"expected at most {most:,} bytes", os.fspath(path))
    return content


def require_regular(path: _AnyPath) -> None:
    """Raise OSError for what is not a regular file: a library that opens a pipe would wait for it."""
    open_regular(path).close()


def make_folder(path: _AnyPath) -> None:
    """Make a folder of the package's own, if it is not there. Raises OSError, also if a link stands in its place."""
    with naming(path):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            raise OSError(errno.ELOOP, "is a link, and nothing is written through links")
        if not stat.S_ISDIR(mode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))


def same_file(file: IO[bytes], path: _AnyPath) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.lstat(path))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def naming(path: _AnyPath) -> Iterator[None]:
    """Let an OSError name this file: the system's names a temporary one, or none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), os.fspath(path)) from None


def _check(found: os.stat_result, path: _AnyPath) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "expected a regular file", os.fspath(path))
    if not stat.S_ISREG(found.st_mode):
        raise NotRegularError(errno.EINVAL, "expected a regular file", os.fspath(path))
