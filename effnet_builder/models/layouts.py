"""How other libraries name the tensors of a network: one table for each layout, from a plan's paths to theirs.

Read from the state dicts of torchvision 0.29, timm 1.0.31 and efficientnet_pytorch 0.7.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, get_args

from ..arch.plan import BlockPlan, ConvPlan, Plan, SqueezeExcitePlan

Layout = Literal["effnet_builder", "torchvision", "timm", "efficientnet_pytorch"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

Pair = tuple[str, str]
"""The path of a module with tensors, ours and theirs: a convolution, a norm, a linear layer."""


def recognize(names: Iterable[str]) -> Layout | None:
    """The layout that a state dict has these names from."""
    known = {"stem": "effnet_builder", "features": "torchvision", "layers": "torchvision", "conv_stem": "timm"}
    for name in names:
        first = name.partition(".")[0]
        if first in known:
            return known[first]  # type: ignore[return-value]
        if first == "_conv_stem":
            return "efficientnet_pytorch"
    return None


def module_pairs(plan: Plan, layout: Layout) -> list[Pair]:
    """Every module with tensors under both names. Raises ValueError where the layout has no place for the network."""
    if layout == "timm":
        return list(_timm(plan))
    if layout == "efficientnet_pytorch":
        return list(_efficientnet_pytorch(plan))
    if layout == "torchvision":
        return list(_torchvision(plan)(plan))
    return [(path, path) for path in _our_modules(plan)]


def _our_modules(plan: Plan) -> Iterator[str]:
    for conv in (row for row in plan.rows if isinstance(row, ConvPlan)):
        yield f"{conv.path}.conv"
        if conv.norm is not None:
            yield f"{conv.path}.norm"
    if plan.head.classifier is not None:
        yield "head.classifier"


def _chain(block: BlockPlan) -> tuple[str, ...]:
    """The names of a block's convolutions, without those of squeeze-excite."""
    return tuple(_name(conv) for conv in block.convs)


def _name(layer: ConvPlan | SqueezeExcitePlan) -> str:
    return layer.path.rpartition(".")[2]


def _conv(ours: str, conv: str, norm: str | None) -> Iterator[Pair]:
    yield f"{ours}.conv", conv
    if norm is not None:
        yield f"{ours}.norm", norm


def _squeeze(block: BlockPlan, reduce: str, expand: str) -> Iterator[Pair]:
    if block.squeeze_excite is not None:
        yield f"{block.path}.squeeze_excite.reduce.conv", reduce
        yield f"{block.path}.squeeze_excite.expand.conv", expand


# ------------------------------------------------------------------------------------------------ timm

# timm's `conv_pw` expands in an inverted residual and projects in a depthwise separable block.
_TIMM_CONVS = {
    ("conv",): ("conv",),
    ("depthwise", "projection"): ("conv_dw", "conv_pw"),
    ("expansion", "depthwise", "projection"): ("conv_pw", "conv_dw", "conv_pwl"),
    ("expansion", "projection"): ("conv_exp", "conv_pwl"),
}
_TIMM_UIB = {"start": "dw_start", "expansion": "pw_exp", "depthwise": "dw_mid", "projection": "pw_proj"}


def _timm(plan: Plan) -> Iterator[Pair]:
    yield from _conv("stem", "conv_stem", "bn1")
    for s, stage in enumerate(plan.stages):
        for b, block in enumerate(stage.blocks):
            theirs = f"blocks.{s}.{b}"
            if block.type == "universal_inverted_bottleneck":
                for conv in block.convs:
                    name = f"{theirs}.{_TIMM_UIB[_name(conv)]}"
                    yield from _conv(conv.path, f"{name}.conv", f"{name}.bn")
            else:
                for i, (conv, name) in enumerate(zip(block.convs, _TIMM_CONVS[_chain(block)], strict=True)):
                    yield from _conv(conv.path, f"{theirs}.{name}", f"{theirs}.bn{i + 1}")
            yield from _squeeze(block, f"{theirs}.se.conv_reduce", f"{theirs}.se.conv_expand")
    if plan.head.conv is not None:
        norms = {"conv_pool": "bn2", "pool_conv_norm": "norm_head", "pool_conv": None}
        yield from _conv("head.conv", "conv_head", norms[plan.spec.head.order])
    if plan.head.classifier is not None:
        yield "head.classifier", "classifier"


# ------------------------------------------------------------------------------------------------ efficientnet_pytorch


def _efficientnet_pytorch(plan: Plan) -> Iterator[Pair]:
    if plan.spec.head.order != "conv_pool":
        raise ValueError("efficientnet_pytorch has EfficientNets only: a convolution before the pooling")
    yield from _conv("stem", "_conv_stem", "_bn0")
    convs = {"expansion": "_expand_conv", "depthwise": "_depthwise_conv", "projection": "_project_conv"}
    norms = {"expansion": "_bn0", "depthwise": "_bn1", "projection": "_bn2"}
    for i, block in enumerate(plan.blocks):
        theirs = f"_blocks.{i}"
        if block.depthwise is None or block.type == "universal_inverted_bottleneck":
            raise ValueError(f"efficientnet_pytorch has MBConv blocks only; {block.path} is a {block.type}")
        for conv in block.convs:
            yield from _conv(conv.path, f"{theirs}.{convs[_name(conv)]}", f"{theirs}.{norms[_name(conv)]}")
        yield from _squeeze(block, f"{theirs}._se_reduce", f"{theirs}._se_expand")
    yield from _conv("head.conv", "_conv_head", "_bn1")
    if plan.head.classifier is not None:
        yield "head.classifier", "_fc"


