"""How a run was asked for, beside spec and recipe: kept in the run, so that going on with it needs nothing else."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__

if TYPE_CHECKING:
    import torch

    from ..train.data import Dataset


@dataclass(frozen=True)
class Order:
    """What the options of train-arch say that neither spec nor recipe does."""

    data: str = "digits"
    device: str = "auto"
    storage: str = "auto"
    on_bad: str = "error"
    workers: int = 0
    teacher: str | None = None
    save_every: int | None = None
    log_every: int = 20
    best: int = 1
    tensorboard: bool = False
    wandb: bool = False
    report: bool = True
    timeout: int = 300  # seconds without an answer from another process

    def vary(self, given: Mapping[str, Any]) -> Order:
        """With the options that were given, which are those that are not None."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})


def record(order: Order, dataset: Dataset, device: torch.device, processes: int) -> dict[str, Any]:
    """What `run.json` holds: the order, the data, and what the last bit of a result may depend on."""
    return {
        "order": asdict(order),
        "data": {
            "name": dataset.name,
            "classes": list(dataset.classes),
            "fingerprint": dataset.fingerprint,
            "images": {"train": len(dataset.train), "test": len(dataset.test)},
        },
        "environment": environment(device, processes),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "git": git_state(),
    }


def recorded_order(written: Mapping[str, Any]) -> Order:
    """The order in a `run.json`, as far as this version knows its options."""
    known = {field.name for field in fields(Order)}
    return Order(**{name: value for name, value in written["order"].items() if name in known})


def environment(device: torch.device, processes: int) -> dict[str, Any]:
    """Versions, device and threads."""
    import torch

    return {
        "effnet_builder": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "processes": processes,
    }


def git_state() -> dict[str, Any] | None:
    """Commit of the working directory, and whether files differ from it; None outside a repository."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(_git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=10).stdout.strip()
