"""The fake GPU itself: what it computes, refuses and counts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import fakegpu
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

CUDA = torch.device("cuda", 0)
pytestmark = pytest.mark.cuda
only_fake = pytest.mark.skipif(torch.cuda.is_available() and not fakegpu.active(), reason="about the fake GPU")


@pytest.fixture
def no_synchronization() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def network() -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 8, 3, groups=8)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 16, 5))


# --- What it computes ---


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("training", [True, False])
def test_a_network_is_that_of_the_cpu(memory_format: torch.memory_format, training: bool) -> None:
    on_cpu, on_cuda = network().double().train(training), network().double().train(training)
    on_cuda.to(CUDA, memory_format=memory_format)
    images = torch.randn(4, 3, 8, 8, dtype=torch.double)
    expected = on_cpu(images)
    found = on_cuda(images.to(CUDA, memory_format=memory_format))
    expected.square().mean().backward()
    found.square().mean().backward()
    assert_close(found, expected)
    for (name, parameter), reference in zip(on_cuda.named_parameters(), on_cpu.parameters(), strict=True):
        assert parameter.grad is not None, name
        assert_close(parameter.grad, reference.grad)
    for buffer, reference in zip(on_cuda.buffers(), on_cpu.buffers(), strict=True):
        assert_close(buffer, reference)


def assert_close(found: Tensor, expected: Tensor | None) -> None:
    assert expected is not None
    assert found.is_cuda
    size = expected.double().norm()
    if expected.is_floating_point() and expected.any():
        assert size > 1e-12
    assert (found.cpu().double() - expected.double()).norm() <= 1e-12 * size


def test_convolutions_keep_channels_last() -> None:
    images = torch.randn(2, 3, 8, 8, device=CUDA).to(memory_format=torch.channels_last)
    features = nn.Conv2d(3, 8, 3).to(CUDA)(images)
    assert features.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_float16_trains_with_fused_optimizers(optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    model = network().to(CUDA)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10)
    fused = optimizer(model.parameters(), lr=0.1, fused=True)
    for _ in range(2):
        fused.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = F.cross_entropy(model(torch.randn(4, 3, 8, 8, device=CUDA)), torch.zeros(4, dtype=int, device=CUDA))
        scaler.scale(loss).backward()
        scaler.step(fused)
        scaler.update()
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert parameter.isfinite().all()
        assert not torch.equal(parameter, old)


@pytest.mark.parametrize("draw", [lambda x: F.dropout(x), torch.rand_like, lambda x: x.clone().bernoulli_(0.5),
                                  lambda x: torch.randperm(len(x), device=CUDA)])  # fmt: skip
def test_a_seed_gives_the_same_draws(draw: Callable[[Tensor], Tensor]) -> None:
    ones = torch.ones(64, device=CUDA)
    torch.manual_seed(3)
    host = torch.get_rng_state()
    first, second = draw(ones), draw(ones)
    assert torch.equal(torch.get_rng_state(), host)
    torch.manual_seed(3)
    assert torch.equal(draw(ones), first)
    assert not torch.equal(first, second)
    state = torch.cuda.get_rng_state()
    third = draw(ones)
    torch.cuda.set_rng_state(state)
    assert torch.equal(draw(ones), third)


def test_threads_compute_too() -> None:
    found: list[float] = []
    thread = threading.Thread(target=lambda: found.append((torch.ones(3, device=CUDA) * 2).sum().item()))
    thread.start()
    thread.join()
    assert found == [6]


def test_inference_mode_computes_composite_ops() -> None:
    with torch.inference_mode():
        x = torch.arange(6.0, device=CUDA).reshape(2, 3).t()
        assert F.linear(x.reshape(6), torch.ones(1, 6, device=CUDA)).item() == 15
        assert x.contiguous().flatten().tolist() == [0, 3, 1, 4, 2, 5]


def test_out_arguments_are_resized() -> None:
    out = torch.empty(0, device=CUDA)
    torch.add(torch.ones(3, device=CUDA), 1, out=out)
    assert out.tolist() == [2, 2, 2]


def test_copies_convert_and_lay_out() -> None:
    image = torch.arange(24).reshape(2, 3, 4)
    assert torch.equal(image.to(CUDA, torch.float32).cpu(), image.float())
    assert torch.equal(image.to(CUDA).transpose(0, 2).to("cpu", torch.float64), image.transpose(0, 2).double())
    target = torch.zeros(4, 3, 2, device=CUDA)
    target[1:3].copy_(image.transpose(0, 2)[1:3])
    assert torch.equal(target[1:3].cpu(), image.transpose(0, 2)[1:3].float())
    assert target.cpu()[0].sum() == 0


@only_fake
def test_new_memory_holds_garbage() -> None:
    torch.cuda.empty_cache()
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert torch.empty(3 << 20, dtype=dtype, device=CUDA).isnan().all()
        torch.cuda.empty_cache()


# --- What it refuses ---


@pytest.mark.parametrize(
    "operation",
    [
        lambda cpu, cuda: cuda + cpu,
        lambda cpu, cuda: cpu + cuda,
        lambda cpu, cuda: cpu.add_(cuda),
        lambda cpu, cuda: torch.cat([cuda, cpu]),
        lambda cpu, cuda: cpu[cuda.long()],
        lambda cpu, cuda: F.cross_entropy(cuda[None], cpu.long()[:1]),
        lambda cpu, cuda: cuda.index_put_((cpu.long(),), cpu),
        lambda cpu, cuda: torch.zeros(()).add_(cuda.sum()),
    ],
)
def test_devices_do_not_mix(operation: Callable[[Tensor, Tensor], Any]) -> None:
    with pytest.raises(RuntimeError, match="same device"):
        operation(torch.ones(3), torch.ones(3, device=CUDA))


def test_numbers_and_indices_of_the_host_are_taken() -> None:
    x = torch.arange(3.0, device=CUDA)
    assert (x * torch.tensor(2.0)).tolist() == [0, 2, 4]
    assert x[torch.tensor([2, 0])].tolist() == [2, 0]
    assert x[torch.tensor([True, False, True])].tolist() == [0, 2]


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.sum().item(),
        lambda x: x.cpu(),
        lambda x: x.unique(),
        lambda x: x[torch.tensor([0])],
        lambda x: torch.equal(x, x),
    ],
)
def test_the_debug_mode_refuses_synchronizations(operation: Callable[[Tensor], Any], no_synchronization: None) -> None:
    x = torch.zeros(3, device=CUDA)
    with pytest.raises(RuntimeError, match="synchronizing CUDA operation"):
        operation(x)


def test_what_does_not_synchronize(no_synchronization: None) -> None:
    x = torch.zeros(3, device=CUDA)
    x[x > 0] = 1
    x.masked_fill_(x > 0, 1.0)
    x[1:] = 2
    x.copy_(torch.ones(3).pin_memory(), non_blocking=True)


# --- What it counts ---


@only_fake
def test_synchronizations_and_copies() -> None:
    host = torch.ones(1000)
    pinned = host.pin_memory()
    fakegpu.reset()
    found = pinned.to(CUDA, non_blocking=True)
    counts = fakegpu.counts()
    assert (counts.synchronizations, counts.pageable_copies) == (0, 0)
    assert counts.copies["pinned to device"] == fakegpu.Copies(1, 4000)
    fakegpu.reset()
    host.to(CUDA)
    assert (fakegpu.counts().synchronizations, fakegpu.counts().pageable_copies) == (1, 1)
    fakegpu.reset()
    found.sum().item()
    assert fakegpu.counts().synchronizations == 1


@only_fake
@pytest.mark.cuda(mode="count", devices=2)
def test_contexts_and_allocations_by_device() -> None:
    torch.cuda.set_device(1)
    torch.ones(3, device="cuda:1").to("cpu", non_blocking=True)
    counts = fakegpu.counts()
    assert counts.contexts == (False, True)
    assert (counts.allocations[0], counts.pinned_allocations[0]) == (0, 0)
    assert (counts.allocations[1], counts.pinned_allocations[1]) == (1, 1)
    torch.cuda.set_device(0)


@only_fake
@pytest.mark.cuda(mode="count", devices=2)
def test_launches() -> None:
    model = network().to(CUDA, memory_format=torch.channels_last)
    images = torch.empty(4, 3, 8, 8, device=CUDA).to(memory_format=torch.channels_last)
    model(images)
    fakegpu.reset()
    logits = model(images)
    assert logits.shape == (4, 5)
    # The batch counter, conv, norm, activation, conv and its bias, linear; flattening what is channels last copies it.
    assert fakegpu.counts().launches == 8
    assert fakegpu.counts().synchronizations == 0
    assert fakegpu.counts().allocations == (0, 0)