# ------------------------------------------------------------------------------------------------ torchvision


def _torchvision(plan: Plan) -> Callable[[Plan], Iterator[Pair]]:
    """Which of torchvision's four families the network would be."""
    kinds = {block.type for block in plan.blocks}
    squeezes = any(block.squeeze_excite for block in plan.blocks)
    if plan.spec.head.order == "pool_conv" and _chain(plan.blocks[-1]) == ("conv",):
        return _torchvision_mobilenet_v3
    if plan.spec.head.order != "conv_pool" or "universal_inverted_bottleneck" in kinds:
        raise ValueError("torchvision has EfficientNets, MobileNetV2 and V3, and MNASNets only")
    if not squeezes and all(block.depthwise for block in plan.blocks):
        if plan.spec.activation == "relu" and _chain(plan.blocks[0]) == ("depthwise", "projection"):
            return _torchvision_mnasnet
        if plan.spec.activation == "relu6":
            return _torchvision_mobilenet_v2
    return _torchvision_efficientnet


def _torchvision_block(block: BlockPlan, theirs: str) -> Iterator[Pair]:
    """`theirs.0.{0,1}`, `theirs.1.{0,1}`, ..., with squeeze-excite as one of them."""
    layers = [layer for layer in block.layers if isinstance(layer, ConvPlan | SqueezeExcitePlan)]
    for i, layer in enumerate(layers):
        if isinstance(layer, SqueezeExcitePlan):
            yield from _squeeze(block, f"{theirs}.{i}.fc1", f"{theirs}.{i}.fc2")
        else:
            yield from _conv(layer.path, f"{theirs}.{i}.0", f"{theirs}.{i}.1")


def _torchvision_efficientnet(plan: Plan) -> Iterator[Pair]:
    yield from _conv("stem", "features.0.0", "features.0.1")
    for s, stage in enumerate(plan.stages):
        for b, block in enumerate(stage.blocks):
            yield from _torchvision_block(block, f"features.{s + 1}.{b}.block")
    last = f"features.{len(plan.stages) + 1}"
    yield from _conv("head.conv", f"{last}.0", f"{last}.1")
    if plan.head.classifier is not None:
        yield "head.classifier", "classifier.1"


def _torchvision_mobilenet_v2(plan: Plan) -> Iterator[Pair]:
    yield from _conv("stem", "features.0.0", "features.0.1")
    for i, block in enumerate(plan.blocks):
        theirs = f"features.{i + 1}.conv"
        *activated, projection = block.convs
        for j, conv in enumerate(activated):
            yield from _conv(conv.path, f"{theirs}.{j}.0", f"{theirs}.{j}.1")
        yield from _conv(projection.path, f"{theirs}.{len(activated)}", f"{theirs}.{len(activated) + 1}")
    last = f"features.{len(plan.blocks) + 1}"
    yield from _conv("head.conv", f"{last}.0", f"{last}.1")
    if plan.head.classifier is not None:
        yield "head.classifier", "classifier.1"


def _torchvision_mobilenet_v3(plan: Plan) -> Iterator[Pair]:
    yield from _conv("stem", "features.0.0", "features.0.1")
    *blocks, last = plan.blocks
    for i, block in enumerate(blocks):
        yield from _torchvision_block(block, f"features.{i + 1}.block")
    theirs = f"features.{len(plan.blocks)}"
    yield from _conv(last.convs[0].path, f"{theirs}.0", f"{theirs}.1")
    yield "head.conv.conv", "classifier.0"
    if plan.head.classifier is not None:
        yield "head.classifier", "classifier.3"


def _torchvision_mnasnet(plan: Plan) -> Iterator[Pair]:
    """One flat list of layers, activations counted; the stages are lists in it."""
    yield from _conv("stem", "layers.0", "layers.1")
    first = plan.blocks[0]
    for i, conv in enumerate(first.convs):
        yield from _conv(conv.path, f"layers.{3 * i + 3}", f"layers.{3 * i + 4}")
    for s, stage in enumerate(plan.stages[1:]):
        for b, block in enumerate(stage.blocks):
            for i, conv in enumerate(block.convs):
                theirs = f"layers.{s + 8}.{b}.layers"
                yield from _conv(conv.path, f"{theirs}.{3 * i}", f"{theirs}.{3 * i + 1}")
    last = len(plan.stages) + 7
    yield from _conv("head.conv", f"layers.{last}", f"layers.{last + 1}")
    if plan.head.classifier is not None:
        yield "head.classifier", "classifier.1"


def known_eps(plan: Plan, layout: Layout) -> float | None:
    """The norm's eps that weights in this layout were trained with, where the layout and the network tell."""
    if layout == "efficientnet_pytorch":
        return 1e-3
    if layout != "torchvision":
        return None
    family = _torchvision(plan)
    if family in (_torchvision_mobilenet_v2, _torchvision_mnasnet):
        return 1e-5
    fused = any(_chain(block) == ("conv",) for block in plan.blocks)
    # EfficientNet-B5 is the first of the V1 with eps 1e-3, and its head has 2048 channels.
    return 1e-3 if fused or plan.head.hidden_size >= 2048 else 1e-5


def known_padding(layout: Layout) -> Literal["symmetric", "same"] | None:
    """The padding that weights in this layout were trained with, where the layout tells: timm has both."""
    return {"torchvision": "symmetric", "efficientnet_pytorch": "same"}.get(layout)  # type: ignore[return-value]


def tidy(name: str) -> str:
    """A tensor's name without the prefixes of DataParallel and of torch.compile."""
    return re.sub(r"^(module\.|_orig_mod\.)+", "", name)
