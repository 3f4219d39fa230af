"""Own a run directory: of all processes that want one, on this machine, exactly one has it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import time
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from ..files import open_in_place, same_file
from .run import LOCK, Run, create, create_next

_POLL = 0.2  # seconds
_HOLDER = re.compile(r"(process \d+ on .*)?", re.DOTALL)


class Busy(OSError):  # noqa: N818
    """Another process has the run."""


def own_new(target: Path, owned: ExitStack) -> Run:
    """Make a run directory and own it until `owned` ends; it is removed again if nothing to resume comes of it.

    Raises OSError, also if something is there already.
    """
    return _own_made(create(target), owned)


def own_next(folder: Path, name: str, owned: ExitStack) -> Run:
    """Make `folder/name-1`, or the first number that is free, as `own_new` does. Raises OSError."""
    return _own_made(create_next(folder, name), owned)


def own_either(target: Path, owned: ExitStack, patience: float = 0) -> Run:
    """Own the run directory that is there, or make one as `own_new` does.

    Of several processes that start at once, one makes it and one owns it, which may be another: only the one that
    did both may remove it. Raises Busy for all others; OSError.
    """
    while True:
        made = False
        with contextlib.suppress(FileExistsError):
            run, made = create(target), True
        run = Run(target)
        try:
            owned.enter_context(owning(run, patience))
        except FileNotFoundError:
            if os.path.lexists(target) and not target.is_dir():
                raise
            continue  # its owner has just removed it
        if made:
            owned.enter_context(removed_if_empty(run))
        return run


def _own_made(run: Run, owned: ExitStack) -> Run:
    try:
        owned.enter_context(owning(run))
    except OSError:
        with contextlib.suppress(OSError):  # another process may have it: then it is not empty
            run.folder.rmdir()
        raise
    owned.enter_context(removed_if_empty(run))
    return run


@contextmanager
def owning(run: Run, patience: float = 0) -> Iterator[None]:
    """Keep others out of a run until the end of the process, however it ends.

    Raises Busy if another still has it after `patience` seconds, FileNotFoundError if there is no such directory.
    """
    path, latest = run.folder / LOCK, time.monotonic() + patience
    while True:
        with open_in_place(path) as file:
            if not _locked(file):
                if time.monotonic() >= latest:
                    raise Busy(f"{run.folder}: another process is at work on it ({_holder(file) or 'unknown'})")
                time.sleep(_POLL)
            elif same_file(file, path):  # else its owner has removed it, and another may own a new one
                _sign(file, path)
                _close_in_children(file)
                yield  # the file stays: another process may have it open, and would then lock one without a name
                return


@contextmanager
def removed_if_empty(run: Run) -> Iterator[None]:
    """Remove the files of a run that fails before there is anything to resume. Only for its owner, who made it."""
    try:
        yield
    except BaseException:
        if not run.checkpoints.steps() and not run.done:
            with contextlib.suppress(OSError):
                run.remove()
        raise


def _holder(file: IO[bytes]) -> str | None:
    """Return who has the run, by its lock; None for a file that is not a lock."""
    file.seek(0)
    text = file.read(1000).decode(errors="replace").strip()
    return text if _HOLDER.fullmatch(text) else None


def _sign(file: IO[bytes], path: Path) -> None:
    """Write who has the run. Raises OSError for a file with other contents: a hard link may be to anybody's."""
    if _holder(file) is None:
        raise OSError(f"{path}: is not the lock of a run; it is left as it is")
    file.seek(0)
    file.truncate()
    file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
    file.flush()


def _locked(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _close_in_children(file: IO[bytes]) -> None:
    """Processes that decode images are copies of this one, and would hold the lock for as long as they outlive it."""
    held = weakref.ref(file)

    def close() -> None:
        if (inherited := held()) is not None:
            inherited.close()

    os.register_at_fork(after_in_child=close)
