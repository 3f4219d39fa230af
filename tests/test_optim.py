"""Optimizers: what decays, torch's results bit for bit, TensorFlow's RMSprop by its formula, clipping."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from effnet_builder import ConfigError
from effnet_builder.train.groups import parameter_groups, parameter_kinds
from effnet_builder.train.optim import build_optimizer, clip_gradients, grad_norm, set_lr
from effnet_builder.train.optim_settings import SGD, AdamW, AnyOptimizer, RMSprop
from effnet_builder.train.rmsprop import RMSpropOptimizer

Make = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors this small only wait for a second one
    yield
    torch.set_num_threads(threads)


class Norm2d(nn.LayerNorm):
    """As a network has it that derives its own."""


class Scaled(nn.Module):
    """A layer of parameters of its own, which only looks like a norm and a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_bias = nn.Parameter(torch.ones(4))


def every_kind() -> nn.Module:
    """Names that say the opposite of what they name."""
    net = nn.Module()
    net.norm = nn.Conv2d(3, 8, 3)
    net.depthwise = nn.Conv2d(8, 8, 3, groups=4)
    net.dense = nn.Conv2d(8, 8, 3, groups=8)
    net.conv = nn.BatchNorm2d(8)
    net.weight_ = nn.GroupNorm(2, 8)
    net.linear = Norm2d(8)
    net.grey = nn.Conv2d(1, 4, 3, groups=1, bias=False)
    net.multiplied = nn.Conv2d(4, 8, 3, groups=4, bias=False)
    net.bn = nn.Linear(8, 4)
    net.instance = nn.InstanceNorm2d(4, affine=True)
    net.rms = nn.RMSNorm(4)
    net.scaled = Scaled()
    net.nested = nn.Sequential(nn.Sequential(nn.SyncBatchNorm(4)), nn.ConvTranspose2d(4, 4, 2, groups=4))
    return net


KINDS = {
    "norm.weight": "weight", "norm.bias": "bias", "depthwise.weight": "weight", "depthwise.bias": "bias",
    "dense.weight": "depthwise", "dense.bias": "bias", "conv.weight": "norm", "conv.bias": "norm",
    "weight_.weight": "norm", "weight_.bias": "norm", "linear.weight": "norm", "linear.bias": "norm",
    "grey.weight": "weight", "multiplied.weight": "depthwise", "bn.weight": "weight", "bn.bias": "bias",
    "instance.weight": "norm", "instance.bias": "norm", "rms.weight": "norm", "scaled.norm_bias": "weight",
    "nested.0.0.weight": "norm", "nested.0.0.bias": "norm", "nested.1.weight": "depthwise", "nested.1.bias": "bias",
}  # fmt: skip


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(72, 5)
    )


def by_hand(model: nn.Module, settings: AnyOptimizer) -> list[dict[str, Any]]:
    """The groups of `small()`: kinds by position."""
    kinds = {"weight": ["0.weight", "5.weight"], "bias": ["0.bias", "3.bias", "5.bias"]}
    kinds |= {"norm": ["1.weight", "1.bias"], "depthwise": ["3.weight"]}
    named = dict(model.named_parameters())
    spared = [named[name] for kind in settings.no_decay for name in kinds[kind]]
    decayed = [parameter for parameter in named.values() if all(parameter is not other for other in spared)]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": settings.weight_decay}]
    return groups + ([{"params": spared, "weight_decay": 0}] if spared else [])


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range = range(20)) -> None:
    images = torch.randn(8, 3, 7, 7, generator=torch.Generator().manual_seed(1))
    for step in steps:
        set_lr(optimizer, 1 / (1 + step))
        optimizer.zero_grad()
        F.cross_entropy(model(images), torch.arange(8) % 5).backward()
        optimizer.step()


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(*pair) for pair in zip(first.parameters(), second.parameters(), strict=True))


def test_parameters_are_told_apart_by_the_type_of_their_module() -> None:
    net = every_kind()
    kinds = parameter_kinds(net)
    assert {name: kinds[parameter] for name, parameter in net.named_parameters()} == KINDS


