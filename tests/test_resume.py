"""A loop that is stopped or dies anywhere, and goes on, ends with the bits of the one that was never interrupted.

tests/faults does the same to the command.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from training import OPTIMIZERS, AtEachStep, begin, differences, frozen_copy, normed, pictures, tiny_recipe

from effnet_builder.train.checkpoint import Checkpoint, Checkpoints
from effnet_builder.train.engine import fit
from effnet_builder.train.loggers import CsvLogger, Logger
from effnet_builder.train.processes import Processes
from effnet_builder.train.recipe import Recipe
from effnet_builder.train.saving import RunSaver
from effnet_builder.train.sinks import JsonlLogger
from effnet_builder.train.stopping import Stopped, StopRequest

pytestmark = pytest.mark.usefixtures("one_thread")


class Crash(BaseException):
    """As if the process were gone."""


class AtPoll(StopRequest):
    """Stops at the n-th time that it is asked: after a step, or before a batch of an evaluation."""

    def __init__(self, poll: int) -> None:
        super().__init__()
        self.left = poll

    def anywhere(self, processes: Processes) -> bool:
        self.left -= 1
        return self.left <= 0


MUCH = {
    "epochs": 3, "schedule": {"type": "cosine", "warmup": "2steps"}, "ema": {"horizon": "3steps"}, "accumulate": 2,
    "mix": {"mixup": 0.4, "cutmix": 1.0}, "label_smoothing": 0.1, "clip": {"max_norm": 1.0}, "dropout": 0.3,
    "augment": {"crop_padding": 2, "horizontal_flip": "alternating", "erasing": {"value": "noise"}},
    "progressive": {"stages": 3, "resolution": 0.5, "dropout": 0.1},
}  # fmt: skip


def go(folder: Path, recipe: Recipe, save_every: int | None, stop: StopRequest, crash_at: int | None) -> Checkpoint:
    """Start or go on with the run in a folder: the state at its end. Raises Stopped, Crash."""
    state, job = begin(normed(), recipe, pictures(18), pictures(6, seed=1), log_every=3, save_every=save_every)
    saver = RunSaver(Checkpoints(folder / "checkpoints"), {}, print)
    if saver.checkpoints.steps():
        saver.restore(state)

    def look() -> None:
        if state.step == crash_at:
            raise Crash

    loggers: list[Logger] = [CsvLogger(folder), JsonlLogger(folder / "metrics.jsonl"), AtEachStep(look)]
    fit(state, replace(job, loggers=loggers), saver, stop)
    return frozen_copy(state)


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("metrics.csv", "metrics.jsonl")}


def interrupted(
    recipe: Recipe, save_every: int | None, polls: Sequence[int], crashes: Sequence[int]
) -> tuple[Checkpoint, dict[str, bytes]]:
    """State and files of a run that is stopped at each of `polls`, then crashes at each of the steps `crashes`."""
    with tempfile.TemporaryDirectory() as name:
        for poll in polls:
            try:
                go(Path(name), recipe, save_every, AtPoll(poll), None)
            except Stopped:
                continue
        for step in crashes:
            try:
                go(Path(name), recipe, save_every, StopRequest(), step)
            except Crash:
                continue
        return go(Path(name), recipe, save_every, StopRequest(), None), files(Path(name))


@pytest.fixture(scope="module")
def undisturbed() -> tuple[Checkpoint, dict[str, bytes]]:
    return interrupted(tiny_recipe(**MUCH), None, [], [])


@given(
    save_every=st.none() | st.integers(1, 7),
    polls=st.lists(st.integers(1, 25), max_size=3),
    crashes=st.lists(st.integers(1, 12), max_size=3),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_stopped_and_killed_anywhere(
    undisturbed: tuple[Checkpoint, dict[str, bytes]], save_every: int | None, polls: list[int], crashes: list[int]
) -> None:
    state, written = interrupted(tiny_recipe(**MUCH), save_every, polls, crashes)
    assert not differences(state, undisturbed[0])
    assert written == undisturbed[1]


@pytest.mark.parametrize("change", [*OPTIMIZERS, "fp16", "bf16", "contiguous", "layer_decay"])
def test_every_step_and_every_evaluation_of_every_optimizer(change: str) -> None:
    """Stopped at each third place that there is, so that three in a row cover them all."""
    changes: dict[str, Any] = {"ema": {"horizon": 0.5}, "schedule": {"type": "linear"}}
    changes |= {
        "fp16": {"precision": "fp16"}, "bf16": {"precision": "bf16"}, "contiguous": {"channels_last": False},
        "layer_decay": {"optimizer.layer_decay": 0.5},
    }.get(change, {"optimizer": OPTIMIZERS.get(change)})  # fmt: skip
    recipe = tiny_recipe(**changes)
    expected = interrupted(recipe, None, [], [])
    for first in (1, 2, 3):
        state, written = interrupted(recipe, 3, [first, *[3] * 8], [])
        assert not differences(state, expected[0])
        assert written == expected[1]
