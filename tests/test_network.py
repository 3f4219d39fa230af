"""The module as a torch citizen: devices, memory formats, compile, export, copies, initialization."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn
from writing import WriteYaml

from effnet_builder import ConfigError, build_model, load_spec, resolve
from effnet_builder.models.layers import Conv2dSame, DropPath
from effnet_builder.models.network import Network

SMALL = {
    "scaling.width": 0.25, "scaling.depth": 0.4, "resolution": 40, "head.num_classes": 5, "drop_path.rate": 0.3,
    "stages[2].padding": "same",
}  # fmt: skip


@pytest.fixture
def small() -> Network:
    torch.manual_seed(0)
    return build_model(load_spec("efficientnet-b0", SMALL))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 3, 40, 40, generator=torch.Generator().manual_seed(1))


def test_builds_from_a_name_a_path_a_spec_and_a_plan(write_yaml: WriteYaml) -> None:
    path = write_yaml("extends: efficientnet-b0\nname: mine\n")
    spec = load_spec(path)
    with torch.device("meta"):
        for source in ("efficientnet-b0", path, str(path), spec, resolve(spec)):
            model = build_model(source, num_classes=7, in_channels=1)
            assert model.head.classifier.weight.shape == (7, 1280)
            assert model.stem.conv.weight.shape == (32, 1, 3, 3)
        assert build_model(resolve(spec)).plan == resolve(spec)
    with pytest.raises(ConfigError):
        build_model("efficientnet-b99")
    with pytest.raises(ConfigError):
        build_model("efficientnet-b0", num_classes=-1)


def test_module_paths_are_readable(small: Network) -> None:
    names = dict(small.named_modules())
    for path in ("stem", "stages.2.0.depthwise", "stages.2.0.squeeze_excite.reduce", "head", "head.classifier"):
        assert path in names
    assert [row.path for row in small.plan.rows if row.path not in names] == []


def test_forward_features_are_what_the_head_classifies(small: Network, images: torch.Tensor) -> None:
    small.eval()
    features = small.forward_features(images)
    assert features.shape == (4, small.plan.head.conv.out_channels, 2, 2)
    assert torch.equal(small.head.classify(features), small(images))


def test_any_image_size_works(small: Network) -> None:
    small.eval()
    for height, width in ((32, 64), (33, 47), (97, 41)):
        assert small(torch.randn(1, 3, height, width)).shape == (1, 5)


def test_meta_takes_no_memory() -> None:
    with torch.device("meta"):
        model = build_model("efficientnet-l2")
        assert model(torch.empty(2, 3, 64, 64)).shape == (2, 1000)
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}


def test_channels_last_gives_the_same(small: Network, images: torch.Tensor) -> None:
    small.eval().double()
    images = images.double()
    expected = small(images)
    found = small.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    assert torch.allclose(found, expected, rtol=1e-10)


def test_autocast_gives_low_precision_and_finite_gradients(small: Network, images: torch.Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = small(images)
    assert logits.dtype == torch.bfloat16
    logits.float().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in small.parameters())


@pytest.mark.parametrize("training", [False, True])
def test_compiles_into_one_graph(small: Network, images: torch.Tensor, training: bool) -> None:
    small.train(training)
    twin = copy.deepcopy(small)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    torch.manual_seed(2)
    found = compiled(images)
    torch.manual_seed(2)
    assert torch.allclose(found, small(images), rtol=1e-4, atol=1e-5)


def test_exports_with_any_batch_size(small: Network, images: torch.Tensor) -> None:
    small.eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(small, (images,), dynamic_shapes=({0: batch},))
    assert torch.allclose(program.module()(images[:3]), small(images[:3]), rtol=1e-4, atol=1e-6)


def test_copies_and_pickles(small: Network, images: torch.Tensor) -> None:
    small.eval()
    for twin in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert twin.plan == small.plan
        assert torch.equal(twin(images), small(images))


def test_state_dict_round_trip(small: Network, images: torch.Tensor, tmp_path: Path) -> None:
    torch.save(small.state_dict(), tmp_path / "weights.pt")
    other = build_model(small.plan)
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(other.eval()(images), small.eval()(images))


@pytest.mark.parametrize(
    ("conv", "dense", "depthwise"),
    [
        ("fan_out", math.sqrt(2 / (480 * 1)), math.sqrt(2 / (480 * 25))),
        ("fan_out_per_group", math.sqrt(2 / 480), math.sqrt(2 / 25)),
        ("torch", 1 / math.sqrt(3 * 80), 1 / math.sqrt(3 * 25)),  # U(+-1/sqrt(fan_in)) has std 1/sqrt(3 fan_in)
    ],
)
def test_initial_spread(conv: str, dense: float, depthwise: float) -> None:
    """An expansion 80 -> 480 and a 5x5 depthwise convolution of 480 channels (stage 4 of B0)."""
    torch.manual_seed(0)
    block = build_model(load_spec("efficientnet-b0", {"init.conv": conv})).stages[4][0]
    assert float(block.expansion.conv.weight.detach().std()) == pytest.approx(dense, rel=0.02)
    assert float(block.depthwise.conv.weight.detach().std()) == pytest.approx(depthwise, rel=0.05)
    assert (not block.squeeze_excite.reduce.conv.bias.any()) == (conv != "torch")


def test_initial_classifier() -> None:
    torch.manual_seed(0)
    classifier = build_model("efficientnet-b0").head.classifier
    assert float(classifier.weight.detach().abs().max()) == pytest.approx(1 / math.sqrt(1000), rel=1e-3)
    assert not classifier.bias.any()
    classifier = build_model("notebook-b0").head.classifier
    assert float(classifier.weight.detach().abs().max()) == pytest.approx(1 / math.sqrt(1280), rel=1e-3)
    assert classifier.bias.any()


def test_drop_path_drops_whole_images_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer = DropPath(0.25)
    x = torch.ones(20_000, 2, 3, 3)
    y = layer(x)
    kept = y[:, 0, 0, 0] != 0
    assert torch.equal(y, kept[:, None, None, None] * x / 0.75)
    assert float(y.mean()) == pytest.approx(1, abs=0.02)
    assert layer.eval()(x) is x
    assert repr(layer) == "DropPath(rate=0.25)"


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (7, 2), (3, 1), (1, 2)])
def test_same_padding_by_its_definition(size: int, kernel: int, stride: int) -> None:
    """TensorFlow: ceil(size / stride) outputs; the smaller half of the padding comes first."""
    torch.manual_seed(0)
    layer = Conv2dSame(2, 3, kernel, stride)
    x = torch.randn(1, 2, size, size)
    out = math.ceil(size / stride)
    total = max((out - 1) * stride + kernel - size, 0)
    before = total // 2
    padded = torch.zeros(1, 2, size + total, size + total)
    padded[:, :, before : before + size, before : before + size] = x
    expected = nn.functional.conv2d(padded, layer.weight, layer.bias, stride)
    assert layer(x).shape[-2:] == (out, out)
    assert torch.allclose(layer(x), expected, atol=1e-6)
