"""A run that is stopped or killed, and goes on, ends with the bits of the run that was never interrupted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from training import OPTIMIZERS, AtEachStep, begin, differences, frozen_copy, normed, pictures, tiny_recipe
from typer.testing import CliRunner, Result

from effnet_builder.cli.train import app
from effnet_builder.train.checkpoint import Checkpoint, Checkpoints
from effnet_builder.train.engine import fit
from effnet_builder.train.loggers import CsvLogger, Logger
from effnet_builder.train.processes import Processes
from effnet_builder.train.recipe import Recipe
from effnet_builder.train.run import Run, owning
from effnet_builder.train.saving import RunSaver
from effnet_builder.train.sinks import JsonlLogger
from effnet_builder.train.stopping import Stopped, StopRequest


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# In this process: every place to stop at


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


# The command


SPEC = "extends: efficientnet-pico\nname: small\nscaling: {width: 0.1, depth: 0.1, resolution: 16}\n"
RECIPE = """
name: short
epochs: 3
batch_size: 8
optimizer: {type: sgd, lr: 0.05, nesterov: true}
schedule: {type: cosine, warmup: 2steps}
ema: {horizon: 4steps}
augment: {random_resized_crop: {}, horizontal_flip: random}
valid_fraction: 0.3
"""
OPTIONS = ["--device", "cpu", "--storage", "stream", "--save-every", "4", "--log-every", "1"]
STEPS = 7  # an epoch
SAME = ("model.safetensors", "metrics.csv", "metrics.jsonl", "evaluation.json", "spec.yaml", "recipe.yaml")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with spec, recipe, and JPEG files of several sizes in three classes."""
    root = tmp_path_factory.mktemp("resume")
    (root / "small.yaml").write_text(SPEC)
    (root / "short.yaml").write_text(RECIPE)
    generator = np.random.default_rng(0)
    for part, count in (("train", 27), ("test", 5)):
        for level, name in ((40, "dark"), (120, "grey"), (200, "light")):
            folder = root / "images" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                height, width = generator.integers(20, 40, 2)
                pixels = generator.integers(level - 40, level + 40, (height, width, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.jpg")
    return root


def started(place: Path, out: Path, *more: str) -> list[str]:
    new = [str(place / "small.yaml"), "--recipe", str(place / "short.yaml"), "--data", f"folder:{place / 'images'}"]
    return [*new, *OPTIONS, "--out", str(out), *more]


def train_arch(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def harmed(
    name: str, call: int, sent: str, arguments: Sequence[str], **options: Any
) -> subprocess.CompletedProcess[str]:
    """The command as a process, which gets signals at the n-th call of a function of the loop."""
    command = [sys.executable, str(Path(__file__).with_name("harmed.py")), name, str(call), sent, *arguments]
    path = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        # A shell starts its background jobs, so perhaps these tests, with SIGINT ignored, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def contents(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in SAME}


@pytest.fixture(scope="module")
def whole(place: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run that nothing interrupted."""
    run = tmp_path_factory.mktemp("whole") / "run"
    result = train_arch(*started(place, run))
    assert result.exit_code == 0, result.output
    assert f"{STEPS * 3}," in (run / "metrics.csv").read_text()
    assert (run / "metrics.jsonl").read_bytes().count(b"\n") == STEPS * 3 + 3
    return contents(run)


@pytest.fixture(scope="module")
def stopped(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that SIGTERM stopped in its second epoch."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    result = harmed("train_step", 10, "SIGTERM", started(place, run))
    assert result.returncode == 143, result.stderr
    assert result.stderr == f"stopped by SIGTERM; step 10 is saved; to go on: train-arch --resume {run}\n"
    assert Run(run).checkpoints.steps()[0] == 10
    assert not (run / "model.safetensors").exists()
    return run


@pytest.fixture
def copied(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def test_stopped_in_training(copied: Path, whole: dict[str, bytes]) -> None:
    result = train_arch("--resume", copied)
    assert result.exit_code == 0, result.output
    assert "going on after step 10, in epoch 2" in result.stdout
    assert contents(copied) == whole
    written = json.loads((copied / "run.json").read_text())
    assert [part["command"][:1] for part in written["resumed"]] == [[Path(sys.argv[0]).name]]
    assert written["order"]["storage"] == "stream"


def test_killed_in_training_and_decoded_by_workers(place: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    """SIGKILL within an epoch, between two checkpoints; two processes decode before, none does afterwards."""
    run = tmp_path / "run"
    call = int(np.random.default_rng().integers(9, 12))  # steps 8 and 12 are saved
    killed = harmed("train_step", call, "SIGKILL", started(place, run, "--workers", "2"))
    assert killed.returncode == -signal.SIGKILL, call
    assert Run(run).checkpoints.steps()[0] == 8
    result = harmed("train_step", 1000, "SIGTERM", ["--resume", str(run), "--workers", "0"])
    assert (result.returncode, result.stderr) == (0, ""), call
    assert contents(run) == whole, call


def test_interrupted_in_evaluation(place: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = harmed("predict", 3, "SIGINT", started(place, run))  # of network and average, the first of epoch 2
    assert result.returncode == 130
    assert result.stderr == f"stopped by SIGINT; step 14 is saved; to go on: train-arch --resume {run}\n"
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 14
    assert train_arch("--resume", run, "--workers", 2).exit_code == 0
    assert contents(run) == whole


def test_another_number_of_workers_changes_no_bit(place: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    """None, two, and one."""
    run = tmp_path / "run"
    assert harmed("train_step", 5, "SIGTERM", started(place, run, "--workers", "0")).returncode == 143
    assert harmed("train_step", 5, "SIGTERM", ["--resume", str(run), "--workers", "2"]).returncode == 143
    assert Run(run).checkpoints.steps()[0] == 10
    assert train_arch("--resume", run, "--workers", 1).exit_code == 0
    assert contents(run) == whole


def test_a_second_signal_stops_at_once_and_harms_nothing(place: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = harmed("train_step", 10, "SIGINT,SIGTERM", started(place, run))
    assert result.returncode == 143
    assert result.stderr == f"stopped by SIGTERM; step 8 is saved; to go on: train-arch --resume {run}\n"
    assert Run(run).checkpoints.steps()[0] == 8
    assert train_arch("--resume", run).exit_code == 0
    assert contents(run) == whole


def test_a_disk_that_is_full_stops_no_training(place: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    """From the second step on, until somebody makes room in the evaluation of the first epoch."""
    run = tmp_path / "run"
    result = harmed("train_step", 2, "FULL", started(place, run))
    assert result.returncode == 0, result.stderr
    sentence = next(line for line in result.stdout.splitlines() if "no checkpoint" in line)
    assert sentence.startswith("no checkpoint of step 4 could be written: ")
    assert "File too large" in sentence
    assert sentence.endswith("; the last one is of step 0")
    assert result.stdout.count("no checkpoint") == 1
    assert contents(run) == whole


def test_another_recipe_is_shown_and_refused(copied: Path) -> None:
    before = files(copied) | {"run.json": (copied / "run.json").read_bytes()}
    result = train_arch("--resume", copied, "--set", "optimizer.lr=0.01", "--epochs", 2)
    assert result.exit_code == 2
    assert "--accept-changes goes on with them" in result.stderr
    for line in ("recipe.yaml: -epochs: 3", "recipe.yaml: +epochs: 2", "lr: 0.05", "lr: 0.01"):
        assert line in result.stderr
    assert before == files(copied) | {"run.json": (copied / "run.json").read_bytes()}


def test_accepted_changes_hold_from_there(copied: Path) -> None:
    lines = (copied / "metrics.jsonl").read_text().splitlines()
    result = train_arch("--resume", copied, "--set", "optimizer.lr=0.01", "--accept-changes")
    assert result.exit_code == 0, result.output
    assert "recipe.yaml: +optimizer: {type: sgd, lr: 0.01" in result.stderr
    after = (copied / "metrics.jsonl").read_text().splitlines()
    assert after[: len(lines)] == lines
    old, new = (json.loads(line)["lr"] for line in after[len(lines) - 1 : len(lines) + 1])
    assert new < 0.3 * old
    assert "lr: 0.01" in (copied / "recipe.yaml").read_text()


def test_a_batch_may_go_on_in_other_parts(copied: Path, whole: dict[str, bytes]) -> None:
    """The same images in each step: what is logged of the steps is as before, but for how the losses came about."""
    assert train_arch("--resume", copied, "--set", "accumulate=2").exit_code == 2
    result = train_arch("--resume", copied, "--set", "accumulate=2", "--accept-changes")
    assert (result.exit_code, "recipe.yaml: +accumulate: 2" in result.stderr) == (0, True), result.output
    ours, theirs = (
        [json.loads(line) for line in text.splitlines() if b'"step",' in line]
        for text in ((copied / "metrics.jsonl").read_bytes(), whole["metrics.jsonl"])
    )
    assert [(line["step"], line["lr"]) for line in ours] == [(line["step"], line["lr"]) for line in theirs]
    assert ours[:10] == theirs[:10]
    assert ours[10:] != theirs[10:]


def test_changed_data_are_refused(copied: Path, place: Path, tmp_path: Path) -> None:
    images = Path(shutil.copytree(place / "images", tmp_path / "images"))
    (images / "train" / "grey" / "0.jpg").unlink()
    result = train_arch("--resume", copied, "--data", f"folder:{images}")
    assert result.exit_code == 2
    assert "the data have changed" in result.stderr
    (images / "train" / "grey").rename(images / "train" / "green")
    (images / "test" / "grey").rename(images / "test" / "green")
    assert train_arch("--resume", copied, "--data", f"folder:{images}").exit_code == 2


def test_a_damaged_checkpoint_costs_the_steps_since_the_last(copied: Path, whole: dict[str, bytes]) -> None:
    path = Run(copied).checkpoints.path(10)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    result = train_arch("--resume", copied)
    assert result.exit_code == 0, result.output
    assert f"{path}: its contents are not those that were written" in result.stdout
    assert "going on after step 8, in epoch 2" in result.stdout
    assert contents(copied) == whole


def test_nothing_to_go_on_from(copied: Path, tmp_path: Path) -> None:
    for step in Run(copied).checkpoints.steps():
        Run(copied).checkpoints.path(step).write_bytes(b"")
    result = train_arch("--resume", copied)
    assert result.exit_code == 2
    assert "has no checkpoint that can be read" in result.stderr
    for folder, message in ((tmp_path, "is no run directory"), (tmp_path / "nowhere", "is no run directory")):
        result = train_arch("--resume", folder)
        assert (result.exit_code, message in result.stderr) == (2, True)


def test_one_process_at_a_time(copied: Path) -> None:
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file() and path.name != ".lock"}
    with owning(Run(copied)):
        result = train_arch("--resume", copied)
    assert result.exit_code == 1
    assert f"{copied}: another process is at work on it (process {os.getpid()} on " in result.stderr
    assert before == {path: path.read_bytes() for path in before}


def test_a_run_that_is_done_is_refused(copied: Path) -> None:
    assert train_arch("--resume", copied).exit_code == 0
    before = contents(copied)
    result = train_arch("--resume", copied)
    assert (result.exit_code, "is done; its weights are in model.safetensors" in result.stderr) == (2, True)
    assert contents(copied) == before


@pytest.mark.parametrize("change", ["batch_size=4", "batch_size=16", "valid_fraction=0.5"])
def test_the_steps_of_an_epoch_stay_as_many(copied: Path, change: str) -> None:
    """A checkpoint counts steps: with other ones in an epoch, nobody could say which images were seen."""
    result = train_arch("--resume", copied, "--set", change, "--accept-changes")
    assert result.exit_code == 2
    assert "has 7 steps an epoch, and cannot go on with " in result.stderr
    assert "batch_size: 8" in (copied / "recipe.yaml").read_text()


def test_the_number_of_threads_is_that_of_the_start(copied: Path, whole: dict[str, bytes]) -> None:
    torch.set_num_threads(2)
    try:
        result = train_arch("--resume", copied)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(1)
    assert result.exit_code == 0
    assert "on 1 threads, as the run was started, not 2" in result.stderr
    assert contents(copied) == whole


def test_the_average_is_what_is_kept(stopped: Path) -> None:
    tensors: dict[str, Tensor] = dict(RunSaver(Run(stopped).checkpoints, {}, print).newest().tensors)
    names = [name.removeprefix("ema.") for name in tensors if name.startswith("ema.")]
    assert names
    assert any(not torch.equal(tensors[f"ema.{name}"], tensors[f"model.{name}"]) for name in names)
