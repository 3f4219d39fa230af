"""The same numbers on CUDA; skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from effnet_builder import build_model
from effnet_builder.cli.train import app
from effnet_builder.models.network import Network

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
