"""SIGTERM and SIGINT, once or twice, at any moment."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import sys
import time
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


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"])
@pytest.mark.parametrize("workers", ["0", "2"])
def test_signals_of_schedulers_and_terminals_save_the_run(
    bench: Bench, tmp_path: Path, name: str, workers: str
) -> None:
    """Also where they come three times: shells send SIGHUP on, and SIGXCPU is repeated every second."""
    run = tmp_path / "run"
    fault = Fault("effnet_builder.train.engine:train_step", 10, ",".join([name] * 3))
    ended = command(bench.place.start(run, "--storage", "stream", "--workers", workers), tmp_path, fault)
    assert ended.code == 128 + signal.Signals[name], ended.said()
    assert ended.err == f"stopped by {name}; step 10 is saved; to go on: train-arch --resume {run}\n"
    assert command(["--resume", run], tmp_path).code == 0
    assert not differences(run, bench.expected)


TRAIN = "import sys; sys.argv[0] = 'train-arch'; from effnet_builder.cli.train import main; main()"


def in_terminal(arguments: list[str], run: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Start a command in a terminal of its own, and close that after its first steps; how it ended, and what it said."""
    process, terminal = pty.fork()
    if process == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os.chdir(run.parent)
        os.execvpe(arguments[0], arguments, environment)
    said = b""
    until = time.monotonic() + 100
    while time.monotonic() < until and not (run / "metrics.jsonl").exists():
        time.sleep(0.02)
        with contextlib.suppress(OSError):  # nohup has nothing open of it
            while select.select([terminal], [], [], 0)[0]:
                said += os.read(terminal, 10_000)
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), said.decode(errors="replace")


@pytest.mark.parametrize("nohup", [False, True], ids=["plain", "nohup"])
def test_a_terminal_that_is_closed(bench: Bench, tmp_path: Path, nohup: bool) -> None:
    run = tmp_path / "run"
    more = ["--storage", "stream", "--workers", "1"] + ["--epochs", "300"] * (not nohup)
    train = [sys.executable, "-c", TRAIN, *bench.place.start(run, *more)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "EFFNET_BUILDER_DATA": str(tmp_path / "data")}
    code, said = in_terminal([*["nohup"] * nohup, *train], run, environment)
    if nohup:
        assert code == 0, said
        assert not differences(run, bench.expected)
    else:
        assert code == 129, said
        steps = Run(run).checkpoints.steps()
        assert steps[0] > 0
        assert not Run(run).done
