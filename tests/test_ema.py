"""The average of weights and statistics: against sums by hand, resumed, compiled and copied."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from effnet_builder.train.ema import EmaModel, ema_decay
from effnet_builder.train.optim_settings import Ema

RUN = {"steps_per_epoch": 10, "total_steps": 100}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors this small only wait for a second one
    yield
    torch.set_num_threads(threads)


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    net.register_buffer("seen", torch.zeros(2, dtype=torch.bool))
    net.register_buffer("constant", torch.full((2,), 0.1), persistent=False)
    return net.double()


def tensors(net: nn.Module) -> list[Tensor]:
    return list(chain(net.parameters(), net.buffers()))


def train(net: nn.Module, step: int) -> None:
    """Weights and statistics as some step leaves them: a function of the step alone."""
    generator = torch.Generator().manual_seed(step)
    net.train()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        net.seen[step % 2] = True
    net(torch.randn(5, 3, generator=generator, dtype=torch.float64))


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(map(torch.equal, tensors(first), tensors(second)))


@pytest.mark.parametrize("horizon", ["1steps", "3steps", "2ep", 0.1])
def test_it_is_the_sum_by_hand(horizon: float | str) -> None:
    net = network()
    ema = EmaModel(net, Ema(horizon=horizon), **RUN)
    steps = {"1steps": 1, "3steps": 3, "2ep": 20, 0.1: 10}[horizon]
    assert ema.horizon == steps
    expected = [tensor.detach().clone().numpy() for tensor in tensors(net)]
    for step in range(30):
        train(net, step)
        ema.update(net, step)
        decay = min(1 - 1 / steps, (1 + step) / (10 + step))
        for i, current in enumerate(tensors(net)):
            value = current.detach().numpy()
            expected[i] = decay * expected[i] + (1 - decay) * value if current.is_floating_point() else value.copy()
    for mine, hand in zip(tensors(ema.module), expected, strict=True):
        torch.testing.assert_close(mine, torch.from_numpy(hand), rtol=1e-12, atol=1e-12)
    assert ema.module[1].num_batches_tracked == 30
    assert ema.module.seen.all()
    assert torch.equal(ema.module.constant, net.constant)
    assert same(ema.module, net) is (steps == 1)


@given(st.integers(1, 10**6), st.integers(0, 10**7))
def test_the_decay_grows_to_that_of_the_horizon(horizon: int, step: int) -> None:
    decay = ema_decay(horizon, step)
    assert 0 <= decay <= ema_decay(horizon, step + 1) <= 1 - 1 / horizon
    assert decay == 1 - 1 / horizon or decay == (1 + step) / (10 + step)
    assert ema_decay(horizon, 10 * horizon) == 1 - 1 / horizon


def test_the_module_evaluates_and_is_its_own() -> None:
    net = network().train()
    ema = EmaModel(net, Ema(horizon="5steps"), **RUN)
    assert net.training
    assert not any(module.training for module in ema.module.modules())
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())
    assert all(parameter.requires_grad for parameter in net.parameters())
    before = [tensor.clone() for tensor in tensors(net)]
    ema.update(net, 0)
    assert all(map(torch.equal, tensors(net), before))
    assert not {tensor.data_ptr() for tensor in tensors(net)} & {tensor.data_ptr() for tensor in tensors(ema.module)}


def test_resumed_half_way_it_continues_bit_for_bit() -> None:
    net = network()
    ema = EmaModel(net, Ema(horizon=0.2), **RUN)
    for step in range(8):
        train(net, step)
        ema.update(net, step)
    weights, average = copy.deepcopy(net.state_dict()), copy.deepcopy(ema.state_dict())
    assert list(average) == list(weights)  # nothing but the average
    other = network()
    other.load_state_dict(weights)
    resumed = EmaModel(other, Ema(horizon=0.2), **RUN)
    resumed.load_state_dict(average)
    for step in range(8, 16):
        for net_, ema_ in ((net, ema), (other, resumed)):
            train(net_, step)
            ema_.update(net_, step)
    assert same(ema.module, resumed.module)
    with pytest.raises(RuntimeError, match="Missing key"):
        resumed.load_state_dict({"0.weight": average["0.weight"]})


def test_compiled_and_copied() -> None:
    net = network()
    compiled = torch.compile(net, backend="eager")
    plain, of_compiled = (EmaModel(one, Ema(horizon="3steps"), **RUN) for one in (net, compiled))
    assert type(of_compiled.module) is type(net)
    evaluate = torch.compile(plain.module, backend="eager")
    images = torch.ones(2, 3, dtype=torch.float64)
    evaluate(images)
    for step in range(5):
        train(net, step)
        plain.update(net, step)
        of_compiled.update(compiled, step)
    assert same(plain.module, of_compiled.module)
    # What was compiled before the updates sees them.
    assert torch.equal(evaluate(images), copy.deepcopy(plain.module)(images))
    copied = copy.deepcopy(plain)
    copied.update(net, 5)
    assert not same(copied.module, plain.module)


def test_another_module_is_refused() -> None:
    net = network()
    ema = EmaModel(net, Ema(horizon=0.1), **RUN)
    with pytest.raises(ValueError, match="shorter"):
        ema.update(nn.Linear(3, 4).double(), 0)