@pytest.mark.parametrize("spared", [(), ("norm",), ("bias", "norm"), ("depthwise",), ("norm", "bias", "depthwise")])
def test_what_is_spared_does_not_decay(spared: Any) -> None:
    net = every_kind()
    names = {parameter: name for name, parameter in net.named_parameters()}
    optimizer = build_optimizer(SGD(type="sgd", lr=0.1, weight_decay=1e-4, no_decay=spared), net, 32)
    found = {names[p]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert found == {name: 0.0 if kind in spared else 1e-4 for name, kind in KINDS.items()}
    for group in optimizer.param_groups:
        inside = [names[parameter] for parameter in group["params"]]
        assert inside == [name for name in KINDS if name in inside]  # in the order of the module
        assert group["initial_lr"] == group["lr"] == 0.1


def test_defaults() -> None:
    assert SGD(type="sgd", lr=1).no_decay == ()
    assert AdamW(type="adamw", lr=1).no_decay == RMSprop(type="rmsprop", lr=1).no_decay == ("norm", "bias")
    assert len(parameter_groups(SGD(type="sgd", lr=1, weight_decay=0.1), every_kind(), 2)) == 1


def test_shared_and_frozen_parameters() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    net[1].weight = net[0].weight
    net[2].requires_grad_(False)
    groups = parameter_groups(AdamW(type="adamw", lr=1), net, 2)
    assert [[id(p) for p in group["params"]] for group in groups] == [
        [id(net[0].weight)], [id(net[0].bias), id(net[1].bias)],
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="^nothing to train: every parameter of the network is frozen$"):
        build_optimizer(SGD(type="sgd", lr=1), net.requires_grad_(False), 2)


def test_learning_rates() -> None:
    net = small()
    settings = RMSprop(type="rmsprop", lr=0.016, lr_batch_size=256)
    optimizer = build_optimizer(settings, net, 4096)
    assert settings.base_lr(4096) == 0.256
    assert [group["initial_lr"] for group in optimizer.param_groups] == [0.256, 0.256]
    optimizer.param_groups[1]["initial_lr"] = 0.1  # as a smaller rate for some layers would be
    set_lr(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.128, 0.05]


SPARING: list[tuple[AnyOptimizer, Make]] = [
    (SGD(type="sgd", lr=0.1), lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9)),
    (SGD(type="sgd", lr=0.1, momentum=0, weight_decay=0.01), lambda groups: torch.optim.SGD(groups, lr=0.1)),
    (
        SGD(type="sgd", lr=0.1, nesterov=True, weight_decay=0.01, no_decay=("norm",)),
        lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True),
    ),
    (AdamW(type="adamw", lr=0.01), lambda groups: torch.optim.AdamW(groups, lr=0.01)),
    (
        AdamW(type="adamw", lr=0.01, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.1, no_decay=("depthwise",)),
        lambda groups: torch.optim.AdamW(groups, lr=0.01, betas=(0.8, 0.99), eps=1e-6),
    ),
    (
        RMSprop(type="rmsprop", lr=0.01, tf_eps=False, weight_decay=0.01),
        lambda groups: torch.optim.RMSprop(groups, lr=0.01, alpha=0.9, eps=1e-3, momentum=0.9),
    ),
]


@pytest.mark.parametrize(("settings", "make"), SPARING)
def test_twenty_steps_are_torchs_bit_for_bit(settings: AnyOptimizer, make: Make) -> None:
    mine, other = small(), small()
    train(mine, build_optimizer(settings, mine, 8))
    optimizer = make(by_hand(other, settings))
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    train(other, optimizer)
    assert not same(mine, small())
    assert same(mine, other)


def test_fused_kernels_round_otherwise_only() -> None:
    mine, fused = small(), small()
    settings = SGD(type="sgd", lr=0.1, weight_decay=0.01, nesterov=True)
    train(mine, build_optimizer(settings, mine, 8))
    optimizer = build_optimizer(settings, fused, 8, fused=True)
    train(fused, optimizer)
    assert optimizer.param_groups[0]["fused"]
    for pair in zip(mine.parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-5)


def tensorflows(weights: Any, gradients: Iterator[Any], lr: float, rho: float, momentum: float, eps: float) -> Any:
    """ApplyRMSProp of tensorflow/core/kernels/training_ops.cc, whose Python side starts `ms` at 1 and `mom` at 0."""
    ms, mom, var = np.ones_like(weights), np.zeros_like(weights), weights.copy()
    for grad in gradients:
        ms += (grad * grad - ms) * (1 - rho)
        mom = mom * momentum + (grad * lr) / np.sqrt(ms + eps)
        var -= mom
    return var


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprop_tf_is_tensorflows(momentum: float) -> None:
    random = np.random.default_rng(0)
    weights, gradients = (
        random.normal(size=(4, 3)),
        random.normal(size=(20, 4, 3)) * 10.0 ** random.integers(-4, 2, 20)[:, None, None],
    )
    parameter, unused = nn.Parameter(torch.tensor(weights)), nn.Parameter(torch.ones(2))
    optimizer = RMSpropOptimizer([parameter, unused], 0.1, alpha=0.9, eps=1e-3, momentum=momentum)
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    expected = tensorflows(weights, iter(gradients), 0.1, 0.9, momentum, 1e-3)
    np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-12)
    assert torch.equal(unused, torch.ones(2))


def test_rmsprop_tf_decays_by_the_gradient_and_takes_lr_into_the_momentum() -> None:
    parameter = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = RMSpropOptimizer([parameter], 0.1, weight_decay=0.5)
    weight, mean_square, moment = 2.0, 1.0, 0.0
    for step, lr in enumerate([0.1, 0.01, 0.0]):
        optimizer.param_groups[0]["lr"] = lr
        parameter.grad = torch.tensor([float(step)], dtype=torch.float64)
        optimizer.step()
        gradient = step + 0.5 * weight
        mean_square = 0.9 * mean_square + 0.1 * gradient**2
        moment = 0.9 * moment + lr * gradient / (mean_square + 1e-3) ** 0.5
        weight -= moment
        assert parameter.item() == pytest.approx(weight, rel=1e-12)
        assert parameter.grad.item() == step  # the penalty goes into a copy


