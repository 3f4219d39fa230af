"""Losses, gradients, images and weights that are no numbers, in the real command: skipped, counted, gone back from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from harness import Fault, Place, command
from safetensors.torch import load_file

from effnet_builder.train.run import Run

LOSS = "effnet_builder.train.step:F.cross_entropy"
NORM = "effnet_builder.train.step:grad_norm"
IMAGES = "effnet_builder.train.augment:InputPath.train"
STEP = "effnet_builder.train.engine:train_step"


def skipped(run: Path) -> list[int]:
    """Steps that were skipped, up to the end of each epoch."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["skipped"] for line in lines if line["kind"] == "epoch"]


@pytest.mark.parametrize("target", [LOSS, NORM, IMAGES])
def test_bad_steps_are_skipped_counted_and_reported(place: Place, target: str, tmp_path: Path) -> None:
    """The fourth step of the first epoch, the second and third of the second one."""
    run, calls = tmp_path / "run", (4, 9, 10)
    if target == LOSS:  # which validation asks for too, twice for each of three batches
        calls = (4, 7 + 6 + 2, 7 + 6 + 3)
    faults = [Fault(target, call, "TIMES nan") for call in calls]
    ended = command([*place.start(run), "--report"], tmp_path, *faults)
    assert ended.code == 0, ended.said()
    assert skipped(run) == [1, 3, 3]
    assert json.loads((run / "result.json").read_text())["skipped_steps"] == 3
    assert "1 in epoch 1, 2 in epoch 2: loss or gradient no finite number" in (run / "report.html").read_text()
    assert "  skipped steps: 2, loss or gradient no finite number\n" in ended.out
    assert all(tensor.isfinite().all() for tensor in load_file(run / "model.safetensors").values())


def test_bad_steps_in_a_row_go_back_once_and_then_end_the_run(place: Place, tmp_path: Path) -> None:
    more = "--set", "skip_limit=3"
    run = tmp_path / "once"
    ended = command(place.start(run, *more), tmp_path, *(Fault(NORM, call, "TIMES inf") for call in (10, 11, 12)))
    assert ended.code == 0, ended.said()
    assert "going on after step 8, in epoch 2" in ended.out
    run = tmp_path / "for good"
    ended = command(place.start(run, *more), tmp_path, *(Fault(NORM, call, "TIMES nan") for call in range(10, 30)))
    assert ended.code == 1, ended.said()
    assert "3 steps in a row, up to step 11, had a loss or gradient that is no finite number, again; try" in ended.err
    assert ended.err.endswith("; step 8 is saved\n")
    assert not (run / "model.safetensors").exists()


def test_weights_that_are_no_numbers_are_never_kept(place: Place, tmp_path: Path) -> None:
    """By the last step of all: no later one would find it."""
    run = tmp_path / "run"
    spoil = """DO
import gc, torch
for module in gc.get_objects():
    if isinstance(module, torch.nn.Linear):
        module.weight.data.fill_(float("nan"))
"""
    ended = command(place.start(run), tmp_path, Fault(STEP, 21, spoil, late=True))
    assert ended.code == 1, ended.said()
    assert "no checkpoint of step 21: its weights are no finite numbers; the last one is of step 20" in ended.out
    assert ended.err.endswith("the weights at the end are no finite numbers; try a lower lr; step 20 is saved\n")
    assert not (run / "model.safetensors").exists()
    for _, checkpoint in Run(run).checkpoints.newest():
        assert not isinstance(checkpoint, Exception)
        assert all(tensor.isfinite().all() for tensor in checkpoint.tensors.values())
    assert command(["--resume", run], tmp_path).code == 0


@pytest.mark.parametrize("clip", ["null", "{max_norm: 1}"])
def test_a_spike_of_the_loss_is_survived(place: Place, clip: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ended = command(place.start(run, "--set", f"clip={clip}"), tmp_path, Fault(LOSS, 5, "TIMES 10000"))
    assert ended.code == 0, ended.said()
    assert skipped(run) == [0, 0, 0]
    weights = load_file(run / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())
    largest = max(float(tensor.abs().max()) for name, tensor in weights.items() if name.endswith("weight"))
    if clip != "null":
        assert largest < 10, "the step was no longer than any other"
    assert torch.isfinite(torch.tensor(largest))
