"""CUDA graphs on the fake GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fakegpu
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

CUDA = torch.device("cuda", 0)
pytestmark = pytest.mark.cuda
only_fake = pytest.mark.skipif(torch.cuda.is_available() and not fakegpu.active(), reason="about the fake GPU")


def captured(function: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function()
    return graph, result


def test_a_graph_is_replayed() -> None:
    x, total = torch.zeros(4, device=CUDA), torch.zeros(4, device=CUDA)
    graph, y = captured(lambda: total.add_(x * 2 + 1))
    assert total.tolist() == [1] * 4  # by the first call; a capture does not run
    for value in range(3):
        x.fill_(value)
        graph.replay()
        assert y.tolist() == total.tolist()
    assert total.tolist() == [10] * 4


def test_a_graph_draws_anew_and_follows_the_seed() -> None:
    ones = torch.ones(64, device=CUDA)
    graph, y = captured(lambda: F.dropout(ones))
    found = []
    for seed in (5, 6, 5):
        torch.manual_seed(seed)
        graph.replay()
        found.append(y.clone())
        graph.replay()
        assert not torch.equal(y, found[-1])
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])


def test_a_graph_of_a_training_step() -> None:
    step = make_step()
    expected = [step().item() for _ in range(4)][1:]  # `captured` makes a step before the capture
    graph, loss = captured(make_step())
    found = []
    for _ in range(3):
        graph.replay()
        found.append(loss.item())
    assert found == expected
    assert found[0] != found[2]


def make_step() -> Callable[[], Tensor]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.Flatten(), nn.Linear(288, 5)).to(CUDA)
    images, labels = torch.ones(4, 3, 8, 8, device=CUDA), torch.zeros(4, dtype=torch.long, device=CUDA)
    images[0, 0] = 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    return step


@only_fake
def test_a_graph_is_one_launch() -> None:
    x = torch.zeros(4, device=CUDA)
    graph, _ = captured(lambda: x + 1)
    fakegpu.reset()
    graph.replay()
    assert (fakegpu.counts().launches, fakegpu.counts().graph_launches) == (1, 1)


def test_a_capture_refuses_synchronizations() -> None:
    x = torch.zeros(4, device=CUDA)
    with pytest.raises(torch.AcceleratorError), torch.cuda.graph(torch.cuda.CUDAGraph()):
        x.sum().item()
    assert (x + 1).sum().item() == 4
