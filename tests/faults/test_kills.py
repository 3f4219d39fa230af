"""kill -9 at any moment: the run goes on to the bits of the one that was never killed."""

from __future__ import annotations

from pathlib import Path

import pytest
import trials
from harness import command
from trials import AIMS, Bench


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_times(bench: Bench, tmp_path: Path, seed: int) -> None:
    trials.kill_at_random_times(bench, tmp_path, seed)


@pytest.mark.parametrize("aim", AIMS)
def test_killed_where_it_hurts(bench: Bench, tmp_path: Path, aim: str) -> None:
    """Two or three times in a row: the first time at this place, then where the dice say."""
    assert trials.kill_where_it_hurts(bench, tmp_path, len(aim), aim)


def test_killed_while_the_cache_is_built(bench: Bench, tmp_path: Path) -> None:
    assert trials.kill_while_the_cache_is_built(bench, tmp_path, 1)


def test_killed_while_evaluating(bench: Bench, finished: Path, tmp_path: Path) -> None:
    ended = command([finished], tmp_path, program="evaluate")
    assert ended.code == 0, ended.said()
    for seed in range(4):
        trials.kill_an_evaluation(bench, tmp_path, seed, finished, ended.out)


def test_killed_while_writing_checkpoints(tmp_path: Path) -> None:
    for seed in range(8):
        (tmp_path / f"{seed}").mkdir()
        trials.kill_during_writes(tmp_path / f"{seed}", seed)
