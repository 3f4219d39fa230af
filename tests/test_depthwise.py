"""Depthwise convolutions: our weight gradient beside the library's, and that nobody but the optimizer can tell."""

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
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from effnet_builder.models import depthwise
from effnet_builder.models.depthwise import DepthwiseConv2d, Geometry, weight_gradient, wins

PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))
FORMATS = st.sampled_from([torch.contiguous_format, torch.channels_last])
BATCH, CHANNELS = 16, 8
LARGE_KERNEL: dict[str, Any] = {"kernel_size": 5, "padding": 2, "groups": CHANNELS, "dtype": torch.float64}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small products are slower on several threads, most of all where the cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Geometry]:
    """Inputs and weights in float64, and a geometry with at least one output."""
    kernel = draw(st.tuples(st.sampled_from([1, 2, 3, 5, 7]), st.sampled_from([1, 2, 3, 5, 7])))
    padding = draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    dilation = draw(PAIRS)
    lows = [max((k - 1) * d + 1 - 2 * p, 1) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    size = [low + draw(st.integers(0, 8)) for low in lows]
    batch, channels = draw(st.sampled_from([1, 2, 5, 40])), draw(st.sampled_from([1, 3, 16]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    x = torch.randn(batch, channels, *size, generator=generator, dtype=torch.float64)
    weight = torch.randn(channels, 1, *kernel, generator=generator, dtype=torch.float64)
    return x.contiguous(memory_format=draw(FORMATS)), weight, Geometry(draw(PAIRS), padding, dilation)


def close(ours: Tensor, theirs: Tensor, tolerance: float) -> bool:
    return bool((ours - theirs).abs().max() <= tolerance * max(theirs.abs().max(), 1))


@given(problems(), FORMATS)
@settings(max_examples=80)
def test_weight_gradient_is_the_librarys(problem: tuple[Tensor, Tensor, Geometry], layout: torch.memory_format) -> None:
    x, weight, geometry = problem
    weight = weight.requires_grad_()
    y = nn.functional.conv2d(x, weight, None, *geometry, groups=len(weight))
    grad = torch.randn_like(y).contiguous(memory_format=layout)
    (theirs,) = torch.autograd.grad(y, weight, grad)
    assert close(weight_gradient(x, grad, weight, geometry), theirs, 1e-12)
    in_float32 = weight_gradient(x.float(), grad.float(), weight, geometry)
    assert close(in_float32.double(), theirs, 1e-5)


@given(problems(), st.booleans(), st.sampled_from([torch.float64, torch.float32]))
@settings(max_examples=50)
def test_layer_is_conv2d(problem: tuple[Tensor, Tensor, Geometry], bias: bool, dtype: torch.dtype) -> None:
    x, weight, geometry = problem
    channels = x.shape[1]
    theirs = nn.Conv2d(channels, channels, weight.shape[2:], *geometry, channels, bias, dtype=dtype)  # type: ignore[arg-type]
    ours = DepthwiseConv2d(channels, channels, weight.shape[2:], *geometry, channels, bias, dtype=dtype)  # type: ignore[arg-type]
    ours.load_state_dict(theirs.state_dict())
    found = []
    for layer in (ours, theirs):
        leaf = x.to(dtype, copy=True).requires_grad_()
        y = layer(leaf)
        y.square().mean().backward()
        assert leaf.grad is not None
        found.append([y, leaf.grad, *(parameter.grad for parameter in layer.parameters())])
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert all(close(a, b, 1e-10 if dtype == torch.float64 else 1e-5) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "expected"),
    [
        ((128, 1152, 1, 1), 3, 1, True), ((128, 480, 2, 2), 3, 1, True), ((128, 240, 4, 4), 3, 2, False),
        ((128, 240, 4, 4), 5, 1, True), ((128, 144, 8, 8), 5, 2, True), ((32, 1152, 7, 7), 5, 1, True),
        ((32, 480, 14, 14), 5, 1, True), ((32, 480, 14, 14), 3, 1, False), ((32, 240, 28, 28), 5, 1, True),
        ((2, 480, 14, 14), 5, 1, False), ((32, 144, 56, 56), 5, 2, False), ((0, 240, 4, 4), 5, 1, False),
        ((240, 4, 4), 5, 1, False),
    ],
)  # fmt: skip
def test_rule(shape: tuple[int, ...], kernel: int, stride: int, expected: bool) -> None:
    geometry = Geometry((stride, stride), (kernel // 2, kernel // 2), (1, 1))
    weight = torch.empty(shape[-3], 1, kernel, kernel)
    x = torch.empty(shape)
    assert wins(x, weight, geometry) is expected
    assert not wins(x.to("meta"), weight, geometry)
    assert not wins(x.bfloat16(), weight.bfloat16(), geometry)


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "expected"),
    [
        ((128, 1152, 1, 1), 5, 1, True), ((1, 1152, 1, 1), 5, 1, True), ((1, 1000, 1, 1), 5, 1, False),
        ((128, 480, 2, 2), 3, 1, True), ((4, 480, 2, 2), 3, 1, False), ((5, 480, 2, 2), 3, 1, True),
        ((128, 240, 4, 4), 3, 2, False), ((128, 240, 4, 4), 5, 1, True), ((128, 144, 8, 8), 5, 2, True),
        ((128, 144, 8, 8), 3, 1, False), ((128, 144, 9, 8), 5, 2, False), ((32, 480, 14, 14), 5, 1, False),
        ((0, 240, 4, 4), 5, 1, False),
    ],
)  # fmt: skip
def test_rule_of_channels_last_inputs(shape: tuple[int, ...], kernel: int, stride: int, expected: bool) -> None:
    geometry = Geometry((stride, stride), (kernel // 2, kernel // 2), (1, 1))
    x = torch.empty(shape).contiguous(memory_format=torch.channels_last)
    assert wins(x, torch.empty(shape[1], 1, kernel, kernel), geometry) is expected


def test_chunks_of_the_batch_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = Geometry((2, 1), (2, 2), (1, 1))
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(3, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    y = nn.functional.conv2d(x, weight, None, *geometry, groups=3)
    grad = torch.randn_like(y)
    (theirs,) = torch.autograd.grad(y, weight, grad)
    for elements in (1, 2 * 3 * 16, 4 * 3 * 16, 5 * 3 * 16, 10**6):  # 1, 2, 4, and all 5 images
        monkeypatch.setattr(depthwise, "_CHUNK", elements)
        assert close(weight_gradient(x, grad, weight, geometry), theirs, 1e-13)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The inputs whose weight gradient was ours."""
    found: list[Tensor] = []

    def spy(x: Tensor, *rest: Any) -> Tensor:
        found.append(x)
        return weight_gradient(x, *rest)

    monkeypatch.setattr(depthwise, "weight_gradient", spy)
    return found


def layer_and_input() -> tuple[DepthwiseConv2d, Tensor]:
    torch.manual_seed(0)
    return DepthwiseConv2d(CHANNELS, CHANNELS, **LARGE_KERNEL), torch.randn(BATCH, CHANNELS, 3, 3, dtype=torch.float64)


def test_ours_is_used_and_repeats(calls: list[Tensor]) -> None:
    layer, x = layer_and_input()
    grads = [torch.autograd.grad(layer(x).square().sum(), layer.weight)[0] for _ in range(3)]
    assert len(calls) == 3
    assert torch.equal(grads[0], grads[1])
    assert torch.equal(grads[0], grads[2])
    layer.weight.requires_grad_(False)
    layer(x.requires_grad_()).sum().backward()
    assert len(calls) == 3


def test_ours_is_used_for_channels_last(calls: list[Tensor]) -> None:
    torch.manual_seed(0)
    layer = DepthwiseConv2d(CHANNELS, CHANNELS, **LARGE_KERNEL).to(memory_format=torch.channels_last)
    plain = nn.Conv2d(CHANNELS, CHANNELS, **LARGE_KERNEL)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(600, CHANNELS, 3, 3, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    y = layer(x)
    assert torch.equal(y, plain(x))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert close(gradient(layer, x), gradient(plain, x), 1e-12)
    assert [seen.shape for seen in calls] == [x.shape]


def test_gradcheck(calls: list[Tensor]) -> None:
    layer = DepthwiseConv2d(2, 2, **{**LARGE_KERNEL, "groups": 2})
    shapes = (6, 2, 2, 2), (2, 1, 5, 5), (2,)
    inputs = tuple(torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    assert torch.autograd.gradcheck(layer._conv_forward, inputs)
    assert calls
    assert torch.autograd.gradgradcheck(layer._conv_forward, inputs, fast_mode=True)


def test_double_backward_is_the_librarys(calls: list[Tensor]) -> None:
    layer, x = layer_and_input()
    plain = nn.Conv2d(CHANNELS, CHANNELS, **LARGE_KERNEL)
    plain.load_state_dict(layer.state_dict())
    found = []
    for each in (layer, plain):
        (grad,) = torch.autograd.grad(each(x).square().sum(), each.weight, create_graph=True)
        found.append(torch.autograd.grad(grad.square().sum(), each.weight)[0])
    assert torch.allclose(*found, rtol=1e-10)
    assert len(calls) <= 1  # of the second pass, whose graph holds the forward's


def gradient(layer: nn.Module, x: Tensor) -> Tensor:
    return torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))[0]


def traced(layer: nn.Module, x: Tensor) -> None:
    gradient(torch.jit.trace(layer, x), x)  # type: ignore[no-untyped-call]


def cast(layer: nn.Module, x: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x.float())
    y.float().sum().backward()


def transformed(layer: nn.Module, x: Tensor) -> None:
    names = dict(layer.named_parameters())

    def loss(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
        return torch.func.functional_call(layer, parameters, (image[None],)).square().sum()

    per_image = torch.func.vmap(torch.func.grad(loss), (None, 0))(names, x)
    assert torch.allclose(per_image["weight"].sum(0), gradient(nn.Sequential(layer), x))


def forward_mode(layer: nn.Module, x: Tensor) -> None:
    with forward_ad.dual_level():
        y = layer(forward_ad.make_dual(x, torch.ones_like(x)))
        assert torch.allclose(forward_ad.unpack_dual(y).tangent, layer(torch.ones_like(x)) - layer(torch.zeros_like(x)))


def counted(layer: nn.Module, x: Tensor) -> None:
    with FlopCounterMode(display=False):
        gradient(layer, x)


def compiled(layer: nn.Module, x: Tensor) -> None:
    gradient(torch.compile(layer, fullgraph=True, backend="eager"), x)  # type: ignore[arg-type]


@pytest.mark.parametrize("use", [traced, cast, forward_mode, counted, compiled])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_observers_find_the_librarys(use: Callable[[nn.Module, Tensor], None], calls: list[Tensor]) -> None:
    layer, x = layer_and_input()
    use(layer.float() if use is cast else layer, x)
    assert not calls


def test_per_image_gradients(calls: list[Tensor]) -> None:
    transformed(*layer_and_input())
    assert len(calls) == 1  # of the sum that they are compared with


def test_batched_gradients() -> None:
    layer, x = layer_and_input()
    y, rows = layer(x), torch.randn(3, BATCH, CHANNELS, 3, 3, dtype=torch.float64)
    (batched,) = torch.autograd.grad(y, layer.weight, rows, is_grads_batched=True, retain_graph=True)
    for row, found in zip(rows, batched, strict=True):
        assert torch.allclose(torch.autograd.grad(y, layer.weight, row, retain_graph=True)[0], found)


def test_graphs_hold_the_plain_convolution() -> None:
    layer, x = layer_and_input()
    model = nn.Sequential(layer, nn.SiLU())
    exported = torch.export.export(model, (x,)).graph
    graphs: list[torch.fx.Graph] = []

    def keep(module: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(module.graph)
        return module.forward

    torch.compile(model, fullgraph=True, backend=keep)(x)
    for graph in (exported, *graphs):
        called = [str(node.target) for node in graph.nodes if node.op == "call_function"]
        assert len(called) == 2, called
        assert "conv2d" in called[0]
    assert len(graphs) == 1


def test_copies_and_state_are_conv2ds() -> None:
    layer, x = layer_and_input()
    plain = nn.Conv2d(CHANNELS, CHANNELS, **LARGE_KERNEL)
    assert {name: value.shape for name, value in layer.state_dict().items()} == {
        name: value.shape for name, value in plain.state_dict().items()
    }
    plain.load_state_dict(layer.state_dict())
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), plain):
        assert torch.equal(other(x), layer(x))


def saved(layer: nn.Module, x: Tensor) -> list[int]:
    """The addresses of what a forward pass keeps."""
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    return kept


def test_keeps_input_and_weight_only() -> None:
    layer, x = layer_and_input()
    assert saved(layer, x) == [x.data_ptr(), layer.weight.data_ptr()]
    plain = nn.Conv2d(CHANNELS, CHANNELS, **LARGE_KERNEL)
    assert len(saved(plain, x)) == 2


@pytest.mark.parametrize("options", [{"padding_mode": "circular"}, {"padding": "same"}, {"groups": 2}])
def test_other_convolutions_are_the_librarys(options: dict[str, Any], calls: list[Tensor]) -> None:
    _, x = layer_and_input()
    gradient(DepthwiseConv2d(CHANNELS, CHANNELS, **{**LARGE_KERNEL, **options}), x)
    assert not calls
