"""Muon: its orthogonalization against singular values, its step against torch's and a formula, and as one optimizer."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from effnet_builder.train.muon import MuonWithAux, orthogonalize
from effnet_builder.train.optim import build_optimizer, clip_gradients, set_lr
from effnet_builder.train.optim_settings import SGD, AdamW, Muon


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors this small only wait for a second one
    yield
    torch.set_num_threads(threads)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 12, 3),
        nn.ReLU(), nn.Flatten(), nn.Linear(12, 6), nn.Linear(6, 12), nn.Linear(12, 5),
    )  # fmt: skip


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range = range(12)) -> None:
    images = torch.randn(8, 3, 7, 7, generator=torch.Generator().manual_seed(1))
    for step in steps:
        set_lr(optimizer, 1 / (1 + step))
        optimizer.zero_grad()
        F.cross_entropy(model(images), torch.arange(8) % 5).backward()
        clip_gradients(model.parameters(), max_norm=1.0)
        optimizer.step()


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(*pair) for pair in zip(first.parameters(), second.parameters(), strict=True))


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31), st.floats(1e-3, 1e3))
def test_the_update_is_nearly_orthogonal(rows: int, columns: int, seed: int, scale: float) -> None:
    """Singular values from 0.1 to 1 of the largest come to lie about 1, with the vectors they had."""
    random = np.random.default_rng(seed)
    rank = min(rows, columns)
    left, right = (np.linalg.qr(random.normal(size=(size, rank)))[0] for size in (rows, columns))
    matrix = (left * random.uniform(0.1, 1, rank)) @ right.T * scale
    found = orthogonalize(torch.tensor(matrix)[None])[0].numpy()
    in_their_axes = left.T @ found @ right
    np.testing.assert_allclose(in_their_axes, np.diag(np.diag(in_their_axes)), atol=1e-9)
    assert np.all((np.diag(in_their_axes) > 0.6) & (np.diag(in_their_axes) < 1.3))
    np.testing.assert_allclose(left @ in_their_axes @ right.T, found, atol=1e-9)  # and nothing besides


def test_without_a_gradient_there_is_no_direction() -> None:
    assert not orthogonalize(torch.zeros(2, 3, 5)).any()


def by_formula(
    weight: Any, gradients: Any, lr: float, decay: float, momentum: float, nesterov: bool, factor: float
) -> Any:
    """Muon in float64, with (x x')² written out."""
    mean = np.zeros_like(weight)
    for gradient in gradients:
        mean = momentum * mean + (1 - momentum) * gradient
        x = (1 - momentum) * gradient + momentum * mean if nesterov else mean
        x = x / np.sqrt((x**2).sum())
        for _ in range(5):
            x = 3.4445 * x - 4.7750 * (x @ x.T @ x) + 2.0315 * (x @ x.T @ x @ x.T @ x)
        weight = weight * (1 - lr * decay) - lr * factor * x
    return weight


@pytest.mark.parametrize(
    ("shape", "matrix"), [((6, 4), (6, 4)), ((4, 6), (4, 6)), ((8, 3, 1, 2), (8, 6)), ((4, 8, 3, 3), (4, 72))]
)
@pytest.mark.parametrize(("nesterov", "how"), [(True, "original"), (False, "match_rms_adamw")])
def test_ten_steps_by_the_formula(shape: Any, matrix: Any, nesterov: bool, how: Any) -> None:
    random = np.random.default_rng(0)
    weight, gradients = random.normal(size=shape), random.normal(size=(10, *shape))
    parameter = nn.Parameter(torch.tensor(weight))
    optimizer = MuonWithAux(
        [{"params": [parameter], "lr": 0.1}], None, momentum=0.7, nesterov=nesterov, weight_decay=0.3, adjust_lr_fn=how
    )
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    rows, columns = matrix
    factor = max(1, rows / columns) ** 0.5 if how == "original" else 0.2 * max(rows, columns) ** 0.5
    expected = by_formula(weight.reshape(matrix), gradients.reshape(10, *matrix), 0.1, 0.3, 0.7, nesterov, factor)
    np.testing.assert_allclose(parameter.detach().numpy().reshape(matrix), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("how", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_for_linear_layers_it_is_torchs(nesterov: bool, how: Any) -> None:
    """Up to the rounding of bfloat16, in which torch computes on every device."""
    random = torch.Generator().manual_seed(0)
    mine = [nn.Parameter(torch.randn(shape, generator=random)) for shape in ((24, 8), (8, 24), (24, 8), (16, 16))]
    before = [weight.detach().clone() for weight in mine]
    theirs = [nn.Parameter(weight.clone()) for weight in before]
    kwargs: dict[str, Any] = {"momentum": 0.6, "nesterov": nesterov, "weight_decay": 0.5, "adjust_lr_fn": how}
    optimizers = [
        MuonWithAux([{"params": mine, "lr": 0.1}], None, **kwargs),
        torch.optim.Muon(theirs, lr=0.1, **kwargs),
    ]
    for _ in range(5):
        for one, other in zip(mine, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=random)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other, start in zip(mine, theirs, before, strict=True):
        assert (one - other).norm() < 0.03 * (other - start).norm()


def test_everything_else_is_trained_by_the_other_optimizer() -> None:
    """The matrices held, AdamW alone gives the same; the others held, Muon alone does."""
    aux = AdamW(type="adamw", lr=0.01, betas=(0.8, 0.9), weight_decay=0.1)
    mine, other = network(), network()
    hidden = [3, 4, 7, 8]
    for model in (mine, other):
        for index in hidden:
            model[index].weight.data.mul_(0.5)
    optimizer = build_optimizer(Muon(type="muon", lr=0.05, aux=aux), mine, 8)
    weights = [other[index].weight for index in hidden]
    spared = [parameter for name, parameter in other.named_parameters() if name.endswith("bias") or name == "1.weight"]
    decayed = [other[0].weight, other[2].weight, other[9].weight]
    pair = [
        torch.optim.AdamW(
            [{"params": decayed}, {"params": spared, "weight_decay": 0.0}], 0.01, (0.8, 0.9), weight_decay=0.1
        ),
        MuonWithAux([{"params": weights, "lr": 0.05}], None),
    ]
    images = torch.randn(8, 3, 7, 7)
    for _ in range(5):
        for model, optimizers in ((mine, [optimizer]), (other, pair)):
            model.zero_grad()
            F.cross_entropy(model(images), torch.arange(8) % 5).backward()
            for one in optimizers:
                one.step()
    assert same(mine, other)


@pytest.mark.parametrize("chosen", [
    Muon(type="muon", lr=0.02),
    Muon(type="muon", lr=0.02, layer_decay=0.9, aux=SGD(type="sgd", lr=0.1, nesterov=True)),
    Muon(type="muon", lr=0.02, aux=SGD(type="sgd", lr=0.1, momentum=0.0)),
])  # fmt: skip
def test_resumed_from_its_state_it_continues_bit_for_bit(chosen: Muon) -> None:
    whole, first = network(), network()
    train(whole, build_optimizer(chosen, whole, 8))
    optimizer = build_optimizer(chosen, first, 8)
    train(first, optimizer, range(5))
    assert all(isinstance(value, Tensor) for state in optimizer.state.values() for value in state.values())
    resumed = copy.deepcopy(first)
    loaded = build_optimizer(chosen, resumed, 8)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(resumed, loaded, range(5, 12))
    assert same(whole, resumed)


def test_resumed_by_the_names_of_the_parameters() -> None:
    """As checkpoints keep it: the state of each parameter beside its name, put straight into `state`."""
    chosen = Muon(type="muon", lr=0.02)
    whole, first = network(), network()
    train(whole, build_optimizer(chosen, whole, 8))
    optimizer = build_optimizer(chosen, first, 8)
    train(first, optimizer, range(5))
    saved = {name: copy.deepcopy(optimizer.state[parameter]) for name, parameter in first.named_parameters()}
    resumed = copy.deepcopy(first)
    loaded = build_optimizer(chosen, resumed, 8)
    for name, parameter in resumed.named_parameters():
        loaded.state[parameter] = saved[name]
    train(resumed, loaded, range(5, 12))
    assert same(whole, resumed)


def test_memory_formats_and_missing_gradients_do_not_matter() -> None:
    plain, last = network(), network().to(memory_format=torch.channels_last)
    for model in (plain, last):
        model[4].weight.requires_grad_(False)
        optimizer = build_optimizer(Muon(type="muon", lr=0.02), model, 8)
        model[4].weight.requires_grad_(True)
        model[8].requires_grad_(False)  # from now on it has no gradient
        train(model, optimizer, range(3))
    assert torch.equal(plain[8].weight, network()[8].weight)
    assert torch.equal(plain[4].weight, network()[4].weight)
    for one, other in zip(plain.parameters(), last.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_it_returns_the_loss_of_a_closure() -> None:
    weight = nn.Parameter(torch.eye(3))
    optimizer = MuonWithAux([{"params": [weight], "lr": 0.1}], None)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (weight**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 3.0
    assert weight.trace() < 3
    assert optimizer.step() is None
