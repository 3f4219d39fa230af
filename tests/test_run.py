"""The run directory, who has it, what is written there; signals; devices."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn
from training import begin, linear, tiny_recipe

from effnet_builder.config import of_system
from effnet_builder.train.device import choose_device, to_device
from effnet_builder.train.engine import fit
from effnet_builder.train.loggers import TIMES, ConsoleLogger, CsvLogger, EpochMetrics, StepMetrics
from effnet_builder.train.ownership import Busy, owning, removed_if_empty
from effnet_builder.train.processes import ALONE, Processes
from effnet_builder.train.run import Run, create, create_next
from effnet_builder.train.saving import RunSaver
from effnet_builder.train.stopping import StopRequest

EPOCH = EpochMetrics(1, 5, 8, 0.1, 0.5, 0.6, 0.7, 0.8, 0.9, None, None, None, 0, 1.0, 640.0, 0.0)

# The directory


def test_a_directory_is_made_once(tmp_path: Path) -> None:
    run = create(tmp_path / "runs" / "first")
    assert (run.folder, os.listdir(run.folder)) == (tmp_path / "runs" / "first", [])
    with pytest.raises(FileExistsError, match="first exists already, and is not overwritten$"):
        create(run.folder)
    run.recipe.write_text("name: x\n")
    with pytest.raises(FileExistsError, match="not overwritten; to go on with it, use --resume$"):
        create(run.folder)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        create(tmp_path / "link")
    assert run.recipe.read_text() == "name: x\n"


def test_the_first_free_number(tmp_path: Path) -> None:
    assert [create_next(tmp_path / "runs", "x").folder.name for _ in range(3)] == ["x-1", "x-2", "x-3"]
    (tmp_path / "runs" / "x-2").rmdir()
    assert create_next(tmp_path / "runs", "x").folder.name == "x-2"
    (tmp_path / "runs" / "x-4").write_text("a file")
    assert create_next(tmp_path / "runs", "x").folder.name == "x-5"
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError):
        create_next(tmp_path / "file", "x")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_run_that_fails_before_there_is_anything_leaves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    run = create(tmp_path / "runs" / "run")
    with pytest.raises(error), removed_if_empty(run):
        run.spec.write_text("x")
        raise error
    assert os.listdir(tmp_path / "runs") == []
    run = create(tmp_path / "runs" / "run")
    with pytest.raises(error), removed_if_empty(run):
        RunSaver(run.checkpoints, {}, print).save(begin(linear(), tiny_recipe())[0])
        raise error
    assert run.checkpoints.steps() == [0]
    run = create(tmp_path / "runs" / "whole")
    with pytest.raises(error), removed_if_empty(run):
        run.write_json("result.json", {})
        raise error
    assert run.done
    run = create(tmp_path / "runs" / "other")
    with removed_if_empty(run):
        pass
    assert run.folder.exists()


@contextmanager
def another_process_with(run: Run) -> Iterator[int]:
    """Its number, while it has the run; then it is killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with owning(run):
            os.write(writer, b"x")
            signal.pause()
        os._exit(0)
    os.read(reader, 1)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("planted", ["link", "hard link", "pipe", "folder"])
def test_a_lock_that_is_something_else_destroys_nothing(planted: str, tmp_path: Path) -> None:
    run, precious, lock = create(tmp_path / "run"), tmp_path / "precious", tmp_path / "run" / ".lock"
    precious.write_text("precious")
    if planted == "link":
        lock.symlink_to(precious)
    elif planted == "hard link":
        lock.hardlink_to(precious)
    else:
        os.mkfifo(lock) if planted == "pipe" else lock.mkdir()
    with pytest.raises(OSError, match=r"lock") as raised, owning(run):
        pytest.fail("owned")
    assert f"{lock}" in of_system(raised.value)
    assert precious.read_text() == "precious"


def test_a_copy_by_hard_links_can_be_owned(tmp_path: Path) -> None:
    run, copy = create(tmp_path / "run"), create(tmp_path / "copy")
    with owning(run):
        pass
    (copy.folder / ".lock").hardlink_to(run.folder / ".lock")
    with owning(copy):
        pass


