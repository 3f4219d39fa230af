"""Layers and their learning rates: against timm's, torchvision's structure, and numbers by hand; Muon's matrices."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from effnet_builder import ConfigError, build_model, load_spec, resolve
from effnet_builder.models.layouts import module_pairs
from effnet_builder.train.groups import hidden_matrices, layers
from effnet_builder.train.optim import build_optimizer, set_lr
from effnet_builder.train.optim_settings import SGD, AdamW, AnyOptimizer, Muon, RMSprop

SMALL = {
    "stages": [
        {"type": "mbconv", "expand_ratio": 1, "out_channels": 8},
        {"type": "mbconv", "repeats": 2, "expand_ratio": 4, "out_channels": 16, "stride": 2, "se_ratio": 0.25},
    ],
}


def rates(settings: AnyOptimizer, model: nn.Module) -> dict[str, float]:
    """The learning rate of each parameter, for batches of 32."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = build_optimizer(settings, model, 32).param_groups
    found = {names[parameter]: group["lr"] for group in groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found)
    return found


def named(model: nn.Module) -> list[list[str]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [[names[parameter] for parameter in layer] for layer in layers(model)]


@pytest.fixture(scope="module")
def b0() -> nn.Module:
    return build_model("efficientnet-b0", num_classes=10)


def test_a_small_network_by_hand() -> None:
    model = build_model(load_spec("efficientnet-b0", SMALL))  # stem, three blocks, head
    found = rates(SGD(type="sgd", lr=0.8, lr_batch_size=64, layer_decay=0.5), model)
    by_hand = {"stem": 0.025, "stages.0.0": 0.05, "stages.1.0": 0.1, "stages.1.1": 0.2, "head": 0.4}
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, lr in found.items():
        assert lr == pytest.approx(next(value for part, value in by_hand.items() if name.startswith(f"{part}.")))


@pytest.mark.parametrize("settings", [AdamW(type="adamw", lr=1.0, layer_decay=0.75, weight_decay=0.1)])
def test_every_rate_of_b0_is_timms_but_that_of_the_heads_convolution(settings: AnyOptimizer, b0: nn.Module) -> None:
    """timm counts the last convolution to the last block; here it is the head's."""
    timm = pytest.importorskip("timm")
    from timm.optim import param_groups_layer_decay

    other = timm.create_model("efficientnet_b0", num_classes=10)
    names = {parameter: name for name, parameter in other.named_parameters()}
    groups = param_groups_layer_decay(other, weight_decay=0.1, layer_decay=0.75)
    theirs = {names[parameter]: group["lr_scale"] for group in groups for parameter in group["params"]}
    decays = {names[parameter]: group["weight_decay"] for group in groups for parameter in group["params"]}
    pairs = dict(module_pairs(resolve(load_spec("efficientnet-b0")), "timm"))
    optimizer = build_optimizer(settings, b0, 32)
    ours = {parameter: name for name, parameter in b0.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            path, _, tensor = ours[parameter].rpartition(".")
            name = f"{pairs[path]}.{tensor}"
            factor = 0.75 if path.startswith("head.conv") else 1.0
            assert factor * group["lr"] == pytest.approx(theirs[name], rel=1e-12), name
            assert group["weight_decay"] == decays[name], name


def test_schedules_keep_the_ratios_and_the_first_group_has_the_whole_rate(b0: nn.Module) -> None:
    optimizer = build_optimizer(RMSprop(type="rmsprop", lr=0.1, layer_decay=0.9), b0, 32)
    set_lr(optimizer, 0.5)
    assert optimizer.param_groups[0]["lr"] == 0.05
    assert optimizer.param_groups[-1]["lr"] == pytest.approx(0.05 * 0.9**17)
    muon = build_optimizer(Muon(type="muon", lr=0.02, aux=SGD(type="sgd", lr=0.1), layer_decay=0.9), b0, 32)
    assert muon.param_groups[0]["lr"] == 0.02
    assert {parameter for group in muon.param_groups for parameter in group["params"]} == set(b0.parameters())


def test_frozen_layers_do_not_move_the_others() -> None:
    model = build_model(load_spec("efficientnet-b0", SMALL))
    model.freeze(1)
    found = rates(SGD(type="sgd", lr=1.0, layer_decay=0.5), model)
    assert set(found.values()) == {1.0, 0.5, 0.25}
    assert not [name for name in found if name.startswith(("stem", "stages.0"))]


def test_layers_of_any_module() -> None:
    torchvision = pytest.importorskip("torchvision")
    found = named(torchvision.models.efficientnet_b0())
    assert len(found) == 19
    assert found[0] == ["features.0.0.weight", "features.0.1.weight", "features.0.1.bias"]
    assert all(name.startswith("features.2.1.") for name in found[3])
    assert found[-1] == ["classifier.1.weight", "classifier.1.bias"]

    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    expected = [["0.weight", "0.bias", "1.weight", "1.bias"], ["4.weight", "4.bias"]]
    assert named(plain) == expected
    wrapped = nn.Module()
    wrapped.module = plain
    assert named(wrapped) == [[f"module.{name}" for name in layer] for layer in expected]
    assert [len(layer) for layer in layers(torch.compile(plain))] == [4, 2]


def test_parameters_outside_and_shared_ones() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(2, 2)
            self.rest = nn.ModuleList([nn.Linear(2, 2), nn.ModuleDict({"last": nn.Linear(2, 2, bias=False)})])
            self.rest[1]["last"].weight = self.first.weight
            self.token = nn.Parameter(torch.zeros(2))

    assert named(Net()) == [["token", "first.weight", "first.bias"], ["rest.0.weight", "rest.0.bias"]]
    norm_first = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    assert named(norm_first) == [["0.weight", "0.bias"], ["1.weight", "1.bias"]]


def test_a_decay_without_effect_is_refused() -> None:
    with pytest.raises(ConfigError, match="^layer_decay has no effect: the network has a single layer$"):
        build_optimizer(SGD(type="sgd", lr=1, layer_decay=0.5), nn.Linear(2, 2), 32)
    for model in (nn.Linear(2, 2), nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1, groups=4), nn.Linear(4, 2))):
        with pytest.raises(ConfigError, match="^muon has no effect: no hidden weight matrix is trained; use"):
            build_optimizer(Muon(type="muon", lr=1), model, 32)


def test_the_matrices_of_a_network(b0: nn.Module) -> None:
    names = {parameter: name for name, parameter in b0.named_parameters()}
    found = [names[parameter] for parameter in hidden_matrices(b0)]
    convolutions = ["expansion.conv", "projection.conv", "squeeze_excite.reduce.conv", "squeeze_excite.expand.conv"]
    expected = {
        name
        for name in names.values()
        if name.removesuffix(".weight").endswith((*convolutions, "head.conv.conv")) and not name.endswith("bias")
    }
    assert set(found) == expected
    assert len(found) == 4 * 16 - 1 + 1  # the first block does not expand; the head's convolution
    backbone = build_model("efficientnet-b0", features_only=True)
    assert len(hidden_matrices(backbone)) == 63


def test_matrices_by_type() -> None:
    tied = nn.Linear(6, 6)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.Conv2d(6, 6, 3, groups=2),
        nn.Conv2d(6, 6, 3),
        nn.ConvTranspose2d(6, 6, 3),
        nn.BatchNorm2d(6),
        nn.Linear(6, 6),
        nn.Linear(6, 6),
        tied,
    )
    net[6].weight = tied.weight  # the classifier's, also where it is used before
    assert [id(matrix) for matrix in hidden_matrices(net)] == [id(net[2].weight), id(net[5].weight)]
