"""What two networks compute differently with the same weights, told from their plans."""

from __future__ import annotations

from collections.abc import Iterator

from ..arch.plan import BlockPlan, ConvPlan, Plan, PoolPlan, SqueezeExcitePlan

Facts = dict[tuple[str, str], object]
"""By where it is, and what: `("stages.2.0.depthwise", "activation")` is `silu`."""


def differing_computations(theirs: Plan, ours: Plan) -> Iterator[str]:
    """One line for each kind of difference, `activation "silu"; the spec has "relu" (stem and 48 more)`.

    Resolutions, classes, image channels, dropout, drop-path and momentum are left out: the same weights serve them all.
    """
    before, now = dict(_facts(theirs)), dict(_facts(ours))
    found: dict[tuple[str, object, object], list[str]] = {}
    for place, what in before.keys() | now.keys():
        pair = before.get((place, what)), now.get((place, what))
        if pair[0] != pair[1]:
            found.setdefault((what, *pair), []).append(place)
    for (what, said, has), places in sorted(found.items(), key=str):
        more = f" and {len(places) - 1} more" if len(places) > 1 else ""
        yield f"{what} {_shown(said)}; the spec has {_shown(has)} ({min(places)}{more})"


def _facts(plan: Plan) -> Iterator[tuple[tuple[str, str], object]]:
    yield from _conv(plan.stem)
    for block in plan.blocks:
        yield from _block(block)
    head = plan.head
    yield ("head", "pooling"), head.pool
    yield ("head", "pooling before the convolution"), head.pool_first and head.conv is not None
    if head.conv is not None:
        yield from _conv(head.conv)


def _block(block: BlockPlan) -> Iterator[tuple[tuple[str, str], object]]:
    yield (block.path, "skip"), block.skip
    yield (block.path, "order of layers"), " ".join(layer.path.removeprefix(f"{block.path}.") for layer in block.layers)
    for layer in block.layers:
        if isinstance(layer, SqueezeExcitePlan):
            yield (layer.path, "activation"), layer.reduce.activation
            yield (layer.path, "gate"), layer.expand.activation
        elif isinstance(layer, PoolPlan):
            yield (layer.path, "anti-aliasing"), layer.type
        else:
            yield from _conv(layer)


def _conv(conv: ConvPlan) -> Iterator[tuple[tuple[str, str], object]]:
    norm = conv.norm
    yield (conv.path, "activation"), conv.activation
    yield (conv.path, "stride"), conv.stride
    yield (conv.path, "dilation"), conv.dilation
    yield (conv.path, "padding"), "same" if conv.padding == "same" else "symmetric"
    yield (conv.path, "norm"), norm and norm.type
    yield (conv.path, "eps"), norm and norm.eps
    yield (conv.path, "groups of the norm"), norm and norm.groups


def _shown(value: object) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
