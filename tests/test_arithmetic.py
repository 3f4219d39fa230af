"""Precision on the CPU: which dtype the forward pass has, what is set and put back, the order of a step with fp16."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from many import SERVER
from torch import nn

from effnet_builder.arithmetic import autocast, check_precision, float32_products, gradient_scaler
from effnet_builder.precisions import Precision
from effnet_builder.train.optim import clip_gradients

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("fp32", torch.float32),
        ("tf32", torch.float32),
        ("bf16", torch.bfloat16),
        ("fp16", torch.float16),
    ],
)
def test_the_forward_pass_is_cast_and_nothing_else(precision: Precision, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3))
    images = torch.randn(4, 3, 6, 6)
    with autocast(precision, CPU):
        logits = model(images)
        loss = F.cross_entropy(logits, torch.arange(4) % 3)
    loss.backward()
    assert logits.dtype == dtype
    assert loss.dtype == torch.float32
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)
    model.eval()
    exact = F.cross_entropy(model(images), torch.arange(4) % 3)
    with autocast(precision, CPU):
        rounded = F.cross_entropy(model(images), torch.arange(4) % 3)
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0)
    assert (rounded == exact) == (dtype == torch.float32)


def switches() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    ("precision", "device", "inside"),
    [
        ("fp32", CPU, ("highest", False)),
        ("bf16", CPU, ("highest", False)),
        ("fp32", CUDA, ("highest", False)),
        ("tf32", CUDA, ("high", True)),
        ("bf16", CUDA, ("high", True)),
        ("fp16", CUDA, ("high", True)),
    ],
)
def test_products_are_set_both_ways_and_put_back(precision: Precision, device: torch.device, inside: Any) -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        before = switches()
        assert before == ("medium", True)  # the convolutions' is torch's default
        with pytest.raises(KeyError), float32_products(precision, device):
            assert switches() == inside
            raise KeyError
        assert switches() == before
    finally:
        torch.set_float32_matmul_precision("highest")


SWITCHES = ("", ".cudnn", ".mkldnn", ".cuda.matmul", ".cudnn.conv", ".cudnn.rnn", ".mkldnn.matmul", ".mkldnn.conv")
BEFORE = {
    "nothing": "pass",
    "one for all": "torch.backends.fp32_precision = 'tf32'",
    "all exact": "torch.backends.fp32_precision = 'ieee'",
    "of a backend": "torch.backends.cudnn.fp32_precision = 'ieee'",
    "of convolutions": "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
    "of products": "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "the older ones": "torch.set_float32_matmul_precision('medium'); torch.backends.cudnn.allow_tf32 = False",
}


def effective() -> list[str]:
    return [eval(f"torch.backends{switch}.fp32_precision") for switch in SWITCHES]


def readable() -> object:
    try:
        return switches()
    except RuntimeError:  # newer and older switches say different things
        return None


def _with_switches_set(before: str, folder: Path) -> None:
    exec(before)
    found = []
    for precision, expected in (("fp32", "ieee"), ("tf32", "tf32"), ("bf16", "tf32")):
        start = effective(), readable()
        with float32_products(precision, CUDA):  # type: ignore[arg-type]
            assert effective()[3:6] == [expected] * 3
            assert readable() is not None, "torch.compile reads them"
        found.append((effective(), readable()) == start)
    (folder / "found").write_text(f"{found}")


@pytest.mark.parametrize("name", BEFORE)
def test_whatever_switches_were_set_are_restored(name: str, tmp_path: Path) -> None:
    """In a process of its own: torch's defaults are not to be had back once they were set."""
    process = SERVER.Process(target=_with_switches_set, args=(BEFORE[name], tmp_path))
    process.start()
    process.join(60)
    assert (tmp_path / "found").read_text() == "[True, True, True]"


def test_what_a_device_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for precision in ("fp32", "bf16", "fp16"):
        check_precision(precision, CPU)
    with pytest.raises(ValueError, match="tf32 is arithmetic of CUDA devices; cpu has fp32, bf16 and fp16"):
        check_precision("tf32", CPU)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    check_precision("fp16", CUDA)
    for precision in ("bf16", "tf32"):
        with pytest.raises(ValueError, match="Tesla V100 has compute capability 7.0, and so fp32 and fp16"):
            check_precision(precision, CUDA)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    check_precision("bf16", CUDA)


def step(weight: nn.Parameter, precision: Precision, factor: float, scaler: torch.amp.GradScaler) -> float:
    """One step of SGD on `factor * weight` with clipping to 1; the norm of the gradient."""
    optimizer = torch.optim.SGD([weight], lr=0.5)
    optimizer.zero_grad()
    scaler.scale(factor * weight.sum()).backward()
    scaler.unscale_(optimizer)
    norm = clip_gradients([weight], max_norm=1.0)
    scaler.step(optimizer)
    scaler.update()
    return norm.item()


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_gradients_are_clipped_in_their_own_scale(precision: Precision) -> None:
    scaler, weight = gradient_scaler(precision, CPU), nn.Parameter(torch.tensor([1.0]))
    assert scaler.is_enabled() == (precision == "fp16")
    assert step(weight, precision, 0.25, scaler) == pytest.approx(0.25)
    assert weight.item() == 1.0 - 0.5 * 0.25  # below the bound: as it is
    assert step(weight, precision, 8.0, scaler) == pytest.approx(8.0)
    assert weight.item() == pytest.approx(0.875 - 0.5 * 1.0, rel=1e-5)  # cut to 1


def test_a_gradient_that_is_not_finite_leaves_the_weights_and_halves_the_scale() -> None:
    scaler, weight = gradient_scaler("fp16", CPU), nn.Parameter(torch.tensor([1.0]))
    before = scaler.state_dict()["scale"]
    step(weight, "fp16", float("inf"), scaler)
    assert weight.item() == 1.0
    assert scaler.state_dict()["scale"] == before / 2


def test_the_scale_survives_a_checkpoint_as_plain_numbers() -> None:
    scaler, weight = gradient_scaler("fp16", CPU), nn.Parameter(torch.tensor([1.0]))
    step(weight, "fp16", float("inf"), scaler)
    step(weight, "fp16", 0.5, scaler)
    state = json.loads(json.dumps(scaler.state_dict()))
    assert state["scale"] == 32768.0
    assert state["_growth_tracker"] == 1
    resumed = gradient_scaler("fp16", CPU)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == scaler.state_dict()
    assert gradient_scaler("bf16", CPU).state_dict() == {}
