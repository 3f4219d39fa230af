"""Several processes of one run: work done in each of them, the command in each of them, and torchrun itself."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from effnet_builder.train.processes import ALONE, Processes, processes

# A server that has loaded torch once, and of which each process is a copy that has not used it yet.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["effnet_builder.train.engine", "effnet_builder.cli.finish", "torch._dynamo"])

TIMEOUT = 120
SPEC = "extends: efficientnet-pico\nname: small\nscaling: {width: 0.1, depth: 0.1, resolution: 8}\n"
COMMAND = ("--no-python", sys.executable, "-c", "from effnet_builder.cli.train import main; main()")

Work = Callable[[Processes, Path], Any]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _as_torchrun_says(rank: int, count: int, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{count}", "OMP_NUM_THREADS": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}


def one_of(rank: int, count: int, port: int, work: Work, folder: Path) -> None:
    """What torchrun tells a process, and the work in it."""
    _as_torchrun_says(rank, count, port)
    with processes(torch.device("cpu"), TIMEOUT) as who:
        torch.save(work(who, folder), folder / f"result-{rank}")


def in_processes(count: int, work: Work, folder: Path) -> list[Any]:
    """What the work comes to in each of so many processes."""
    port = free_port()
    started = [SERVER.Process(target=one_of, args=(rank, count, port, work, folder)) for rank in range(count)]
    assert codes_of(started) == [0] * count
    return [torch.load(folder / f"result-{rank}", weights_only=False) for rank in range(count)]


def codes_of(started: Sequence[BaseProcess], wait_for: Sequence[int] | None = None) -> list[int | None]:
    """Start processes, and wait for those of these ranks, or all: how each ended, None for one that had to be killed."""
    for process in started:
        process.start()
    for rank in range(len(started)) if wait_for is None else wait_for:
        started[rank].join(TIMEOUT)
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
        process.join()
    return codes


def alone(work: Work, folder: Path) -> Any:
    """What it comes to in this process."""
    return work(ALONE, folder)


@contextmanager
def arguments_of(arguments: list[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, ["train-arch", *arguments]
    try:
        yield
    finally:
        sys.argv = before


def the_command(rank: int, port: int, arguments: list[str]) -> None:
    """train-arch as one of two processes."""
    from effnet_builder.cli.train import main

    _as_torchrun_says(rank, 2, port)
    with arguments_of(arguments):
        main()


def torchrun(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", f"{free_port()}"]
    path = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *launcher, *arguments], capture_output=True, text=True, check=False, timeout=TIMEOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}, **options,
    )  # fmt: skip
