"""kill -9 at any moment: the run goes on to the bits of the one that was never killed."""

from __future__ import annotations

from pathlib import Path

import pytest
import trials
from harness import Fault, command, differences
from trials import AIMS, Bench

from effnet_builder.train.run import Run


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


def test_killed_between_a_checkpoint_and_the_removal_of_old_ones(bench: Bench, tmp_path: Path) -> None:
    """The run has nothing left to save: what the last save would have removed goes when it goes on."""
    run = tmp_path / "run"
    last = Fault(
        "effnet_builder.train.checkpoint:write_tensors", 9, "SIGKILL", late=True
    )  # of step 21, after 0, 4, 7, 8, ...
    assert command(bench.place.start(run), tmp_path, last).code == -9
    assert Run(run).checkpoints.steps() == [21, 20, 16, 7]
    assert command(["--resume", run], tmp_path).code == 0
    assert not differences(run, bench.expected)


def test_a_killed_process_holds_the_run_no_longer(bench: Bench, tmp_path: Path) -> None:
    """Also where processes that decode images, which are copies of it, live on for a moment."""
    run = tmp_path / "run"
    at_work = "DO import os, time; os.kill(os.getppid(), 9); time.sleep(3)"
    options = ["--storage", "stream", "--workers", "2"]
    fault = Fault("effnet_builder.train.workers:decode_rows", 6, at_work)
    assert command(bench.place.start(run, *options), tmp_path, fault).code == -9
    assert Run(run).checkpoints.steps()
    ended = command(["--resume", run, "--workers", "0"], tmp_path)
    assert ended.code == 0, ended.said()
    assert not differences(run, bench.expected)
