"""The same numbers on CUDA; skipped where there is none."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from folders import make_folder
from torch import nn
from training import (
    OPTIMIZERS,
    AtEachStep,
    Faulty,
    Kept,
    begin,
    deep,
    differences,
    frozen_copy,
    normed,
    tiny_recipe,
)
from typer.testing import CliRunner

from effnet_builder import build_model
from effnet_builder.cli.train import app
from effnet_builder.models.network import Network
from effnet_builder.train.data import Storage, load_dataset, place
from effnet_builder.train.engine import Diverged, fit
from effnet_builder.train.loading import Loader
from effnet_builder.train.muon import MuonWithAux
from effnet_builder.train.step import Rows, train_step
from effnet_builder.train.stopping import StopRequest

CUDA = torch.device("cuda", 0)
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture
def model() -> Network:
    torch.manual_seed(0)
    return build_model("efficientnet-b0", num_classes=10).eval()


def test_cuda_equals_the_cpu_in_float64(model: Network) -> None:
    images = torch.randn(2, 3, 65, 65, dtype=torch.float64)
    expected = model.double()(images)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        found = model.cuda().to(memory_format=memory_format)(images.cuda().to(memory_format=memory_format))
        assert torch.allclose(found.cpu(), expected, rtol=1e-8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_trains(model: Network, dtype: torch.dtype) -> None:
    model.cuda().train()
    with torch.autocast("cuda", dtype=dtype):
        logits = model(torch.randn(4, 3, 64, 64, device="cuda"))
    logits.float().square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_inductor_compiles_one_graph(model: Network) -> None:
    images = torch.randn(2, 3, 64, 64, device="cuda")
    expected = model.cuda()(images)
    assert torch.allclose(torch.compile(model, fullgraph=True)(images), expected, rtol=1e-2, atol=1e-3)


def test_a_run_on_cuda(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["efficientnet-pico", "--epochs", "2", "--device", "cuda", "--out", str(tmp_path / "run")]
    )
    assert result.exit_code == 0, result.output
    assert "on cuda" in result.stdout


@pytest.mark.parametrize("storage", ["device", "memory", "cache", "stream"])
def test_batches_on_cuda_are_those_of_the_cpu(storage: str, tmp_path: Path) -> None:
    """While the device is busy, so that pinned memory that were used too early would show."""
    data = load_dataset(
        f"folder:{make_folder(tmp_path / 'pets', sizes=tuple((8 + i, 9) for i in range(40)))}",
        channels=3, size=16, progress=lambda items, *_: items, storage=storage, cache_dir=tmp_path,
    )  # fmt: skip
    cuda, images = torch.device("cuda"), data.train.read()
    data = place(data, cuda, 10**9, Storage(storage))
    assert data.storage.value == storage
    weight = torch.randn(4096, 4096, device=cuda)
    loader = Loader(data.train, cuda, workers=2)
    for epoch in range(3):
        batches = torch.randperm(160, generator=torch.Generator().manual_seed(epoch)).split(7)
        found = []
        for x, y, index in loader.batches(batches):
            assert x.is_cuda
            assert y.is_cuda
            weight = torch.tanh(weight @ weight)
            found.append((x.clone(), y.clone(), index))
        for (x, y, index), wanted in zip(found, batches, strict=True):
            assert torch.equal(index, wanted)
            assert torch.equal(x.cpu(), images[wanted])
            assert torch.equal(y.cpu(), data.train.labels[wanted])


@pytest.mark.parametrize("of", ["loss", "gradient"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_bad_step_changes_nothing(name: str, of: str) -> None:
    """Whether the host skips it or the device; also the first step, of which SGD's fused kernel leaves garbage."""
    model, bad, seen = normed(), [0, 3, 4, 7], []
    recipe = tiny_recipe(optimizer=OPTIMIZERS[name], ema={"horizon": "3steps"})
    state, job = begin(model, recipe, forward=Faulty(model, bad, of=of), device=CUDA, fused=True)
    seen.append(frozen_copy(state))
    fit(state, replace(job, loggers=[AtEachStep(lambda: seen.append(frozen_copy(state)))]), None, StopRequest())
    for step, (before, after) in enumerate(itertools.pairwise(seen)):
        new = {f"{kind}.{name}" for kind in ("optimizer.momentum_buffer", "optimizer.exp_avg", "optimizer.exp_avg_sq",
                                             "optimizer.step") for name, _ in model.named_parameters()}  # fmt: skip
        changed = set(differences(before, after)) - {"step", "history"} - (new if step == 0 else set())
        assert (changed == {"counters"}) == (step in bad), (step, changed)
    assert all(tensor.isfinite().all() for tensor in seen[-1].tensors.values())
    assert state.counters.skipped.tolist() == [4, 1, 2]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_step_does_not_wait_for_the_device(name: str) -> None:
    recipe = tiny_recipe(optimizer=OPTIMIZERS[name], ema={"horizon": "3steps"}, clip={"max_norm": 1.0})
    state, job = begin(normed(), recipe, device=CUDA, fused=True)
    fit(state, job, None, StopRequest())
    [(images, labels, index)] = job.train.batches([torch.arange(4)])
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            train_step(state, job, job.stage(1), Rows(images, labels, index, slice(0, 4), 4, 1))
            state.step += 1
    finally:
        torch.cuda.set_sync_debug_mode(before)


def test_a_fault_is_found_where_nobody_looks_at_each_step() -> None:
    """At the end of the epoch at the latest, and the run that goes back to it may try as many steps again."""
    for calls, ends in (([5, 6, 7], True), (range(5, 99), False)):
        model, saver = normed(), Kept()
        recipe = tiny_recipe(epochs=3, skip_limit=3)
        state, job = begin(model, recipe, forward=Faulty(model, calls), device=CUDA, fused=True, log_every=1000)
        if ends:
            fit(state, job, saver, StopRequest())
            assert (state.went_back, state.step, len(state.history)) == (True, 12, 3)
        else:
            with pytest.raises(Diverged, match="again"):
                fit(state, job, saver, StopRequest())


@pytest.mark.parametrize("make", [deep, normed])
def test_a_state_comes_back(make: type[nn.Module]) -> None:
    state, job = begin(make(), tiny_recipe(ema={"horizon": 0.5}), device=CUDA, fused=True)
    saver = Kept()
    fit(state, job, saver, StopRequest())
    other, _ = begin(make(), tiny_recipe(ema={"horizon": 0.5}), device=CUDA, fused=True)
    saver.restore(other)
    assert not differences(frozen_copy(state), frozen_copy(other))


def test_muon_on_cuda_is_that_of_the_cpu_up_to_bfloat16() -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((24, 8), (8, 4, 3, 3), (24, 8))]
    gradients = [torch.randn(weight.shape, generator=generator) for weight in start]
    found = []
    for device in ("cpu", "cuda"):
        weights = [torch.nn.Parameter(weight.to(device)) for weight in start]
        optimizer = MuonWithAux([{"params": weights, "lr": 0.1}], None)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient.to(device)
        optimizer.step()
        found.append([weight.detach().cpu() for weight in weights])
    for one, other, weight in zip(*found, start, strict=True):
        assert (one - other).norm() < 0.03 * (one - weight).norm()
