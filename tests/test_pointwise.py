"""1x1 convolutions as products: beside the library's, and that exports, compilers and inference find the library's."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from effnet_builder import build_model, load_spec
from effnet_builder.models import layers, pointwise
from effnet_builder.models.layers import SqueezeExcite
from effnet_builder.models.pointwise import PointwiseConv2d


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes of the inputs that were multiplied."""
    found: list[torch.Size] = []
    linear = nn.functional.linear

    def spy(x: Tensor, *rest: Any) -> Tensor:
        found.append(x.shape)
        return linear(x, *rest)

    monkeypatch.setattr(pointwise.F, "linear", spy)
    return found


def pair(inputs: int, outputs: int, bias: bool, dtype: torch.dtype) -> tuple[nn.Conv2d, nn.Conv2d]:
    ours = PointwiseConv2d(inputs, outputs, 1, bias=bias, dtype=dtype)
    theirs = nn.Conv2d(inputs, outputs, 1, bias=bias, dtype=dtype)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def results(layer: nn.Module, x: Tensor) -> list[Tensor]:
    leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = layer(leaf)
    y.square().mean().backward()
    assert leaf.grad is not None
    return [y, leaf.grad, *(parameter.grad for parameter in layer.parameters() if parameter.grad is not None)]


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.booleans(), st.sampled_from([torch.contiguous_format, torch.channels_last]),
    st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
@settings(max_examples=60)
def test_layer_is_conv2d(
    batch: int, inputs: int, outputs: int, size: tuple[int, int], bias: bool, layout: Any, dtype: torch.dtype
) -> None:
    torch.manual_seed(batch)
    ours, theirs = pair(inputs, outputs, bias, dtype)
    x = torch.randn(batch, inputs, *size, dtype=dtype).contiguous(memory_format=layout)
    for mine, other in zip(results(ours, x), results(theirs, x), strict=True):
        assert mine.shape == other.shape
        assert (mine - other).norm() <= (1e-14 if dtype == torch.float64 else 1e-6) * other.norm() + 1e-30
    if not x.is_contiguous():  # with one channel, or one pixel, the layouts are the same
        assert ours(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        ((2, 3, 1, 1), torch.contiguous_format, True), ((2, 3, 1, 1), torch.channels_last, True),
        ((2, 3, 2, 2), torch.contiguous_format, False), ((2, 3, 2, 2), torch.channels_last, True),
        ((2, 3, 1, 4), torch.channels_last, True), ((2, 3, 3, 2), torch.channels_last, False),
        ((0, 3, 1, 1), torch.channels_last, True), ((3, 1, 1), torch.contiguous_format, False),
    ],
)  # fmt: skip
def test_rule(shape: tuple[int, ...], layout: Any, expected: bool, products: list[torch.Size]) -> None:
    ours, theirs = pair(3, 5, True, torch.float32)
    x = torch.randn(shape)
    x = x.contiguous(memory_format=layout) if x.dim() == 4 else x
    assert ours(x).shape == theirs(x).shape
    assert bool(products) is expected


@pytest.mark.parametrize(
    "options", [{"stride": 2}, {"padding": 1}, {"padding": "same"}, {"groups": 2}, {"kernel_size": 2, "padding": 1}]
)
def test_other_convolutions_are_the_librarys(options: dict[str, Any], products: list[torch.Size]) -> None:
    x = torch.randn(2, 4, 1, 1)
    layer = PointwiseConv2d(4, 4, **{"kernel_size": 1, **options})
    plain = nn.Conv2d(4, 4, **{"kernel_size": 1, **options})
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), plain(x))
    assert not products


def test_without_training_every_bit_is_the_librarys(products: list[torch.Size]) -> None:
    ours, theirs = pair(33, 65, True, torch.float32)
    x = torch.randn(8, 33, 1, 1)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))
    ours.requires_grad_(False)
    assert torch.equal(ours(x.requires_grad_()), theirs(x))
    assert not products


def exported(layer: nn.Module, x: Tensor) -> None:
    graph = torch.export.export(nn.Sequential(layer), (x,)).graph
    called = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    assert len(called) == 1
    assert "conv2d" in called[0]


def compiled(layer: nn.Module, x: Tensor) -> None:
    torch.compile(layer, fullgraph=True, backend="eager")(x).sum().backward()  # type: ignore[no-untyped-call]


def traced(layer: nn.Module, x: Tensor) -> None:
    torch.jit.trace(layer, x)(x)  # type: ignore[no-untyped-call]


def cast(layer: nn.Module, x: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def counted(layer: nn.Module, x: Tensor) -> None:
    with FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() == 2 * 2 * 3 * 5


@pytest.mark.parametrize("use", [exported, compiled, traced, cast, counted])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_observers_find_the_librarys(use: Callable[[nn.Module, Tensor], None], products: list[torch.Size]) -> None:
    use(PointwiseConv2d(3, 5, 1), torch.randn(2, 3, 1, 1))
    assert not products


def test_gradients_of_gradients_and_copies(products: list[torch.Size]) -> None:
    layer = PointwiseConv2d(3, 2, 1, dtype=torch.float64)
    inputs = tuple(
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((4, 3, 1, 1), (2, 3, 1, 1), (2,))
    )
    assert torch.autograd.gradcheck(layer._conv_forward, inputs)
    assert torch.autograd.gradgradcheck(layer._conv_forward, inputs, fast_mode=True)
    assert products
    x = torch.randn(2, 3, 1, 1, dtype=torch.float64)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x))
    assert list(layer.state_dict()) == list(nn.Conv2d(3, 2, 1).state_dict())


def test_a_network_trains_squeeze_excite_by_products(products: list[torch.Size]) -> None:
    model = build_model(load_spec("efficientnet-b0", {"resolution": 32, "head.num_classes": 3}))
    model(torch.randn(2, 3, 32, 32))
    one_pixel = 1 + 3 * 2 + 2 + 1  # a projection, three blocks of two, the last block, the head
    assert len(products) == 2 * 16 + one_pixel + 1  # and the classifier, which is a linear layer
    products.clear()
    model.eval()
    with torch.no_grad():
        model(torch.randn(2, 3, 32, 32))
    assert len(products) == 1


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_mean_of_squeeze_excite_is_the_librarys_bit_for_bit(layout: Any, dtype: torch.dtype) -> None:
    for shape in ((8, 3, 7, 5), (4, 6, 16, 16), (2, 3, 1, 1)):
        ours = torch.randn(shape, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
        theirs = ours.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        means = layers._mean(ours), theirs.mean((2, 3), keepdim=True)
        assert torch.equal(*means)
        gradient = torch.randn_like(means[0])
        for mean in means:
            mean.backward(gradient)
        assert torch.equal(ours.grad, theirs.grad)  # type: ignore[arg-type]


def test_graphs_hold_a_mean() -> None:
    model = build_model(load_spec("efficientnet-b0", {"resolution": 32}))
    block = next(module for module in model.modules() if isinstance(module, SqueezeExcite))
    channels = block.reduce.conv.in_channels
    graph = torch.export.export(block, (torch.randn(2, channels, 4, 4),)).graph
    called = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    assert any("mean" in name for name in called)
    assert not [name for name in called if "sum" in name or "div" in name]
