"""How a run was asked for, beside spec and recipe: kept in the run, so that going on with it needs nothing else."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field, InstanceOf, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from ..config import ConfigError, Mark, Problem
from ..files import read_regular
from .environment import commit_of, environment

if TYPE_CHECKING:
    import torch

    from ..train.data import Dataset
    from ..train.run import Run


Count = Annotated[int, Field(ge=1)]
AnyText = InstanceOf[str]  # names of files may hold bytes that are no text, which pydantic's own strings refuse


@dataclass(frozen=True)
class Order:
    """What the options of train-arch say that neither spec nor recipe does."""

    data: AnyText = "digits"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    storage: Literal["auto", "device", "memory", "cache", "stream"] = "auto"
    on_bad: Literal["error", "skip"] = "error"
    workers: Annotated[int, Field(ge=0, le=256)] = 0
    teacher: AnyText | None = None
    save_every: Count | None = None
    log_every: Count = 20
    best: Count = 1
    tensorboard: bool = False
    wandb: bool = False
    report: bool = True
    timeout: Count = 300  # seconds without an answer from another process
    limits: dict[str, int] = field(default_factory=dict)

    def vary(self, given: Mapping[str, Any]) -> Order:
        """With the options that were given, which are those that are not None; limits are added to those that hold."""
        changes = {name: value for name, value in given.items() if value is not None}
        return replace(self, **changes | {"limits": self.limits | changes.get("limits", {})})

    def anchored(self) -> Order:
        """With absolute paths, which mean the same from any working directory."""
        from ..train.sources import anchored

        teacher = None if self.teacher is None else os.path.abspath(os.path.expanduser(self.teacher))
        return replace(self, data=anchored(self.data), teacher=teacher)


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
        "directory": os.getcwd(),
        "git": {"commit": commit_of(Path.cwd())},
    }


class _Data(TypedDict):
    classes: tuple[AnyText, ...]


class _Environment(TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    threads: Annotated[int, Field(ge=1, le=4096)]


@dataclass(frozen=True)
class Recorded:
    """What a run needs to know of itself; other keys are for people, and options of other versions are left out."""

    order: Order
    data: _Data
    environment: _Environment
    resumed: list[dict[str, Any]] = field(default_factory=list)


def recorded(run: Run) -> Recorded:
    """The `run.json` of a run. Raises ConfigError where it is none."""
    try:
        return TypeAdapter(Recorded).validate_python(json.loads(read_regular(run.folder / "run.json")))
    except OSError as error:
        reason = error.strerror or str(error)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        reason = ".".join(map(str, first["loc"])) + f": {first['msg']}"
    except (ValueError, RecursionError) as error:
        reason = f"{error}"
    raise ConfigError([Problem(f"its run.json cannot be read: {reason}", mark=Mark(str(run.folder)))])
