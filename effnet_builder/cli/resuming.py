"""Going on with a run: only as the run that it was, or with changes that are shown and asked for."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..config import ConfigError, Mark, Problem, printable
from ..train.batches import steps_per_epoch
from ..train.processes import Processes
from ..train.run import Run
from ..train.saving import NothingKept, RunSaver
from ..train.state import State
from .compose import Material
from .console import echo
from .environment import environment, environment_changes
from .order import recorded


def facts(material: Material) -> dict[str, Any]:
    """What a checkpoint belongs to."""
    return {
        "spec": material.plan.spec.to_yaml(),
        "recipe": material.recipe.to_yaml(),
        "data": material.dataset.fingerprint,
        "classes": list(material.dataset.classes),
        "steps_per_epoch": steps_per_epoch(len(material.train), material.recipe.batch_size),
    }


def restore(run: Run, saver: RunSaver, state: State, now: Mapping[str, Any], mark: Mark, accept_changes: bool) -> None:
    """Go on from the newest checkpoint that is whole and the run's, if it is of the same network, recipe and data.

    Raises ConfigError.
    """
    written = _text(run.spec), _text(run.recipe)
    try:
        checkpoint = saver.newest(lambda found: (found.facts.get("spec"), found.facts.get("recipe")) == written)
    except NothingKept as error:
        raise ConfigError([Problem(f"{error}", mark=mark)]) from None
    try:
        changed, before = _differences(checkpoint.facts, now), checkpoint.facts["steps_per_epoch"]
    except (LookupError, TypeError, AttributeError):
        raise ConfigError([Problem("its checkpoint does not say what it belongs to", mark=mark)]) from None
    if changed and not accept_changes:
        message = "the run was made with other ones than these; --accept-changes goes on with them"
        raise ConfigError([Problem("\n".join([message, *changed]), mark=mark)])
    for line in changed:
        echo(line, err=True)
    after = now["steps_per_epoch"]
    if before != after:  # a checkpoint counts steps: nobody could say which images of the epoch were seen
        message = f"has {before} steps an epoch, and cannot go on with {after}, by another batch_size or other images"
        raise ConfigError([Problem(message, mark=mark)])
    try:
        state.load(checkpoint)
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError([Problem(f"does not fit: {str(error).splitlines()[0]}", mark=mark)]) from None
    saver.tidy(state)


def restarted() -> bool:
    """Whether torchrun has started this process anew, after one was lost."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def to_be_restarted() -> bool:
    """Whether torchrun would start this process anew."""
    return os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"


def refuse_foreign(run: Run) -> None:
    """Raise ConfigError for a directory in which no run was begun, if anything else is in it."""
    mark = Mark(f"--out {run.folder}")
    try:
        foreign = run.foreign()
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError([Problem(f"{error.strerror or error}", mark=mark)]) from None
    if foreign and not run.checkpoints.steps() and not run.done:  # in this order: another process may be at work
        message = f"has no checkpoint, and holds {printable(foreign[0])}, which is not of a run; nothing is overwritten"
        raise ConfigError([Problem(message, mark=mark)])


def as_before(run: Run, device: torch.device, processes: Processes) -> None:
    """Take the number of threads that the run was started with, and say what else may change the last bits of sums."""
    before = recorded(run).environment
    changes = environment_changes(before, environment(device, processes.count))
    if changes:
        what = "the last bits may differ from those of a run that was not interrupted"
        echo(f"{what}: {', '.join(changes)}", err=True)
    threads = before["threads"]
    if threads != torch.get_num_threads():
        echo(f"on {threads} threads, as the run was started, not {torch.get_num_threads()}", err=True)
        torch.set_num_threads(threads)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lines that show what differs, each with the name of the file."""
    lines = []
    for name in ("spec", "recipe"):
        found = difflib.unified_diff(before[name].splitlines(), now[name].splitlines(), lineterm="", n=0)
        lines += [f"  {name}.yaml: {line}" for line in found if not line.startswith(("---", "+++", "@@"))]
    if before["data"] != now["data"]:
        lines.append(f"  the data have changed: {before['data']} -> {now['data']}")
    if before["classes"] != now["classes"]:
        lines.append(f"  the classes have changed: {len(before['classes'])} -> {len(now['classes'])}")
    return lines
