"""One of several processes is killed, stopped, fails or is slow: a sentence in bounded time, and the run goes on."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from many import COMMAND, SERVER, SPEC, codes_of, free_port, the_command, torchrun
from typer.testing import CliRunner, Result

from effnet_builder.cli import finish
from effnet_builder.cli.train import app
from effnet_builder.train import engine
from effnet_builder.train.checkpoint import Checkpoints
from effnet_builder.train.images import DataError
from effnet_builder.train.run import Run

SILENCE = 2  # seconds
OPTIONS = ["--device", "cpu", "--data", "fake:60x3", "--epochs", "3", "--set", "batch_size=8", "--save-every", "4"]
SAME = ("model.safetensors", "metrics.csv", "metrics.jsonl", "evaluation.json")


pytestmark = pytest.mark.usefixtures("one_thread")


# What the others say

AT_THE_END = "at step 18, while waiting for the others to end"


def at_call(place: Any, name: str, call: int, fault: str) -> None:
    """Let a function end, stop or delay its process when it is called for this time, counted from 1."""
    real, calls = getattr(place, name), [0]

    def faulty(*given: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            if fault == "slow":
                time.sleep(2.5 * SILENCE)
            elif fault == "fails":
                raise DataError("image 7 cannot be read")
            else:
                os.kill(os.getpid(), signal.Signals[fault])
        return real(*given, **options)

    setattr(place, name, faulty)


def faulty_command(rank: int, port: int, arguments: list[str], fault: tuple[int, str, int, str], said: Path) -> None:
    """train-arch, whose stderr goes to a file, as one of two processes, of which one has a fault."""
    os.dup2(os.open(said / f"said-{rank}", os.O_WRONLY | os.O_CREAT), 2)
    faulty_rank, name, call, kind = fault
    if rank == faulty_rank:
        places = {"save": Checkpoints, "write_weights": finish, "measure": finish}
        at_call(places.get(name, engine), name, call, kind)
    the_command(rank, port, arguments)


def with_a_fault(folder: Path, rank: int, name: str, call: int, fault: str) -> tuple[list[int | None], list[str]]:
    """How both ended, and what they said, where one of them has a fault."""
    (folder / "small.yaml").write_text(SPEC)
    arguments = [str(folder / "small.yaml"), *OPTIONS, "--timeout", f"{SILENCE}", "--out", str(folder / "run")]
    port, what = free_port(), (rank, name, call, fault)
    both = [SERVER.Process(target=faulty_command, args=(i, port, arguments, what, folder)) for i in (0, 1)]
    codes = codes_of(both, [1 - rank] if fault == "SIGSTOP" else [0, 1])
    return codes, [(folder / f"said-{i}").read_text() for i in (0, 1)]


@pytest.mark.parametrize(
    ("rank", "name", "call", "fault", "said"),
    [
        (1, "train_step", 6, "SIGKILL", "another process is gone at step 6, while training; step 4 is saved"),
        (1, "train_step", 6, "SIGSTOP", "no answer from the others for 2 s at step 6, while training; step 4 is saved"),
        (1, "predict", 2, "SIGKILL", "another process is gone at step 12, while evaluating; step 12 is saved"),
        (0, "save", 3, "SIGKILL", "another process is gone at step 6, while saving; step 4 is saved"),
        (0, "save", 3, "SIGSTOP", "no answer from the others for 2 s at step 6, while saving; step 4 is saved"),
        (1, "_save", 3, "SIGSTOP", "no sign of life from process 1 for 2 s at step 6, while saving; step 6 is saved"),
        (0, "save", 1, "SIGKILL", "another process is gone while saving; nothing was kept"),
        (0, "write_weights", 1, "SIGSTOP", f"no answer from the others for 2 s {AT_THE_END}; step 18 is saved"),
        (0, "write_weights", 1, "SIGKILL", f"another process is gone {AT_THE_END}; step 18 is saved"),
        (1, "measure", 1, "SIGSTOP", f"no sign of life from process 1 for 2 s {AT_THE_END}; RUN is done"),
    ],
)
def test_a_process_that_is_killed_or_stopped_is_a_sentence_of_the_others(
    rank: int, name: str, call: int, fault: str, said: str, tmp_path: Path
) -> None:
    codes, sentences = with_a_fault(tmp_path, rank, name, call, fault)
    assert codes[1 - rank] == 1
    hint = f"; to go on: train-arch --resume {tmp_path / 'run'}" if "saved" in said else ""
    said = said.replace("RUN", str(tmp_path / "run"))
    assert sentences[1 - rank].splitlines()[-1] == f"process {1 - rank} of 2: {said}{hint}"
    assert "Traceback" not in sentences[1 - rank]


def test_what_one_process_alone_cannot_do_is_said_by_it(tmp_path: Path) -> None:
    codes, (first, second) = with_a_fault(tmp_path, 1, "train_step", 6, "fails")
    assert codes == [1, 1]
    assert second == "process 1 of 2: image 7 cannot be read; step 4 is saved\n"
    assert first.startswith("process 0 of 2: another process is gone at step 6, while training; step 4 is saved; to go")


def test_a_slow_disk_is_waited_for_longer_than_a_silent_process(tmp_path: Path) -> None:
    codes, said = with_a_fault(tmp_path, 0, "save", 2, "slow")
    assert (codes, said) == ([0, 0], ["", ""])
    assert Run(tmp_path / "run").done


def test_a_mistake_of_all_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").write_text("")
    codes, (first, second) = with_a_fault(tmp_path, 0, "train_step", 1, "SIGKILL")
    assert codes == [2, 2]
    assert first.endswith("exists already, and is not overwritten\n1 problem; nothing was trained.\n")
    assert second == ""
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["precious"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SPEC)
    arguments = [str(tmp_path / "small.yaml"), *OPTIONS, "--device", "cuda", "--out", str(tmp_path / "run")]
    port, fault = free_port(), (0, "train_step", 1, "SIGKILL")
    both = [SERVER.Process(target=faulty_command, args=(i, port, arguments, fault, tmp_path)) for i in (0, 1)]
    assert codes_of(both) == [2, 2]
    said = [(tmp_path / f"said-{i}").read_text() for i in (0, 1)]
    assert said == ["process 0 of 2: --device cuda: torch finds no CUDA device here\n", ""]


# Starting again


def test_a_killed_process_is_started_again_and_the_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SPEC)
    options = [str(tmp_path / "small.yaml"), *OPTIONS, "--no-report", "--out"]
    port = free_port()
    whole = [SERVER.Process(target=the_command, args=(i, port, [*options, f"{tmp_path / 'whole'}"])) for i in (0, 1)]
    assert codes_of(whole) == [0, 0]
    suicide = (
        "import os, signal; from effnet_builder.train import engine; from effnet_builder.cli.train import main\n"
        "real = engine.train_step\n"
        "def step(state, *rest):\n"
        "    if state.step == 10 and os.environ['RANK'] + os.environ['TORCHELASTIC_RESTART_COUNT'] == '10':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(state, *rest)\n"
        "engine.train_step = step; main()"
    )
    result = torchrun("--max-restarts", "1", *COMMAND[:3], suicide, *options, str(tmp_path / "run"))
    assert result.returncode == 0, result.stderr
    assert "process 0 of 2: another process is gone at step 11, while training; step 8 is saved" in result.stderr
    assert "going on after step 8, in epoch 2" in result.stdout
    for name in SAME:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def train_arch(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command, but for what follows --out."""
    spec = tmp_path_factory.mktemp("spec") / "small.yaml"
    spec.write_text(SPEC)
    return [str(spec), *OPTIONS, "--epochs", "1", "--no-report", "--auto-resume", "--out"]


