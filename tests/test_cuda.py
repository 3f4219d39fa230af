"""The same numbers on CUDA; skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_train import make_folder
from typer.testing import CliRunner

from effnet_builder import build_model
from effnet_builder.cli.train import app
from effnet_builder.models.network import Network
from effnet_builder.train.data import Storage, load_dataset, place
from effnet_builder.train.loading import Loader
from effnet_builder.train.muon import MuonWithAux

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
