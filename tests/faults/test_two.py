"""Two commands at once: in one run directory, and on one cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness import Command, Fault, Place, command, differences
from races import race

STEP = "effnet_builder.train.engine:train_step"


def test_of_two_new_runs_in_one_directory_one_is_told(
    place: Place, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    ends = [each.end() for each in [Command(place.start(run), tmp_path) for _ in range(2)]]
    told, trained = sorted(ends, key=lambda ended: ended.code, reverse=True)
    assert (told.code, trained.code) == (2, 0), told.said() + trained.said()
    assert told.err.startswith(f"--out {run}: ")
    assert " exists" in told.err
    assert not differences(run, undisturbed)


def test_a_run_that_is_at_work_cannot_be_resumed(place: Place, undisturbed: dict[str, object], tmp_path: Path) -> None:
    run, signal = tmp_path / "run", tmp_path / "go on"
    wait = f"DO\nimport os, time\nwhile not os.path.exists({str(signal)!r}): time.sleep(0.01)"
    first = Command(place.start(run), tmp_path, Fault(STEP, 6, wait))
    while not (run / "metrics.jsonl").exists():
        assert first.process.is_alive()
    second = command(["--resume", run], tmp_path)
    signal.touch()
    assert second.code == 1, second.said()
    assert second.err.startswith(f"{run}: another process is at work on it (process {first.process.pid} on ")
    assert first.end().code == 0
    assert not differences(run, undisturbed)


def test_of_two_that_start_at_once_exactly_one_owns_the_directory(tmp_path: Path) -> None:
    outcomes = race(tmp_path, seed=0, count=300)
    assert outcomes.total() == 300
    assert outcomes["alone"] > 150


@pytest.mark.parametrize("killed", [False, True])
def test_of_two_that_make_one_cache_one_waits(
    place: Place, undisturbed: dict[str, object], killed: bool, tmp_path: Path
) -> None:
    """Also where the one that makes it is killed over it."""
    options = {"environment": {"EFFNET_BUILDER_DATA": str(tmp_path / "data")}}
    faults = [Fault("effnet_builder.train.cache:_write_all", 2, "SIGKILL")] if killed else []
    runs = [tmp_path / name for name in ("one", "other")]
    commands = [
        Command(place.start(run, "--storage", "cache"), tmp_path, *(faults if run == runs[0] else []), **options)
        for run in runs
    ]
    codes = [each.end().code for each in commands]
    assert codes[1] == 0
    assert codes[0] in ((0, -9) if killed else (0,))  # 0 where the other was first
    for run, code in zip(runs, codes, strict=True):
        assert code or not differences(run, undisturbed)
    assert [name for name in os.listdir(tmp_path / "data" / "images") if not name.startswith(".")] != []
    assert not list((tmp_path / "data" / "images").glob(".*"))
