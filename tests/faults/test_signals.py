"""SIGTERM and SIGINT, once or twice, at any moment."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import trials
from harness import Fault, command, differences
from trials import Bench

from effnet_builder.train.run import Run


@pytest.mark.parametrize("seed", range(3))
def test_stopped_at_random_times(bench: Bench, tmp_path: Path, seed: int) -> None:
    trials.signal_at_random_times(bench, tmp_path, seed)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize(
    ("target", "call"),
    [
        ("effnet_builder.train.predictions:predict_batch", 3),
        ("effnet_builder.train.saving:RunSaver.save", 3),
        ("effnet_builder.cli.finish:predict", 1),
    ],
    ids=["evaluation", "saving", "test"],
)
def test_stopped_between_steps(bench: Bench, tmp_path: Path, name: str, target: str, call: int) -> None:
    """The run is saved where it is, also where there is no step to be ended, and the exit code says which signal."""
    run = tmp_path / "run"
    ended = command(bench.place.start(run), tmp_path, Fault(target, call, name))
    assert ended.code == 128 + signal.Signals[name], ended.said()
    assert ended.err.startswith(f"stopped by {name}; step ")
    assert ended.err.endswith(f" is saved; to go on: train-arch --resume {run}\n")
    assert command(["--resume", run], tmp_path).code == 0
    assert not differences(run, bench.expected)


def test_a_second_signal_stops_at_once_and_harms_nothing(bench: Bench, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ended = command(
        bench.place.start(run), tmp_path, Fault("effnet_builder.train.engine:train_step", 10, "SIGINT,SIGTERM")
    )
    assert ended.code == 143, ended.said()
    assert ended.err == f"stopped by SIGTERM; step 8 is saved; to go on: train-arch --resume {run}\n"
    assert Run(run).checkpoints.steps()[0] == 8
    assert command(["--resume", run], tmp_path).code == 0
    assert not differences(run, bench.expected)


@pytest.mark.parametrize("target", ["effnet_builder.train.survey:decode", "effnet_builder.cli.session:assemble"])
def test_stopped_during_the_start(bench: Bench, tmp_path: Path, target: str) -> None:
    """At once: there is nothing to save, and to decode the other images may take an hour."""
    run = tmp_path / "run"
    ended = command(bench.place.start(run), tmp_path, Fault(target, 1, "SIGTERM"))
    assert ended.code == 143, ended.said()
    assert ended.err == "stopped by SIGTERM; nothing was kept\n"
    assert not run.exists()


def test_interrupted_while_libraries_are_loaded(bench: Bench, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ended = command(bench.place.start(run), tmp_path, Fault("effnet_builder.cli.train:recipe_changes", 1, "SIGINT"))
    assert (ended.code, ended.err) == (130, ""), ended.said()
    assert not run.exists()
