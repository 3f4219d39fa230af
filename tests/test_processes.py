"""Several processes with one run, as torchrun starts them: the same figures, equal weights, the same bits again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from many import COMMAND, SERVER, SPEC, TIMEOUT, alone, codes_of, free_port, in_processes, the_command, torchrun
from torch import Tensor
from training import (
    CLASSES,
    CPU,
    PLAIN,
    AtEachStep,
    Faulty,
    Told,
    begin,
    differences,
    frozen_copy,
    linear,
    normed,
    pictures,
    tiny_recipe,
)

from effnet_builder.train.checkpoint import Checkpoints
from effnet_builder.train.engine import Diverged, fit
from effnet_builder.train.loading import Loader
from effnet_builder.train.metrics import measure
from effnet_builder.train.predictions import predict
from effnet_builder.train.processes import ALONE, Processes, processes
from effnet_builder.train.run import Run
from effnet_builder.train.saving import RunSaver
from effnet_builder.train.stages import evaluation
from effnet_builder.train.stopping import SIGNALS, Stopped, StopRequest

pytestmark = pytest.mark.usefixtures("one_thread")


# Evaluation


def evaluated(who: Processes, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for count in (1, 4, 5, 18):  # also fewer batches than processes
        predictions = predict(normed(), Loader(pictures(count), CPU), evaluation(tiny_recipe(), 8, PLAIN, who))
        found |= {f"{count} {name}": value for name, value in vars(predictions).items()}
        found[f"{count} metrics"] = measure(predictions, CLASSES).to_dict()
    return found


@pytest.mark.parametrize("count", [2, 3])
def test_the_same_figures_to_the_last_bit(count: int, tmp_path: Path) -> None:
    expected = alone(evaluated, tmp_path)
    for found in in_processes(count, evaluated, tmp_path):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(found[name], value) if isinstance(value, Tensor) else found[name] == value, name


# Training


def gradients(who: Processes, folder: Path) -> list[Tensor]:
    """Of a module without norms, after each of eight steps of seven images; in parts of one and two."""
    model, found = linear(), list[Tensor]()
    recipe = tiny_recipe(batch_size=7, accumulate=2, epochs=4, optimizer={"type": "sgd", "lr": 0.01})
    state, job = begin(model, recipe, processes=who)

    def look() -> None:
        found.extend(parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None)

    fit(state, replace(job, loggers=[AtEachStep(look)]), None, StopRequest())
    return [*found, torch.tensor([[epoch.train_loss, epoch.train_accuracy] for epoch in state.history])]


def test_the_gradient_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    expected = alone(gradients, tmp_path)
    assert len(expected) == 8 * 4 + 1
    for found in in_processes(2, gradients, tmp_path):
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def images_seen(who: Processes, folder: Path) -> list[Tensor]:
    """The images as they reach the network, of the rows of this process."""
    seen: list[Tensor] = []
    recipe = tiny_recipe(
        batch_size=8,
        augment={"resize_first": False, "crop_padding": 2, "horizontal_flip": True, "random_resized_crop": {},
                 "policy": {"type": "rand_augment"}, "erasing": {"value": "noise"}, "cutout": {"size": 3}},
    )  # fmt: skip
    model = linear()
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()) if module.training else None)
    state, job = begin(model, recipe, processes=who)
    fit(state, job, None, StopRequest())
    return seen


def test_an_image_is_augmented_alike_in_any_process(tmp_path: Path) -> None:
    expected = alone(images_seen, tmp_path)
    assert len({batch.numpy().tobytes() for batch in expected}) == 4
    for count in (2, 3):
        parts = in_processes(count, images_seen, tmp_path)
        assert all(map(torch.equal, map(torch.cat, zip(*parts, strict=True)), expected))


def trained(who: Processes, folder: Path, stop_at: int | None = None) -> dict[str, Any]:
    """Start or go on with a run: its state at the end, and what was said."""
    recipe = tiny_recipe(
        batch_size=6, epochs=3, ema={"horizon": "3steps"}, accumulate=2, mix={"mixup": 0.4},
        schedule={"type": "cosine"}, **{"augment.crop_padding": 2},
    )  # fmt: skip
    stop, said, told = StopRequest(), list[str](), Told()
    saver = RunSaver(Checkpoints(folder / "checkpoints"), {}, said.append, processes=who)
    state, job = begin(normed(seed=0), recipe, log_every=2, save_every=4, processes=who)
    if who.tell(saver.checkpoints.steps()):  # before the first process saves
        saver.restore(state)

    def look() -> None:
        if state.step == stop_at and who.rank == who.count - 1:  # a signal may reach one process alone
            stop.signal = SIGNALS[0]

    job = replace(job, loggers=[AtEachStep(look), told])
    try:
        fit(state, job, saver, stop)
    except Stopped:
        said.append("stopped")
    return {"end": frozen_copy(state), "said": said, "steps": [step.loss for step in told.steps]}


def stopped(who: Processes, folder: Path) -> dict[str, Any]:
    return trained(who, folder, stop_at=5)


@pytest.mark.parametrize("count", [2, 3])
def test_all_end_with_equal_weights_and_resumed_with_the_same(count: int, tmp_path: Path) -> None:
    """With three, the order in which three numbers are added must stay, too."""
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    first, second, *_ = in_processes(count, trained, tmp_path / "whole")
    assert not differences(first["end"], second["end"])
    assert first["end"].facts["history"][0]["train_loss"] > first["end"].facts["history"][-1]["train_loss"]
    assert len(first["end"].facts["history"]) == 3
    assert first["steps"] == second["steps"]
    for half in in_processes(count, stopped, tmp_path / "parts"):
        assert (half["end"].facts["step"], half["said"]) == (5, ["stopped"])
    assert Checkpoints(tmp_path / "parts" / "checkpoints").steps()[:2] == [5, 4]
    for whole in in_processes(count, trained, tmp_path / "parts"):
        assert not differences(whole["end"], first["end"])
        assert whole["said"] == []
    one = alone(trained, tmp_path)  # other statistics of batch norm, other mixtures: near, and not the same
    assert differences(one["end"], first["end"])


def with_a_fault(who: Processes, folder: Path) -> dict[str, Any]:
    """A loss that is no number in the second process alone, in three steps."""
    model, told = normed(), Told()
    recipe = tiny_recipe(batch_size=6, epochs=3, skip_limit=3, ema={"horizon": "3steps"})
    state, job = begin(model, recipe, processes=who, loggers=[told])
    forward = Faulty(job.forward, [3, 4, 5] if who.rank == 1 else [])
    saver = RunSaver(Checkpoints(folder / "checkpoints"), {}, print, processes=who)
    fit(state, replace(job, forward=forward), saver, StopRequest())
    return {"end": frozen_copy(state), "back": told.back, "calls": forward.call + 1}


def with_a_fault_that_stays(who: Processes, folder: Path) -> str:
    state, job = begin(normed(), tiny_recipe(batch_size=6, skip_limit=3), processes=who)
    saver = RunSaver(Checkpoints(folder / "stays"), {}, print, processes=who)
    try:
        fit(state, replace(job, forward=Faulty(job.forward, range(99) if who.rank == 0 else [])), saver, StopRequest())
    except Diverged as error:
        return str(error)
    return "not noticed"


def test_a_fault_in_one_process_is_one_of_all(tmp_path: Path) -> None:
    first, second = in_processes(2, with_a_fault, tmp_path)
    for found in (first, second):
        assert found["back"] == [0, 3]
        assert found["calls"] == 9 + 3
        assert found["end"].facts["went_back"]
        assert found["end"].tensors["counters"][6] == 0
    assert not differences(first["end"], second["end"])
    said = in_processes(2, with_a_fault_that_stays, tmp_path)
    assert said[0] == said[1]
    assert said[0].startswith("3 steps in a row, up to step 3, had a loss or gradient that is no finite number, again")


def small_talk(who: Processes, folder: Path) -> list[Any]:
    rank = who.rank
    return [
        who.any(rank == 1), who.any(False), who.most(10 - rank), who.tell(f"from {rank}"), who.first,
        who.sum_(torch.tensor([1.0, rank])).tolist(), who.count,
    ]  # fmt: skip


def test_what_they_tell_each_other(tmp_path: Path) -> None:
    for rank, said in enumerate(in_processes(3, small_talk, tmp_path)):
        assert said == [True, False, 10, "from 0", rank == 0, [3.0, 3.0], 3]
    assert small_talk(ALONE, tmp_path) == [False, False, 10, "from 0", True, [1.0, 0.0], 1]


def test_without_torchrun_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes(torch.device("cpu"), TIMEOUT) as who:
        assert who is ALONE
    monkeypatch.setenv("WORLD_SIZE", "1")
    with processes(torch.device("cpu"), TIMEOUT) as who:
        assert who is ALONE


# The command under torchrun

OPTIONS = ["--device", "cpu", "--data", "fake:60x3", "--epochs", "3", "--set", "batch_size=8", "--save-every", "4"]


def test_sigterm_to_torchrun_saves_and_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SPEC)
    started = [str(tmp_path / "small.yaml"), *OPTIONS, "--out"]
    port = free_port()
    whole = [SERVER.Process(target=the_command, args=(i, port, [*started, f"{tmp_path / 'whole'}"])) for i in (0, 1)]
    assert codes_of(whole) == [0, 0]

    harness, run = str(Path(__file__).parent / "faults" / "harness.py"), tmp_path / "run"
    to_launcher = "DO import os; os.environ['RANK'] == '0' and os.kill(os.getppid(), 15)"
    result = torchrun(harness, "effnet_builder.train.engine:train_step", "9", to_launcher, *started, str(run))
    assert result.returncode != 0
    assert "stopped by SIGTERM; step " in result.stderr
    assert f"to go on: train-arch --resume {run}\n" in result.stderr
    assert "effnet_builder/" not in result.stderr  # no traceback but torchrun's own
    assert "warning" not in result.stderr
    assert not Run(run).done
    step = Run(run).checkpoints.steps()[0]
    assert step not in (4, 6, 8, 12, 16, 18)
    copied = Path(shutil.copytree(run, tmp_path / "copy"))

    result = torchrun(*COMMAND, "--resume", str(run))
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("wrote ") == 1
    assert f"going on after step {step}" in result.stdout
    for name in ("model.safetensors", "metrics.csv", "metrics.jsonl", "evaluation.json"):
        assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert json.loads((run / "result.json").read_text())["processes"] == 2
    assert Run(copied).checkpoints.steps()[0] == step
