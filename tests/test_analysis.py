"""Counts against published numbers, against torch's own counter, and by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from strategies import SPECS
from torch import nn

from effnet_builder import ArchSpec, ConfigError, analyze, build_model, load_spec, resolve
from effnet_builder.config import node_of, shipped, validate
from effnet_builder.config.errors import Mark
from effnet_builder.config.reading import Document
from effnet_builder.models.network import Network
from effnet_builder.models.verify import differences


@pytest.mark.parametrize("name", shipped("archspecs"))
def test_plan_and_module_agree_row_by_row(name: str) -> None:
    """Shapes of weights and outputs, params, buffers, and MACs as half of FlopCounterMode's FLOPs."""
    plan = resolve(load_spec(name))
    with torch.device("meta"):
        assert differences(Network(plan), plan) == []


@settings(max_examples=200, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(data=SPECS)
@pytest.mark.filterwarnings("ignore::effnet_builder.ScalingWarning")
def test_plan_and_module_agree_for_any_spec(data: dict[str, Any]) -> None:
    try:
        plan = resolve(validate(ArchSpec, Document(node_of(data, Mark("random")))))
    except ConfigError:
        assume(False)
    with torch.device("meta"):
        assert differences(Network(plan), plan) == []


def test_differences_shows_what_differs() -> None:
    plan = resolve(load_spec("efficientnet-b0"))
    with torch.device("meta"):
        model = build_model("efficientnet-b0", num_classes=7)
    found = differences(model, plan)
    assert "head.classifier weight: plan (1000, 1280), module (7, 1280)" in found
    assert "params: plan 5288548, module 4016515" in found
    assert "MACs: plan 385814752, module 384543712" in found
    assert "head.classifier output: plan (1, 1000), module (1, 7)" in found


def test_b0_by_hand() -> None:
    """Stem 3 -> 32 at 224 px, then the one block of stage 0: depthwise 32, squeeze to 8, projection to 16."""
    costs = {cost.row.path: cost.cost for cost in analyze(resolve(load_spec("efficientnet-b0"))).rows}
    stem = costs["stem"]
    assert (stem.params, stem.buffers) == (3 * 32 * 9 + 2 * 32, 2 * 32 + 1)
    assert (stem.macs, stem.activations) == (3 * 32 * 9 * 112**2, 32 * 112**2)
    block = [costs[f"stages.0.0.{part}"] for part in ("depthwise", "squeeze_excite.reduce", "squeeze_excite.expand")]
    assert [cost.params for cost in block] == [32 * 9 + 64, 32 * 8 + 8, 8 * 32 + 32]
    assert [cost.macs for cost in block] == [32 * 9 * 112**2, 256, 256]
    assert costs["stages.0.0.projection"].macs == 32 * 16 * 112**2
    classifier = costs["head.classifier"]
    assert (classifier.params, classifier.macs, classifier.activations) == (1280 * 1000 + 1000, 1280000, 1000)


def test_sums() -> None:
    analysis = analyze(resolve(load_spec("efficientnet-b3")))
    assert sum((cost.cost for cost in analysis.rows), type(analysis.total)()) == analysis.total
    assert analysis.stem + sum(analysis.stages, analysis.head) == analysis.total


@pytest.mark.parametrize("name", ["efficientnet-b0", "efficientnet-pico", "notebook-b1"])
def test_weight_bytes_are_those_of_the_state_dict(name: str) -> None:
    with torch.device("meta"):
        state = build_model(name).state_dict()
    assert analyze(resolve(load_spec(name))).weight_bytes == sum(tensor.nbytes for tensor in state.values())


def saved_bytes(model: nn.Module, images: torch.Tensor) -> int:
    """What autograd keeps for the backward pass, each storage once, without the model's own tensors."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.train()(images)
    return sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in own)


def saved_bytes_per_image(model: nn.Module, image: torch.Tensor) -> float:
    """What one image more adds. Two at least: at 1 x 1 px batch norm refuses one."""
    return saved_bytes(model, image.repeat(3, 1, 1, 1)) - saved_bytes(model, image.repeat(2, 1, 1, 1))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("efficientnet-b0", {}),
        ("efficientnet-b3", {"activation": "relu"}),
        ("efficientnet-b0", {"activation": "relu6", "squeeze_excite.gate": "hardsigmoid"}),
        ("efficientnet-b0", {"activation": "hardswish", "head.dropout": 0.0, "head.pool": "avgmax"}),
        ("efficientnet-b0", {"activation": "gelu"}),
        ("efficientnet-b1", {"padding": "same"}),
        ("efficientnet-b0", {"padding": "same", "activation": "relu"}),
        ("efficientnet-b0-g8-gn", {}),
        ("efficientnet-blur-b0", {}),
        ("efficientnet-es", {}),
        ("mobilenetv1-100", {}),
        ("mobilenet-v3-large", {}),
        ("mobilenetv4-conv-aa-medium", {}),
        ("test-efficientnet-ln", {}),
        ("notebook-b1", {}),
        ("mobilenetv1-100", {"head.num_classes": 0, "head.pool": "max"}),
    ],
)
def test_training_memory_is_what_autograd_keeps(name: str, changes: dict[str, object]) -> None:
    plan = resolve(load_spec(name, changes), resolution=97)
    measured = saved_bytes_per_image(build_model(plan), torch.randn(1, 3, 97, 97))
    assert analyze(plan).training_bytes_per_image == pytest.approx(measured, rel=1e-4)


@pytest.mark.parametrize("name", ["efficientnet-b0", "mobilenet-v3-large", "efficientnet-es", "efficientnet-b0-g8-gn"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_training_memory_under_autocast(name: str, precision: Any) -> None:
    """Activations of half the bytes, and 16-bit copies of the weights."""
    plan = resolve(load_spec(name), resolution=97)
    model, image = build_model(plan), torch.randn(1, 3, 97, 97)
    with torch.autocast("cpu", torch.bfloat16 if precision == "bf16" else torch.float16):
        two, three = (saved_bytes(model, image.repeat(count, 1, 1, 1)) for count in (2, 3))
    analysis = analyze(plan)
    found = [analysis.training_bytes(count, precision) for count in (2, 3)]
    assert found == pytest.approx([two, three], rel=0.005)
    assert found[1] - found[0] == pytest.approx(three - two, rel=0.002)
    assert [analysis.training_bytes(count, "tf32") for count in (0, 1)] == [0, analysis.training_bytes_per_image]


@settings(max_examples=100, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(data=SPECS)
@pytest.mark.filterwarnings("ignore::effnet_builder.ScalingWarning")
def test_training_memory_is_estimated_well_for_any_spec(data: dict[str, Any]) -> None:
    try:
        plan = resolve(validate(ArchSpec, Document(node_of(data, Mark("random")))), resolution=33)
    except ConfigError:
        assume(False)
    image = torch.randn(1, plan.in_channels, plan.resolution, plan.resolution)
    measured = saved_bytes_per_image(build_model(plan), image)
    assert analyze(plan).training_bytes_per_image == pytest.approx(measured, rel=0.01)
