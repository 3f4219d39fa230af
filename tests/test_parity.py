"""Our modules against torchvision's EfficientNets and the founding notebook's: same numbers out, same gradients."""

from __future__ import annotations

import math
from itertools import pairwise

import peers
import pytest
import torch
import torchvision
from torch import Tensor, nn

from effnet_builder import build_model, load_spec, resolve
from effnet_builder.models.network import Network

VERSIONS = [f"b{i}" for i in range(8)]


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    ours, theirs = ours.detach(), theirs.detach()
    scale = float(theirs.abs().max())
    assert math.isfinite(scale)
    assert scale > 0
    return float((ours - theirs).abs().max()) / scale


def torchvision_pair(version: str) -> tuple[Network, nn.Module]:
    """Torchvision's network with random weights and statistics, and ours with the same ones, both in float64."""
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, f"efficientnet_{version}")(num_classes=10).double()
    peers.randomize_norms(theirs)
    ours = build_model(f"efficientnet-{version}", num_classes=10).double()
    state = peers.from_torchvision(theirs.state_dict(), ours.plan)
    assert len(state) == len(theirs.state_dict())
    ours.load_state_dict(state)
    return ours, theirs


@pytest.mark.parametrize("version", VERSIONS)
def test_outputs_and_gradients_equal_torchvisions(version: str) -> None:
    ours, theirs = torchvision_pair(version)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    gradients = []
    for model in (ours.eval(), theirs.eval()):
        logits = model(images)
        (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert relative_error(ours(images), theirs(images)) < 1e-10
    mapped = peers.from_torchvision(gradients[1], ours.plan)
    assert mapped.keys() == gradients[0].keys()
    assert max(relative_error(gradients[0][name], mapped[name]) for name in mapped) < 1e-10


@pytest.mark.parametrize("version", VERSIONS)
def test_drop_path_rates_equal_torchvisions(version: str) -> None:
    plan = resolve(load_spec(f"efficientnet-{version}"))
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"efficientnet_{version}")()
    blocks = [block for stage in theirs.features[1:-1] for block in stage]
    rates = [block.stochastic_depth.p if block.use_res_connect else 0 for block in blocks]
    assert [block.drop_path_rate for block in plan.blocks] == pytest.approx(rates, abs=1e-15)
    assert plan.head.dropout == theirs.classifier[0].p


@pytest.mark.parametrize("version", ["b0", "b5"])
def test_a_seed_gives_torchvisions_weights_and_training_outputs(version: str) -> None:
    models = []
    for build in (
        lambda: build_model(f"efficientnet-{version}"),
        getattr(torchvision.models, f"efficientnet_{version}"),
    ):
        torch.manual_seed(3)
        models.append(build())
    ours, theirs = models
    for name, tensor in peers.from_torchvision(theirs.state_dict(), ours.plan).items():
        assert torch.equal(ours.state_dict()[name], tensor), name
    images = torch.randn(4, 3, 33, 33, dtype=torch.float64)
    outputs = []
    for model in models:  # dropout and drop-path draw the same masks
        torch.manual_seed(4)
        outputs.append(model.double().train()(images))
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-12)
    for a, b in pairwise(models):  # and the running statistics move alike
        statistics = [[buffer.double().sum() for buffer in model.buffers()] for model in (a, b)]
        sums = (torch.stack(found).sort()[0] for found in statistics)
        torch.testing.assert_close(*sums, rtol=1e-10, atol=1e-12)


def notebook_pair(version: str) -> tuple[Network, nn.Module]:
    models: list[nn.Module] = []
    for build in (lambda: build_model(f"notebook-{version}", num_classes=10), lambda: peers.NotebookNet(version, 10)):
        torch.manual_seed(5)
        models.append(build())
    assert isinstance(models[0], Network)
    return models[0], models[1]


@pytest.mark.parametrize("version", ["b0", "b1", "b4"])
def test_the_notebooks_network_from_its_own_statement(version: str) -> None:
    ours, theirs = notebook_pair(version)
    tensors, others = list(ours.state_dict().values()), list(theirs.state_dict().values())
    assert len(tensors) == len(others)
    assert all(torch.equal(a, b) for a, b in zip(tensors, others, strict=True))  # a seed gives the notebook's weights
    peers.randomize_norms(theirs)
    for a, b in zip(tensors, theirs.state_dict().values(), strict=True):
        a.copy_(b)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    assert relative_error(ours.double().eval()(images), theirs.double().eval()(images)) < 1e-10


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("num_classes", [10, 1000])
def test_the_notebooks_layers_one_by_one(version: str, num_classes: int) -> None:
    with torch.device("meta"):
        ours, theirs = (
            build_model(f"notebook-{version}", num_classes=num_classes),
            peers.NotebookNet(version, num_classes),
        )
    for model in (ours, theirs):
        assert all(
            norm.eps == 1e-5 and norm.momentum == 0.1 for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)
        )
    described = [
        [(m.weight.shape, m.stride, m.padding, m.groups) for m in model.modules() if isinstance(m, nn.Conv2d)]
        for model in (ours, theirs)
    ]
    assert described[0] == described[1]
    skips = [block.skip for block in theirs.modules() if isinstance(block, peers.NotebookBlock)]
    assert [block.skip for block in ours.plan.blocks] == skips
    assert [block.drop_path_rate for block in ours.plan.blocks] == [0.2 if skip else 0 for skip in skips]