@pytest.fixture(scope="module")
def done(started: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, started by the command that would also go on with it."""
    run = tmp_path_factory.mktemp("done") / "run"
    result = train_arch(*started, run)
    assert (result.exit_code, "wrote " in result.stdout) == (0, True), result.output
    return run


def contents(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in SAME}


@pytest.fixture
def begun(done: Path, tmp_path: Path) -> Path:
    """As if it had been killed after step 4."""
    run = Path(shutil.copytree(done, tmp_path / "run"))
    for name in ("model.safetensors", "evaluation.json", "result.json"):
        (run / name).unlink()
    for step in Run(run).checkpoints.steps():
        if step > 4:
            Run(run).checkpoints.path(step).unlink()
    return run


def test_the_same_command_goes_on(started: list[str], begun: Path, done: Path) -> None:
    result = train_arch(*started, begun)
    assert (result.exit_code, "going on after step 4, in epoch 1" in result.stdout) == (0, True), result.output
    assert contents(begun) == contents(done)


def test_the_same_command_says_that_the_run_is_done(started: list[str], done: Path) -> None:
    before = {path: path.read_bytes() for path in done.rglob("*") if path.is_file() and path.name != ".lock"}
    result = train_arch(*started, done)
    assert (result.exit_code, result.output) == (0, f"{done} is done; its weights are in model.safetensors\n")
    assert before == {path: path.read_bytes() for path in before}


def test_killed_before_its_first_checkpoint_a_run_starts_anew(started: list[str], begun: Path, done: Path) -> None:
    for step in Run(begun).checkpoints.steps():
        Run(begun).checkpoints.path(step).unlink()
    (begun / "checkpoints" / ".step-000000000.safetensors.1").write_text("half")
    (begun / ".spec.yaml.abc").write_text("half")
    result = train_arch(*started, begun)
    assert (result.exit_code, "going on" in result.stdout) == (0, False), result.output
    assert contents(begun) == contents(done)


@pytest.mark.parametrize("name", ["notes.txt", "model.safetensors"])
def test_nothing_foreign_is_overwritten(started: list[str], begun: Path, name: str) -> None:
    for step in Run(begun).checkpoints.steps():
        Run(begun).checkpoints.path(step).unlink()
    (begun / name).write_text("mine")
    before = {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()}
    result = train_arch(*started, begun)
    assert result.exit_code == 2
    assert f"--out {begun}: has no checkpoint, and holds {name}, which is not of a run" in result.stderr
    assert before == {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()}


def test_another_recipe_is_refused_also_by_itself(started: list[str], begun: Path) -> None:
    result = train_arch(*started, begun, "--set", "seed=3")
    assert (result.exit_code, "recipe.yaml: +seed: 3" in result.stderr) == (2, True), result.stderr
    assert f"--out {begun}" in result.stderr


def test_started_again_by_torchrun_it_goes_on_without_being_asked(
    started: list[str], begun: Path, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [one for one in started if one != "--auto-resume"]
    assert train_arch(*arguments, begun).exit_code == 2
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert train_arch(*arguments, begun).exit_code == 0
    assert contents(begun) == contents(done)
    for again in ([*arguments, begun], ["--resume", begun]):
        result = train_arch(*again)
        assert (result.exit_code, "is done" in result.stdout) == (0, True)


def test_a_run_that_is_to_be_started_again_must_be_named(
    started: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    result = train_arch(*started[:-2])
    assert (result.exit_code, "torchrun" in result.stderr) == (0, False)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    result = train_arch(*started[:-2])
    assert (result.exit_code, "torchrun --max-restarts: needs --out RUN" in result.stderr) == (2, True), result.stderr
    monkeypatch.delenv("TORCHELASTIC_MAX_RESTARTS")
    result = train_arch(*started[:-1])
    assert (result.exit_code, "--auto-resume: needs --out RUN" in result.stderr) == (2, True), result.stderr
    result = train_arch("--resume", tmp_path, "--auto-resume")
    assert (result.exit_code, "leave out --auto-resume" in result.stderr) == (2, True)
