"""What programs read of a training: files that are equal for equal runs and lose no line when a run is resumed."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effnet_builder import ConfigError
from effnet_builder.train.loggers import EpochMetrics, StepMetrics
from effnet_builder.train.sinks import JsonlLogger, TensorBoardLogger, WandbLogger

STEPS = 10  # of an epoch
AVERAGE = ("ema_loss", "ema_accuracy", "ema_top5")


def step_metrics(step: int, seconds: float = 1.0) -> StepMetrics:
    return StepMetrics(
        step=step, epoch=(step - 1) // STEPS + 1, loss=1 / step, accuracy=0.25, lr=0.1, grad_norm=0.5, skipped=0,
        images_per_second=100 / seconds, wait_share=seconds / 100,
    )  # fmt: skip


def epoch_metrics(epoch: int, seconds: float = 1.0) -> EpochMetrics:
    """Whatever fields there are, with numbers that tell them apart; the average is missing."""
    values: dict[str, Any] = {field.name: epoch + i / 100 for i, field in enumerate(fields(EpochMetrics))}
    values |= dict.fromkeys(AVERAGE) | {"epoch": epoch, "step": epoch * STEPS, "seconds": seconds}
    return EpochMetrics(**values)


def train(loggers: Sequence[Any], first: int, last: int, epochs: Sequence[int], seconds: float = 1.0) -> None:
    """Tell of the steps from `first` to `last`, and of these epochs after their last step."""
    for step in range(first, last + 1):
        for logger in loggers:
            logger.step(step_metrics(step, seconds))
            if step % STEPS == 0 and step // STEPS in epochs:
                logger.epoch(epoch_metrics(step // STEPS, seconds))


def test_lines_are_objects_of_known_fields(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path / "log.jsonl")
    train([logger], 9, 10, [1])
    logger.close()
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert lines[0] == (
        '{"kind": "step", "step": 9, "epoch": 1, "loss": 0.1111111111111111, "accuracy": 0.25, "lr": 0.1, '
        '"grad_norm": 0.5, "skipped": 0}'
    )
    names = [
        field.name for field in fields(EpochMetrics) if field.name not in {"seconds", "images_per_second", "wait_share"}
    ]
    assert list(json.loads(lines[2])) == ["kind", *names]
    assert json.loads(lines[2])["kind"] == "epoch"
    assert json.loads(lines[2])["ema_loss"] is None


def test_equal_runs_write_equal_bytes_however_long_they_took(tmp_path: Path) -> None:
    for name, seconds in (("a", 1.0), ("b", 77.7)):
        train([JsonlLogger(tmp_path / name)], 1, 25, [1, 2], seconds)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert len((tmp_path / "a").read_bytes().splitlines()) == 27


def test_a_loss_that_is_not_finite_is_null(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path / "log.jsonl")
    logger.step(replace(step_metrics(1), loss=math.nan, grad_norm=math.inf))
    data = json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=pytest.fail)
    assert (data["loss"], data["grad_norm"]) == (None, None)


@settings(max_examples=60)
@given(data=st.data(), logged=st.booleans())
def test_a_resumed_run_loses_and_doubles_no_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, logged: bool
) -> None:
    """Killed anywhere, even within a line, after a checkpoint anywhere before, even between a step and its epoch's line."""
    folder = tmp_path_factory.mktemp("run")
    whole, path = folder / "whole", folder / "killed"
    train([JsonlLogger(whole)], 1, 30, [1, 2, 3])
    expected = whole.read_bytes()
    saved = data.draw(st.integers(0, 30), label="steps in the checkpoint")
    epochs = saved // STEPS - (saved % STEPS == 0 and saved > 0 and not logged)
    known = sum(line["epoch"] <= epochs if line["kind"] == "epoch" else line["step"] <= saved
                for line in map(json.loads, expected.splitlines()))  # fmt: skip
    least = len(b"".join(expected.splitlines(keepends=True)[:known]))
    path.write_bytes(expected[: data.draw(st.integers(least, len(expected)), label="bytes on disk")])
    logger = JsonlLogger(path)
    logger.go_back(saved, [epoch_metrics(epoch) for epoch in range(1, epochs + 1)])
    assert path.read_bytes() == expected[:least]
    if saved and saved % STEPS == 0 and not logged:
        logger.epoch(epoch_metrics(saved // STEPS))
    train([logger], saved + 1, 30, [1, 2, 3])
    assert path.read_bytes() == expected
    assert {file.name for file in folder.iterdir()} == {"whole", "killed"}


@pytest.mark.parametrize(
    "torn", [b'{"kind": "st', b"\x00\x00\xff\n", b"[1]\n", b"7\n", b'{"kind": "other"}\n', b'{"kind": "step"}\n']
)
def test_lines_that_are_none_go(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "log.jsonl"
    train([JsonlLogger(path)], 1, 3, [])
    before = path.read_bytes()
    path.write_bytes(before + torn)
    JsonlLogger(path).go_back(3, [])
    assert path.read_bytes() == before


def test_trimming_writes_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.jsonl"
    JsonlLogger(path).go_back(3, [])
    assert not path.exists(), "there was nothing to trim"
    train([JsonlLogger(path)], 1, 5, [])
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space"):
        JsonlLogger(path).go_back(3, [])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["log.jsonl"]


def test_tensorboard_reads_what_was_told_and_a_resumed_run_once(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    killed = TensorBoardLogger(tmp_path)
    killed.go_back(0, [])
    train([killed], 1, 17, [1])
    killed.close()
    resumed = TensorBoardLogger(tmp_path)
    resumed.go_back(12, [epoch_metrics(1)])
    train([resumed], 13, 20, [2], seconds=2.0)
    resumed.close()
    events = event_accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    steps = {"loss", "accuracy", "lr", "grad_norm", "skipped", "images_per_second", "wait_share"}
    epochs = {field.name for field in fields(EpochMetrics)} - {"epoch", "step", *AVERAGE}
    tags = {f"step/{name}" for name in steps} | {f"epoch/{name}" for name in epochs} | {"epoch"}
    assert set(events.Tags()["scalars"]) == tags
    losses = [(event.step, event.value) for event in events.Scalars("step/loss")]
    assert losses == [(step, pytest.approx(1 / step)) for step in range(1, 21)]
    speeds = [event.value for event in events.Scalars("step/images_per_second")]
    assert speeds == 12 * [100.0] + 8 * [50.0], "from step 13 on those of the second run"
    accuracies = [(event.step, event.value) for event in events.Scalars("epoch/valid_accuracy")]
    assert accuracies == [(10 * epoch, pytest.approx(epoch_metrics(epoch).valid_accuracy)) for epoch in (1, 2)]


def test_tensorboard_forgets_the_steps_of_a_run_that_went_back(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = TensorBoardLogger(tmp_path)
    logger.go_back(0, [])
    train([logger], 1, 15, [1])
    logger.go_back(10, [epoch_metrics(1)])
    train([logger], 11, 12, [], seconds=2.0)
    logger.close()
    events = event_accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("step/loss")] == list(range(1, 13))
    assert [event.value for event in events.Scalars("step/images_per_second")][-3:] == [100.0, 50.0, 50.0]


class FakeWandb(ModuleType):
    """What of wandb we use, written down call by call."""

    class Error(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("wandb")
        self.started: dict[str, Any] = {}
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = False

    def Settings(self, **settings: bool) -> dict[str, bool]:  # noqa: N802 (its name)
        return settings

    def init(self, **settings: Any) -> SimpleNamespace:
        self.started = settings
        run_id = settings["id"] or "new1"
        return SimpleNamespace(id=run_id, log=lambda data, step: self.logged.append((step, data)), finish=self.finish)

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    module = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_wandb_gets_every_number_once(wandb: FakeWandb, tmp_path: Path) -> None:
    logger = WandbLogger("b0-digits-1", {"recipe": {"epochs": 3}}, tmp_path)
    assert (tmp_path / "wandb.id").read_text() == "new1"
    logger.go_back(0, [])
    train([logger], 9, 10, [1])
    logger.close()
    assert wandb.started == {
        "name": "b0-digits-1", "config": {"recipe": {"epochs": 3}}, "dir": str(tmp_path), "id": None, "resume": "allow",
        "settings": {"disable_git": True, "disable_code": True, "save_code": False},
    }  # fmt: skip
    assert [step for step, _ in wandb.logged] == [9, 10, 10]
    assert wandb.logged[0][1] == {
        "step/loss": 1 / 9, "step/accuracy": 0.25, "step/lr": 0.1, "step/grad_norm": 0.5, "step/skipped": 0, "step/images_per_second": 100.0,
        "step/wait_share": 0.01,
    }  # fmt: skip
    assert wandb.logged[2][1]["epoch/valid_accuracy"] == epoch_metrics(1).valid_accuracy
    assert wandb.finished
    (tmp_path / "wandb.id").write_text("old7")
    WandbLogger("b0-digits-1", {}, tmp_path)
    assert (wandb.started["id"], wandb.started["resume"]) == ("old7", "allow")
    assert (tmp_path / "wandb.id").read_text() == "old7"


def test_wandb_that_does_not_start_is_a_sentence(
    wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> None:
        raise FakeWandb.Error("No API key configured.\nUse `wandb login`.")

    monkeypatch.setattr(wandb, "init", fail)
    with pytest.raises(ConfigError) as raised:
        WandbLogger("name", {}, tmp_path)
    assert str(raised.value) == (
        "Weights & Biases does not start: No API key configured. Use `wandb login`; "
        "WANDB_MODE=offline needs neither account nor network"
    )


@pytest.mark.parametrize("name", ["wandb", ".wandb"])
def test_settings_of_wandb_in_the_working_directory_are_refused(
    wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """They name the server that is sent everything: `base_url`."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "settings").write_text("[default]\nbase_url = http://evil\n")
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"^--wandb: {tmp_path}/{name}/settings would decide where the run is sent"):
        WandbLogger("name", {}, tmp_path / "run")
    assert wandb.started == {}


def test_what_is_not_installed_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("torch.utils.tensorboard", "tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError) as raised:
        TensorBoardLogger(tmp_path / "events")
    assert str(raised.value) == "tensorboard is not installed; pip install 'effnet_builder[tensorboard]'"
    with pytest.raises(ConfigError) as raised:
        WandbLogger("name", {}, tmp_path)
    assert str(raised.value) == "wandb is not installed; pip install 'effnet_builder[wandb]'"
    assert not list(tmp_path.iterdir())
