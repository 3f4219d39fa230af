"""The rows of a plan: what B0 is, layer by layer, and what the settings of a row change."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from effnet_builder import ArchSpec, Plan, load_spec, resolve
from effnet_builder.arch.spec import Norm


@pytest.fixture(scope="module")
def b0() -> Plan:
    return resolve(load_spec("efficientnet-b0"))


def test_stem_and_first_blocks_of_b0(b0: Plan) -> None:
    stem = b0.stem
    assert (stem.path, stem.in_channels, stem.out_channels, stem.kernel_size, stem.stride) == ("stem", 3, 32, 3, 2)
    assert (stem.padding, stem.groups, stem.bias, stem.activation) == (1, 1, False, "silu")
    assert (stem.in_resolution, stem.out_resolution) == (224, 112)
    first, second = b0.stages[0].blocks[0], b0.stages[1].blocks[0]
    assert first.expansion is None
    assert second.expansion is not None
    assert (second.expansion.in_channels, second.expansion.out_channels) == (16, 96)
    assert (second.depthwise.groups, second.depthwise.stride, second.depthwise.out_resolution) == (96, 2, 56)
    assert second.squeeze_excite is not None
    assert (second.squeeze_excite.reduce.out_channels, second.squeeze_excite.reduce.bias) == (4, True)
    assert (second.squeeze_excite.reduce.activation, second.squeeze_excite.expand.activation) == ("silu", "sigmoid")
    assert (second.projection.activation, second.projection.bias) == (None, False)
    assert not second.skip
    assert b0.stages[1].blocks[1].skip


def test_resolutions_of_b0(b0: Plan) -> None:
    assert [stage.blocks[-1].out_resolution for stage in b0.stages] == [112, 56, 28, 14, 14, 7, 7]


@pytest.mark.parametrize("resolution", [33, 97, 224, 225, 257.6, 299])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_odd_and_fractional_resolutions(resolution: float, padding: str) -> None:
    plan = resolve(load_spec("efficientnet-b0", {"padding": padding}), resolution=resolution)
    size = round(resolution)
    assert plan.resolution == size
    for conv in (row for row in plan.rows if hasattr(row, "kernel_size") and row.in_resolution > 1):
        # torch's formula; SAME pads so that it gives ceil(size / stride)
        pad = (
            2 * conv.padding
            if conv.padding != "same"
            else max((-(-conv.in_resolution // 2) - 1) * 2 + conv.kernel_size - conv.in_resolution, 0)
        )
        assert conv.out_resolution == (conv.in_resolution + pad - conv.kernel_size) // conv.stride + 1


def test_row_settings_replace_the_networks() -> None:
    spec = load_spec(
        "efficientnet-b0",
        {
            "stages[1].activation": "relu6",
            "stages[1].norm": {"eps": 0.001},
            "stages[1].padding": "same",
            "stages[1].squeeze_excite": {"base": "expanded", "gate": "hardsigmoid"},
            "head.activation": "relu",
            "stem.activation": "hardswish",
        },
    )
    plan = resolve(spec, in_channels=1)
    block, other = plan.stages[1].blocks[0], plan.stages[2].blocks[0]
    assert block.squeeze_excite is not None
    assert (block.depthwise.activation, block.depthwise.padding) == ("relu6", "same")
    assert block.depthwise.norm is not None
    assert (block.depthwise.norm.eps, block.depthwise.norm.momentum) == (0.001, 0.1)
    assert block.squeeze_excite.reduce.out_channels == 24  # a quarter of the expanded 96, not of the input 16
    assert (block.squeeze_excite.reduce.activation, block.squeeze_excite.expand.activation) == ("relu6", "hardsigmoid")
    assert (other.depthwise.activation, other.depthwise.padding) == ("silu", 2)
    assert (plan.head.conv.activation, plan.stem.activation, plan.in_channels) == ("relu", "hardswish", 1)


def test_se_widths_of_the_notebook_are_truncated() -> None:
    block = resolve(load_spec("notebook-b1")).blocks[0]
    assert block.squeeze_excite is not None
    assert block.squeeze_excite.reduce.out_channels == int(33 / 4)


def test_plans_and_specs_are_frozen_and_pickle(b0: Plan) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        b0.stem.stride = 1  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        b0.spec.name = "x"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(b0)) == b0
    assert hash(b0.spec) == hash(load_spec("efficientnet-b0"))


def test_a_spec_made_in_python_resolves_and_varies(b0: Plan) -> None:
    spec = ArchSpec.model_validate(b0.spec.model_dump())
    assert spec.document is None
    assert spec == b0.spec
    assert resolve(spec, phi=1) == resolve(b0.spec, phi=1)
    assert spec.vary({}) is spec


def test_a_changed_copy_is_what_it_says(b0: Plan) -> None:
    copied = b0.spec.model_copy(update={"resolution": 128})
    assert resolve(copied, num_classes=10).resolution == 128
    assert "resolution: 128" in copied.to_yaml()
    assert b0.spec.model_copy().document is b0.spec.document


def test_overrides_take_models_and_numpys_numbers(b0: Plan) -> None:
    numpy = pytest.importorskip("numpy")
    spec = load_spec(
        "efficientnet-b0", {"norm": Norm(eps=0.01), "resolution": numpy.int64(96), "drop_path.rate": numpy.float32(0.5)}
    )
    assert (spec.norm.eps, spec.norm.momentum, spec.resolution, spec.drop_path.rate) == (0.01, 0.1, 96, 0.5)
    with pytest.raises(TypeError, match="expected plain data, not object"):
        b0.spec.vary({"resolution": object()})