@pytest.mark.parametrize(
    "settings",
    [
        RMSprop(type="rmsprop", lr=0.01, weight_decay=1e-3),
        *(one for one, _ in SPARING),
    ],
)
def test_resumed_from_its_state_it_continues_bit_for_bit(settings: AnyOptimizer) -> None:
    whole, first = small(), small()
    train(whole, build_optimizer(settings, whole, 8))
    optimizer = build_optimizer(settings, first, 8)
    train(first, optimizer, range(7))
    resumed = copy.deepcopy(first)
    loaded = build_optimizer(settings, resumed, 8)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(resumed, loaded, range(7, 20))
    assert same(whole, resumed)


@pytest.mark.parametrize("bad", [0.0, 1.0])
def test_rmsprop_skips_a_step_that_the_scaler_found_bad(bad: float) -> None:
    parameter = nn.Parameter(torch.tensor([2.0]))
    optimizer = RMSpropOptimizer([parameter], 0.1)
    parameter.grad = torch.tensor([float("nan") if bad else 1.0])
    optimizer.found_inf = torch.tensor(bad)  # type: ignore[attr-defined]
    optimizer.step()
    assert (parameter.item() == 2.0) == bool(bad)
    assert parameter.isfinite().all()


def test_rmsprop_tf_of_all_tensors_together_is_that_of_each() -> None:
    settings = RMSprop(type="rmsprop", lr=0.01, weight_decay=1e-3)
    one_by_one, together = small(), small()
    train(one_by_one, build_optimizer(settings, one_by_one, 8))
    optimizer = build_optimizer(settings, together, 8)
    assert isinstance(optimizer, RMSpropOptimizer)

    def step() -> None:  # as on a GPU
        with torch.no_grad():
            for group in optimizer.param_groups:
                optimizer._update(group, group["params"])

    optimizer.step = step  # type: ignore[method-assign,assignment]
    train(together, optimizer)
    assert same(one_by_one, together)


def test_rmsprop_tf_returns_the_loss_of_a_closure() -> None:
    parameter = nn.Parameter(torch.ones(1))
    optimizer = RMSpropOptimizer([parameter], 0.1)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (parameter**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 1.0
    assert parameter.item() < 1
    assert optimizer.step() is None


def with_gradients(scale: float) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    found = [nn.Parameter(torch.zeros(shape)) for shape in ((3, 4), (5,), (2, 2, 2))]
    for parameter in found[:2]:
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)
    return found


def gradients(parameters: list[nn.Parameter]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


@given(st.floats(1e-6, 1e6), st.floats(1e-3, 1e3))
def test_clipping_is_torchs(scale: float, bound: float) -> None:
    mine, other = with_gradients(scale), with_gradients(scale)
    norm = clip_gradients(iter(mine), max_norm=bound)
    assert torch.equal(norm, nn.utils.clip_grad_norm_(other, bound))
    assert all(map(torch.equal, gradients(mine), gradients(other)))
    assert torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients(mine)])) <= bound * (1 + 1e-5)
    mine, other = with_gradients(scale), with_gradients(scale)
    assert torch.equal(clip_gradients(mine, max_value=bound), norm)
    nn.utils.clip_grad_value_(other, bound)
    assert all(map(torch.equal, gradients(mine), gradients(other)))


def test_without_a_bound_only_the_norm_is_measured() -> None:
    mine = with_gradients(3.0)
    before = [gradient.clone() for gradient in gradients(mine)]
    norm = clip_gradients(mine)
    assert norm.item() == pytest.approx(sum(float((gradient**2).sum()) for gradient in before) ** 0.5)
    assert all(map(torch.equal, gradients(mine), before))
    assert clip_gradients([nn.Parameter(torch.ones(1))], max_norm=1.0, max_value=1.0) == 0


def test_the_norm_of_all_gradients() -> None:
    mine = with_gradients(3.0)
    expected = np.sqrt(sum(np.square(gradient.double().numpy()).sum() for gradient in gradients(mine)))
    assert grad_norm(iter(mine)).item() == pytest.approx(expected, rel=1e-6)
    assert grad_norm([]) == grad_norm(mine[2:]) == 0


def test_a_norm_that_is_known_is_not_measured_again() -> None:
    mine, other = with_gradients(3.0), with_gradients(3.0)
    known = torch.tensor(10.0)  # not the gradients' own, which shows that it is taken as it is
    assert clip_gradients(mine, max_norm=2.0, norm=known) is known
    for clipped, gradient in zip(gradients(mine), gradients(other), strict=True):
        torch.testing.assert_close(clipped, gradient * (2.0 / (10.0 + 1e-6)))
    assert torch.equal(clip_gradients(other, max_norm=2.0, norm=grad_norm(other)), grad_norm(with_gradients(3.0)))
