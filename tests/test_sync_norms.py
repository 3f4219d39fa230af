"""Processes compute as one does on the whole batch: gradients, statistics, order; also where their number changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from many import alone, in_processes
from torch import Tensor, nn
from training import CPU, PLAIN, AtEachStep, begin, normed, pictures, tiny_recipe

from effnet_builder.cli.finish import norm_batches
from effnet_builder.train import engine
from effnet_builder.train.checkpoint import Checkpoints
from effnet_builder.train.engine import fit
from effnet_builder.train.evaluation import recompute_norm_statistics
from effnet_builder.train.loading import Loader
from effnet_builder.train.norms import SyncBatchNorm2d, synchronize_norms
from effnet_builder.train.processes import Processes
from effnet_builder.train.saving import RunSaver
from effnet_builder.train.stages import evaluation
from effnet_builder.train.step import Rows
from effnet_builder.train.stopping import SIGNALS, Stopped, StopRequest

pytestmark = pytest.mark.usefixtures("one_thread")


class Frozen(nn.BatchNorm2d):
    """As in evaluation, also in training."""

    def train(self, mode: bool = True) -> Any:
        return super().train(False)


def with_norms(make: Callable[[int], nn.Module]) -> nn.Module:
    """The small network without dropout, whose masks differ from process to process, and with other norms."""
    model = normed()
    assert isinstance(model, nn.Sequential)
    for i, part in enumerate(model):
        if isinstance(part, nn.BatchNorm2d):
            model[i] = make(part.num_features)
        elif isinstance(part, nn.Dropout):
            part.p = 0.0
    return model


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "synchronized": nn.BatchNorm2d, "frozen": Frozen, "group": lambda channels: nn.GroupNorm(2, channels),
}  # fmt: skip


def after_steps(who: Processes, kind: str, **changes: object) -> list[Tensor]:
    """Gradients and statistics after each of four steps of seven images."""
    model, found = with_norms(NORMS[kind]), list[Tensor]()
    if who.count > 1 and kind == "synchronized":
        synchronize_norms(model)
    recipe = tiny_recipe(batch_size=7, optimizer={"type": "sgd", "lr": 0.01}, **changes)
    state, job = begin(model, recipe, processes=who)

    def look() -> None:
        found.extend(parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None)
        found.extend(buffer.clone() for buffer in model.buffers())

    fit(state, replace(job, loggers=[AtEachStep(look)]), None, StopRequest())
    return found


def everything(who: Processes, folder: Path) -> dict[str, list[Tensor]]:
    found = {kind: after_steps(who, kind) for kind in NORMS}
    found["bf16"] = after_steps(who, "synchronized", precision="bf16")
    found["contiguous"] = after_steps(who, "synchronized", channels_last=False)
    return found


@pytest.mark.parametrize("count", [2, 3])
def test_gradients_and_statistics_are_those_of_one_process_on_the_whole_batch(count: int, tmp_path: Path) -> None:
    """Seven images in shares of three and four, and of two, two and three."""
    expected = alone(everything, tmp_path)
    for found in in_processes(count, everything, tmp_path):
        for kind, tensors in expected.items():
            rough = kind == "bf16"
            assert len(tensors) > 4 * 10
            for ours, theirs in zip(found[kind], tensors, strict=True):
                # In bf16 a share is rounded like the whole, and a sum of other roundings is as far off as they are.
                scale = max(float(theirs.float().abs().max()), 1e-3)
                torch.testing.assert_close(
                    ours, theirs, rtol=0, atol=(0.1 if rough else 1e-4) * scale, msg=f"{kind}: {ours} {theirs}"
                )


def without_synchronization(who: Processes, folder: Path) -> list[Tensor]:
    model = with_norms(nn.BatchNorm2d)
    state, job = begin(model, tiny_recipe(batch_size=7, optimizer={"type": "sgd", "lr": 0.01}), processes=who)
    fit(state, job, None, StopRequest())
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_without_synchronization_they_are_others(tmp_path: Path) -> None:
    expected = alone(without_synchronization, tmp_path)
    found = in_processes(2, without_synchronization, tmp_path)
    assert all(map(torch.equal, *found))
    assert max(float((a - b).abs().max()) for a, b in zip(found[0], expected, strict=True)) > 1e-3


def test_names_and_tensors_stay() -> None:
    model = with_norms(nn.BatchNorm2d)
    before = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    synchronize_norms(model)
    assert sum(isinstance(part, SyncBatchNorm2d) for part in model.modules()) == 3
    assert before == {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    images = torch.rand(2, 3, 8, 8)
    plain = with_norms(nn.BatchNorm2d).eval()
    assert torch.equal(model.eval()(images), plain(images))


def measured(who: Processes, folder: Path) -> list[Tensor]:
    model = with_norms(nn.BatchNorm2d)
    if who.count > 1:
        synchronize_norms(model)
    how = evaluation(tiny_recipe(), 8, PLAIN, who)
    recompute_norm_statistics(model, norm_batches(Loader(pictures(), CPU), how, 0, 12))
    return [buffer.clone() for buffer in model.buffers()]


def test_statistics_measured_anew_are_the_same_bits_in_any_number_of_processes(tmp_path: Path) -> None:
    expected = alone(measured, tmp_path)
    for found in in_processes(2, measured, tmp_path):
        assert all(map(torch.equal, found, expected))


# Another number of processes


def indices_seen(who: Processes, folder: Path) -> list[Tensor]:
    """The images of each step, as the loop hands them to the step."""
    seen, real = list[Tensor](), engine.train_step

    def step(state: Any, job: Any, stage: Any, batch: Rows) -> Tensor:
        seen.append(batch.index.clone())
        return real(state, job, stage, batch)

    engine.train_step = step
    try:
        state, job = begin(with_norms(nn.BatchNorm2d), tiny_recipe(batch_size=7), processes=who)
        fit(state, job, None, StopRequest())
    finally:
        engine.train_step = real
    return seen


def test_processes_share_each_batch_without_padding(tmp_path: Path) -> None:
    expected = alone(indices_seen, tmp_path)
    assert [len(batch) for batch in expected] == [7] * 4
    for count in (2, 3):
        parts = in_processes(count, indices_seen, tmp_path)
        assert all(map(torch.equal, map(torch.cat, zip(*parts, strict=True)), expected))


def leg(who: Processes, folder: Path, until: int | None = None) -> dict[str, Any]:
    """Start or go on with a run, until a step or to its end: its tensors."""
    model, stop = with_norms(nn.BatchNorm2d), StopRequest()
    if who.count > 1:
        synchronize_norms(model)
    recipe = tiny_recipe(batch_size=8, epochs=8, ema={"horizon": "4steps"}, optimizer={"type": "sgd", "lr": 0.02})
    saver = RunSaver(Checkpoints(folder / "checkpoints"), {}, print, processes=who)
    state, job = begin(model, recipe, processes=who)
    if who.tell(saver.checkpoints.steps()):  # before the first process saves
        saver.restore(state)

    def look() -> None:
        if state.step == until:
            stop.signal = SIGNALS[0]

    try:
        fit(state, replace(job, loggers=[AtEachStep(look)]), saver, stop)
    except Stopped:
        assert state.step == until
    return {name: tensor.clone() for name, tensor in state.checkpoint({}).tensors.items()} | {"step": state.step}


def first_leg(who: Processes, folder: Path) -> dict[str, Any]:
    return leg(who, folder, 4)


def second_leg(who: Processes, folder: Path) -> dict[str, Any]:
    return leg(who, folder, 9)  # within an epoch


def third_leg(who: Processes, folder: Path) -> dict[str, Any]:
    return leg(who, folder, 12)


def test_a_run_goes_on_in_another_number_of_processes(tmp_path: Path) -> None:
    """One, two, four and one again: the weights of the run in one process, but for the order of sums."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    expected = alone(leg, tmp_path / "whole")
    assert expected["step"] == 16
    alone(first_leg, tmp_path / "parts")
    in_processes(2, second_leg, tmp_path / "parts")
    in_processes(4, third_leg, tmp_path / "parts")
    found = alone(leg, tmp_path / "parts")
    for name, tensor in expected.items():
        if isinstance(tensor, Tensor):  # measured: 4e-7 of the largest value
            near = 1e-5 * max(float(tensor.abs().max()), 1e-3)
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=near, msg=f"{name}: {found[name]} {tensor}")
