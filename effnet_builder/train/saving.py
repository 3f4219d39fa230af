"""Keeps the states of a run as checkpoints, with what they belong to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..config import of_system
from ..tensors import finite
from .checkpoint import Checkpoint, Checkpoints, Damaged
from .processes import ALONE, Processes
from .state import State


class NothingKept(Exception):  # noqa: N818
    """There is no checkpoint that can be read."""


class RunSaver:
    """Saves in the first process, restores in all: they see the same disk."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        facts: Mapping[str, Any],
        say: Callable[[str], None],
        *,
        best: int = 1,
        processes: Processes | None = None,
    ) -> None:
        self.checkpoints, self.facts, self.say, self.best = checkpoints, facts, say, best
        self.processes = processes or ALONE
        self.saved: int | None = None  # the step of the last checkpoint of this process

    def save(self, state: State) -> None:
        """Write a checkpoint. Raises OSError for the first one; a later one that cannot be written stops nothing.

        Weights that are no finite numbers are not kept: the run would go back to them.
        """
        if not self.processes.first:
            return
        if state.step and not finite(state.model.state_dict()):
            self.say(f"no checkpoint of step {state.step:,}: its weights are no finite numbers{self._last()}")
            return
        try:
            self.checkpoints.save(state.step, state.checkpoint(self.facts), self._best(state))
        except OSError as error:
            if self.saved is None and state.step == 0:
                raise
            self.say(f"no checkpoint of step {state.step:,} could be written: {of_system(error)}{self._last()}")
        else:
            self.saved = state.step

    def tidy(self, state: State) -> None:
        """Remove what the last save would have removed, had the process not been killed before."""
        if self.processes.first:
            with contextlib.suppress(OSError):  # the next save says what is wrong
                self.checkpoints.prune(state.step, self._best(state))

    def restore(self, state: State) -> None:
        """Continue from the newest checkpoint that is whole. Raises NothingKept."""
        state.load(self.newest())

    def newest(self, belongs: Callable[[Checkpoint], bool] | None = None) -> Checkpoint:
        """The newest checkpoint that is whole, of those that belong here if any do; the same one in all processes.

        Raises NothingKept.
        """
        self.processes.at("reading the last checkpoint")
        found = self._found(belongs) if self.processes.first else None
        self.processes.meet()
        step = self.processes.tell(-1 if found is None else found[0])
        if step < 0:
            raise NothingKept(f"{self.checkpoints.folder} has no checkpoint that can be read")
        return self.checkpoints.at(step) if found is None else found[1]

    def _best(self, state: State) -> list[int]:
        ranking = sorted(state.history, key=lambda metrics: metrics.kept_accuracy, reverse=True)
        return [metrics.step for metrics in ranking[: self.best]]

    def _last(self) -> str:
        with contextlib.suppress(OSError):
            return "".join(f"; the last one is of step {step:,}" for step in self.checkpoints.steps()[:1])
        return ""  # the disk does not say

    def _found(self, belongs: Callable[[Checkpoint], bool] | None) -> tuple[int, Checkpoint] | None:
        others: list[tuple[int, Checkpoint]] = []
        for step, checkpoint in self._good():
            if belongs is None or belongs(checkpoint):
                for other, _ in others:
                    self.say(f"{self.checkpoints.path(other)}: is of another run; going on from an older one")
                return step, checkpoint
            others.append((step, checkpoint))
        return others[0] if others else None

    def _good(self) -> Iterator[tuple[int, Checkpoint]]:
        for step, checkpoint in self.checkpoints.newest():
            if isinstance(checkpoint, Damaged):
                self.say(f"{checkpoint}; going on from an older one")
            else:
                yield step, checkpoint