def test_only_what_a_run_writes_is_removed(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    ours = [".spec.yaml.0123456789abcdef", ".metrics.jsonl.k3_x9abc", ".model.safetensors.4711"]
    others = [".gitlab-ci.yml.orig", ".notes.txt.swp", ".spec.yaml", ".hidden.a.b", "spec.yaml.0123456789abcdef"]
    run.checkpoints.folder.mkdir()
    inside = run.checkpoints.folder
    (inside / ".step-000000001.safetensors.4711").touch()
    (inside / ".step-1.safetensors.4711").touch()
    for name in ours + others:
        (run.folder / name).touch()
    run.clean()
    assert sorted(os.listdir(run.folder)) == sorted([*others, "checkpoints"])
    assert os.listdir(inside) == [".step-1.safetensors.4711"]
    with pytest.raises(RuntimeError), owning(run), removed_if_empty(run):
        run.spec.write_text("x")
        raise RuntimeError
    assert sorted(os.listdir(run.folder)) == sorted(others)


def test_folders_of_a_run_that_are_links_are_not_written_to(tmp_path: Path) -> None:
    run, outside = create(tmp_path / "run"), tmp_path / "outside"
    outside.mkdir()
    (outside / ".step-000000001.safetensors.1").touch()
    run.checkpoints.folder.symlink_to(outside)
    with pytest.raises(OSError, match="is a link"):
        RunSaver(run.checkpoints, {}, print).save(begin(linear(), tiny_recipe())[0])
    run.clean()
    run.remove()
    assert os.listdir(outside) == [".step-000000001.safetensors.1"]
    assert not run.folder.exists()


def test_one_process_at_a_time_and_none_after_it_is_killed(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    with another_process_with(run) as child:
        for _ in range(2):
            with (
                pytest.raises(Busy, match=rf"run: another process is at work on it \(process {child} on .+\)$"),
                owning(run),
            ):
                pytest.fail("two have it")
    with owning(run):
        assert (run.folder / ".lock").read_text().startswith(f"process {os.getpid()} on ")
        with pytest.raises(Busy), owning(run):
            pytest.fail("twice")
    with pytest.raises(ZeroDivisionError), owning(run):
        raise ZeroDivisionError
    with owning(run):
        pass


def test_json_is_written_whole_and_what_is_none_is_an_error(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    run.write_json("run.json", {"name": "café 網", "numbers": [1, 0.1, None]})
    assert run.read_json("run.json") == {"name": "café 網", "numbers": [1, 0.1, None]}
    assert "café 網" in (run.folder / "run.json").read_text(encoding="utf-8")
    assert os.listdir(run.folder) == ["run.json"]
    (run.folder / "run.json").write_text('{"name": ')
    with pytest.raises(OSError, match="run.json cannot be read: Expecting value"):
        run.read_json("run.json")
    with pytest.raises(FileNotFoundError):
        run.read_json("nothing.json")


# Loggers


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table_has_every_epoch_and_times_are_apart(tmp_path: Path) -> None:
    recipe = tiny_recipe(epochs=3, ema={"horizon": 0.5})
    state, job = begin(linear(), recipe, loggers=[CsvLogger(tmp_path)])
    fit(state, job, None, StopRequest())
    results, times = rows(tmp_path / "metrics.csv"), rows(tmp_path / "times.csv")
    assert len(results) == len(times) == 3
    assert results[0].keys() == {field for field in asdict(EPOCH) if field not in TIMES}
    for metrics, result, time in zip(state.history, results, times, strict=True):
        read = {name: float(value) for name, value in (result | time).items()}
        assert read == asdict(metrics)
    assert sorted(os.listdir(tmp_path)) == ["metrics.csv", "times.csv"]
    assert b"\r" not in (tmp_path / "metrics.csv").read_bytes()


def test_the_table_is_written_from_the_history(tmp_path: Path) -> None:
    """Whatever is in the file: where a run goes on, its history is what counts."""
    logger = CsvLogger(tmp_path)
    (tmp_path / "metrics.csv").write_text("epoch\n1\n2\n3\n4,half")
    logger.go_back(5, [EPOCH])
    assert [row["epoch"] for row in rows(tmp_path / "metrics.csv")] == ["1"]
    assert rows(tmp_path / "metrics.csv")[0]["ema_loss"] == ""
    logger.epoch(replace(EPOCH, epoch=2, valid_loss=math.inf))
    assert [row["valid_loss"] for row in rows(tmp_path / "metrics.csv")] == ["0.7", "inf"]
    logger.go_back(0, [])
    assert rows(tmp_path / "metrics.csv") == rows(tmp_path / "times.csv") == []


def test_the_bar_stays_on_one_line_of_a_terminal_and_is_nowhere_else() -> None:
    for terminal in (True, False):
        screen, lines = io.StringIO(), list[str]()
        console = Console(file=screen, force_terminal=terminal, width=80, color_system=None)
        logger = ConsoleLogger(console, 2, lines.append)
        logger.go_back(0, [])
        for step in range(1, 6):
            logger.tick(step, 5)
            logger.step(StepMetrics(step, 1, 0.25, 0.5, 0.1, 1.0, 0, 640.0, 0.0))
            logger.bar.refresh()
        drawn = screen.getvalue()
        logger.epoch(EPOCH)
        logger.close()
        assert ("5/5" in drawn) == ("loss 0.250" in drawn) == terminal
        assert "\n" not in drawn
        printed = screen.getvalue() if terminal else "\n".join(lines)
        line = (
            "epoch 1/2  lr 0.1       train loss 0.5000, accuracy 60.00%  valid loss 0.7000, accuracy 80.00%  1.0 s, 640"
        )
        assert line in printed
        assert (screen.getvalue() == "") == (not terminal)


def test_what_the_console_says_beside_it() -> None:
    lines: list[str] = []
    logger = ConsoleLogger(Console(file=io.StringIO()), 10, lines.append)
    logger.go_back(0, [])
    logger.go_back(1234, [EPOCH])
    logger.epoch(replace(EPOCH, epoch=2, ema_accuracy=0.85, seconds=9.0, wait_share=0.5))
    logger.close()
    assert lines[0] == "going on after step 1,234, in epoch 2"
    assert lines[1].startswith("epoch  2/10 ")
    assert "valid loss 0.7000, accuracy 80.00%, of the average 85.00%  9.0 s" in lines[1]
    assert lines[2].startswith("  50% of the training time went into waiting for data; more --workers")
    assert len(lines) == 3


# Signals


def test_the_first_signal_is_noted_and_the_second_ends_the_process() -> None:
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    for first in before:
        for second in before:
            stop = StopRequest()
            with stop.listening():
                assert not stop
                os.kill(os.getpid(), first)
                assert (bool(stop), stop.signal) == (True, first)
                assert stop.anywhere(ALONE)
                with pytest.raises(SystemExit) as ended:
                    os.kill(os.getpid(), second)
                assert ended.value.code == 128 + second
            assert {one: signal.getsignal(one) for one in before} == before


def test_what_other_processes_were_told_is_no_first_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun sends its signal to each process; one may hear of the first by another that got it earlier."""
    stop, others = StopRequest(), int(signal.SIGINT)
    monkeypatch.setattr(Processes, "most", lambda self, number: max(number, others))
    with stop.listening():
        assert stop.anywhere(Processes(0, 0, 2))
        assert stop.signal is signal.SIGINT
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)


def test_all_processes_come_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that comes while they ask counts at the next time: else one would stop and the others wait for it."""
    stop = StopRequest()

    def most(self: Processes, number: int) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return number

    monkeypatch.setattr(Processes, "most", most)
    with stop.listening():
        assert not stop.anywhere(Processes(0, 0, 2))
        assert stop.signal is signal.SIGTERM


# Devices


def test_devices() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in {"cpu", "cuda"}
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA device"):
            choose_device("cuda")


def test_each_process_has_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [choose_device(name, rank) for name, rank in (("auto", 0), ("cuda", 1))] == [
        torch.device("cuda", 0), torch.device("cuda", 1),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="process 3 of this machine, which has 2"):
        choose_device("cuda", 2)


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_order_of_weights_in_memory(channels_last: bool) -> None:
    model = to_device(nn.Conv2d(3, 4, 3), torch.device("cpu"), channels_last=channels_last)
    assert model.weight.is_contiguous(memory_format=torch.channels_last) is channels_last


def test_metrics_are_plain_numbers() -> None:
    assert json.loads(json.dumps(asdict(EPOCH))) == asdict(EPOCH)
    assert EPOCH.kept_accuracy == 0.8
    assert replace(EPOCH, ema_accuracy=0.3).kept_accuracy == 0.3
