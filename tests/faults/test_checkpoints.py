"""Checkpoints that are not what was written: noticed before they are used, and an older one is taken."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import trials
from harness import Fault, command, differences
from trials import Bench

from effnet_builder.train.run import Run


def test_any_corruption_is_noticed_and_an_older_one_is_taken(finished: Path) -> None:
    kinds = {trials.corrupt(finished, seed) for seed in range(150)}
    assert kinds >= {"bit", "bits", "zeros", "page", "truncated", "grown", "header", "empty", "pickle"}


@pytest.mark.parametrize("kind", ["flipped", "truncated", "emptied", "pickle", "torch pickle"])
def test_the_run_goes_on_from_an_older_one_to_the_same_end(
    bench: Bench, stopped: Path, tmp_path: Path, kind: str
) -> None:
    path, canary = Run(stopped).checkpoints.path(10), tmp_path / "canary"
    content = bytearray(path.read_bytes())
    if kind == "flipped":
        content[len(content) // 2] ^= 4
    if kind == "torch pickle":
        torch.save(Evil(canary), path)
    else:
        path.write_bytes(
            {"truncated": content[:-1], "emptied": b"", "pickle": pickle.dumps(Evil(canary))}.get(kind, bytes(content))
        )
    ended = command(["--resume", stopped], tmp_path)
    assert ended.code == 0, ended.said()
    (sentence,) = [line for line in ended.out.splitlines() if line.startswith(str(path))]
    assert sentence.endswith("; going on from an older one")
    assert "going on after step 8, in epoch 2" in ended.out
    assert not differences(stopped, bench.expected)
    assert not canary.exists()


class Evil:
    """Makes a folder where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.canary,)


def test_one_of_another_run_is_passed_over(bench: Bench, stopped: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    at_ten = Fault("effnet_builder.train.engine:train_step", 10, "SIGTERM")
    assert command(bench.place.start(other, "--set", "seed=1"), tmp_path, at_ten).code == 143
    path = Run(stopped).checkpoints.path(10)
    shutil.copy(Run(other).checkpoints.path(10), path)
    ended = command(["--resume", stopped], tmp_path)
    assert ended.code == 0, ended.said()
    assert f"{path}: is of another run; going on from an older one" in ended.out
    assert not differences(stopped, bench.expected)


def test_a_directory_of_another_runs_checkpoints_is_refused(bench: Bench, stopped: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert command(bench.place.start(other, "--set", "seed=1"), tmp_path).code == 0
    shutil.rmtree(stopped / "checkpoints")
    shutil.copytree(other / "checkpoints", stopped / "checkpoints")
    ended = command(["--resume", stopped], tmp_path)
    assert ended.code == 2, ended.said()
    assert "recipe.yaml: -seed: 1" in ended.err


def test_one_that_was_renamed_is_passed_over(bench: Bench, stopped: Path, tmp_path: Path) -> None:
    path = Run(stopped).checkpoints.path(12)
    os.rename(Run(stopped).checkpoints.path(10), path)
    ended = command(["--resume", stopped], tmp_path)
    assert ended.code == 0, ended.said()
    assert f"{path}: is of step 10, whatever its name says; going on from an older one" in ended.out
    assert not differences(stopped, bench.expected)
