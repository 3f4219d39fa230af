"""`--resume`: to the same end, with what may change meanwhile, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import harness
import pytest
from harness import STEPS, Ended, Fault, command, differences
from torch import Tensor
from trials import Bench

from effnet_builder.train.run import Run
from effnet_builder.train.saving import RunSaver

STEP = "effnet_builder.train.engine:train_step"


def resume(run: Path, *more: object) -> Ended:
    return command(["--resume", run, *more], run.parent)


def contents(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}


def lines(run: Path) -> list[str]:
    return (run / "metrics.jsonl").read_text().splitlines()


def test_where_it_goes_on(bench: Bench, stopped: Path) -> None:
    ended = resume(stopped)
    assert (ended.code, ended.err) == (0, "")
    assert "going on after step 10, in epoch 2" in ended.out
    assert not differences(stopped, bench.expected)
    written = json.loads((stopped / "run.json").read_text())
    assert [part["command"][:1] for part in written["resumed"]] == [["train-arch"]]


def test_killed_in_a_process_of_its_own(bench: Bench, tmp_path: Path) -> None:
    """Not a copy of one that had loaded torch, as all others here: an interpreter that was started for it."""
    run = tmp_path / "run"
    around = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    for code, what, arguments in (
        (-signal.SIGKILL, "SIGKILL", bench.place.start(run, "--workers", "2", "--storage", "stream")),
        (0, "DO pass", ["--resume", str(run), "--workers", "0"]),
    ):
        program = [sys.executable, harness.__file__, STEP, "11", what, *arguments]
        ended = subprocess.run(program, cwd=tmp_path, env=around, capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stderr) == (code, "")
    assert not differences(run, bench.expected)


def test_another_number_of_workers_changes_no_bit(bench: Bench, tmp_path: Path) -> None:
    """None, two, and one."""
    run, fault = tmp_path / "run", Fault(STEP, 5, "SIGTERM")
    options = ["--storage", "stream", "--workers"]
    assert command(bench.place.start(run, *options, 0), tmp_path, fault).code == 143
    assert command(["--resume", run, *options, 2], tmp_path, fault).code == 143
    assert Run(run).checkpoints.steps()[0] == 10
    assert resume(run, *options, 1).code == 0
    assert not differences(run, bench.expected)


def test_the_number_of_threads_is_that_of_the_start(bench: Bench, stopped: Path) -> None:
    two = Fault("effnet_builder.cli.train:recipe_changes", 1, "DO import torch; torch.set_num_threads(2)")
    ended = command(["--resume", stopped], stopped.parent, two)
    assert ended.code == 0
    assert "on 1 threads, as the run was started, not 2" in ended.err
    assert not differences(stopped, bench.expected)


def test_another_recipe_is_shown_and_refused(stopped: Path) -> None:
    before = contents(stopped)
    ended = resume(stopped, "--set", "optimizer.lr=0.01", "--epochs", 2)
    assert ended.code == 2
    assert "--accept-changes goes on with them" in ended.err
    for line in ("recipe.yaml: -epochs: 3", "recipe.yaml: +epochs: 2", "lr: 0.05", "lr: 0.01"):
        assert line in ended.err
    assert before == contents(stopped)


def test_accepted_changes_hold_from_there(stopped: Path) -> None:
    before = lines(stopped)
    ended = resume(stopped, "--set", "optimizer.lr=0.01", "--accept-changes")
    assert ended.code == 0, ended.said()
    assert "recipe.yaml: +optimizer: {type: sgd, lr: 0.01" in ended.err
    after = lines(stopped)
    assert after[: len(before)] == before
    old, new = (json.loads(line)["lr"] for line in after[len(before) - 1 : len(before) + 1])
    assert new < 0.3 * old
    assert "lr: 0.01" in (stopped / "recipe.yaml").read_text()


def test_a_batch_may_go_on_in_other_parts(bench: Bench, stopped: Path) -> None:
    """The same images in each step: what is logged of the steps is as before, but for how the losses came about."""
    assert resume(stopped, "--set", "accumulate=2").code == 2
    ended = resume(stopped, "--set", "accumulate=2", "--accept-changes")
    assert (ended.code, "recipe.yaml: +accumulate: 2" in ended.err) == (0, True), ended.said()
    undisturbed = bench.expected["metrics.jsonl"]
    assert isinstance(undisturbed, bytes)
    ours, theirs = (
        [json.loads(line) for line in each if '"step",' in line]
        for each in (lines(stopped), undisturbed.decode().splitlines())
    )
    assert [(line["step"], line["lr"]) for line in ours] == [(line["step"], line["lr"]) for line in theirs]
    assert len(ours) == 3 * STEPS
    assert ours[:10] == theirs[:10]
    assert ours[10:] != theirs[10:]


@pytest.mark.parametrize("change", ["batch_size=4", "batch_size=16", "valid_fraction=0.5"])
def test_the_steps_of_an_epoch_stay_as_many(stopped: Path, change: str) -> None:
    """A checkpoint counts steps: with other ones in an epoch, nobody could say which images were seen."""
    ended = resume(stopped, "--set", change, "--accept-changes")
    assert ended.code == 2
    assert "has 7 steps an epoch, and cannot go on with " in ended.err
    assert "batch_size: 8" in (stopped / "recipe.yaml").read_text()


def test_changed_data_are_refused(bench: Bench, stopped: Path, tmp_path: Path) -> None:
    images = Path(shutil.copytree(bench.place.images, tmp_path / "images"))
    (images / "train" / "china" / "0.jpg").unlink()
    ended = resume(stopped, "--data", f"folder:{images}")
    assert ended.code == 2
    assert "the data have changed" in ended.err
    for part in ("train", "test"):
        (images / part / "china").rename(images / part / "vase")
    assert resume(stopped, "--data", f"folder:{images}").code == 2


def test_nothing_to_go_on_from(stopped: Path, tmp_path: Path) -> None:
    checkpoints = Run(stopped).checkpoints
    for step in checkpoints.steps():
        checkpoints.path(step).write_bytes(b"")
    ended = resume(stopped)
    assert (ended.code, "has no checkpoint that can be read" in ended.err) == (2, True)
    for folder in (tmp_path, tmp_path / "nowhere"):
        ended = command(["--resume", folder], tmp_path)
        assert (ended.code, "is no run directory" in ended.err) == (2, True)


def test_a_run_that_is_done_is_refused(finished: Path) -> None:
    before = contents(finished)
    ended = resume(finished)
    assert (ended.code, "is done; its weights are in model.safetensors" in ended.err) == (2, True)
    assert before == contents(finished)


def test_the_average_is_what_is_kept(bench: Bench, finished: Path) -> None:
    last = RunSaver(Run(finished).checkpoints, {}, print).newest()
    average, network = last.part("ema."), last.part("model.")
    assert average
    assert any(not _equal(network[name], tensor) for name, tensor in average.items())


def _equal(one: Tensor, other: Tensor) -> bool:
    return bool((one == other).all())


def test_another_cpu_or_another_torch_is_said(bench: Bench, stopped: Path, tmp_path: Path) -> None:
    """In one line; the run is resumed all the same."""
    run = Path(shutil.copytree(stopped, tmp_path / "other"))
    written = json.loads((run / "run.json").read_text())
    now = dict(written["environment"])
    written["environment"] |= {"torch": "2.10.0", "cpu_capability": "SSE41"}
    (run / "run.json").write_text(json.dumps(written))
    ended = command(["--resume", run], tmp_path)
    assert ended.code == 0, ended.said()
    changes = f"torch 2.10.0 -> {now['torch']}, cpu_capability SSE41 -> {now['cpu_capability']}"
    assert ended.err == f"the last bits may differ from those of a run that was not interrupted: {changes}\n"


def test_a_run_is_resumed_from_another_working_directory(bench: Bench, tmp_path: Path) -> None:
    """Though its data were named by a relative path."""
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    data = os.path.relpath(bench.place.images, tmp_path)
    arguments = [data if each == f"folder:{bench.place.images}" else each for each in bench.place.start(run)]
    arguments[arguments.index(data)] = f"folder:{data}"
    assert command(arguments, tmp_path, Fault(STEP, 10, "SIGKILL")).code == -signal.SIGKILL
    ended = command(["--resume", run], elsewhere)
    assert (ended.code, ended.err) == (0, ""), ended.said()
    assert not differences(run, bench.expected)
