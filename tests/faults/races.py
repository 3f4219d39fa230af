"""Two processes that start a run in one directory at the same moment, as an array of jobs does, many times."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import time
from collections import Counter
from contextlib import ExitStack
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

FORK = multiprocessing.get_context("fork")
TIMEOUT = 60


class _FailsError(Exception):
    """What ends a run before there is anything to resume."""


def race(folder: Path, seed: int, count: int) -> Counter[str]:
    """Let two processes start with `--auto-resume` in the same `count` new directories; what came of it.

    In three of four trials the owner keeps the run until both know who has it: then one is `alone`, and its directory
    must be there. In the others it fails at once and removes it while the other one tries again and again: both must
    own it, `one after the other`. Anything else is an AssertionError.
    """
    barrier, answers = FORK.Barrier(2), FORK.Queue()
    children = [FORK.Process(target=_starts, args=(folder, seed, count, barrier, answers)) for _ in range(2)]
    for child in children:
        child.start()
    found = [answers.get(timeout=10 * TIMEOUT) for _ in children]
    for child in children:
        child.join(TIMEOUT)
    outcomes: Counter[str] = Counter()
    for trial, (one, other) in enumerate(zip(*found, strict=True)):
        ends = sorted((one, other))
        right = ["owned", "owned"] if _fails(seed, trial) else ["busy", "owned"]
        assert ends == right, f"seed {seed}, trial {trial}: {ends}"
        outcomes["one after the other" if _fails(seed, trial) else "alone"] += 1
    return outcomes


def _fails(seed: int, trial: int) -> bool:
    return random.Random(f"{seed} {trial}").random() < 0.25


def _starts(folder: Path, seed: int, count: int, barrier: Barrier, answers: Any) -> None:
    answers.put([_start(folder / str(trial), _fails(seed, trial), barrier) for trial in range(count)])


def _start(target: Path, fails: bool, barrier: Barrier) -> str:
    """`owned`, `busy`, or what is wrong."""
    from effnet_builder.cli.order import Order
    from effnet_builder.cli.session import Session
    from effnet_builder.train.ownership import Busy

    session: Any = Session(None, None, Order(), None, target, "either")  # type: ignore[arg-type]
    said, until = "busy", time.monotonic() + TIMEOUT
    barrier.wait(TIMEOUT)
    try:
        with ExitStack() as owned:
            while True:
                try:
                    session._open(owned)
                    break
                except Busy:
                    if not fails or time.monotonic() > until:
                        raise
            said = _check(target)
            if not fails:
                barrier.wait(TIMEOUT)  # the other one knows by now
                said = _check(target)
                barrier.wait(TIMEOUT)
            raise _FailsError
    except _FailsError:
        pass
    except Busy:
        if not fails:
            barrier.wait(TIMEOUT)
            barrier.wait(TIMEOUT)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    barrier.wait(TIMEOUT)
    shutil.rmtree(target, ignore_errors=True)
    return said


def _check(target: Path) -> str:
    """The owner's directory is there, with its own lock."""
    try:
        holder = (target / ".lock").read_text()
    except OSError as error:
        return f"the owner's directory is gone: {error}"
    return "owned" if holder.startswith(f"process {os.getpid()} on ") else f"two own it: {holder}"
