"""Hypothesis strategies of spec data: what a person could write."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

ACTIVATIONS = st.sampled_from(["relu", "relu6", "silu", "hardswish", "gelu"])
NORMS = st.one_of(
    st.fixed_dictionaries({}, optional={"eps": st.floats(1e-6, 1e-2), "momentum": st.floats(0.01, 1)}),
    st.fixed_dictionaries({"type": st.just("group"), "group_size": st.sampled_from([1, 1, 2])}),
    st.fixed_dictionaries({"type": st.just("layer")}, optional={"eps": st.floats(1e-6, 1e-2)}),
    st.just({"type": "none"}),
)
PADDINGS = st.sampled_from(["symmetric", "same"])
KERNELS = st.sampled_from([1, 3, 5, 7])
CHANNELS = st.integers(1, 24)
WIDTH_SCALING = st.sampled_from([True, False, "up"])


def roundings() -> st.SearchStrategy[dict[str, Any]]:
    divisors = st.sampled_from([1, 3, 4, 8])
    return st.one_of(
        st.fixed_dictionaries(
            {"mode": st.just("nearest"), "divisor": divisors},
            optional={"limit": st.floats(0, 1), "truncate": st.booleans()},
        ),
        st.fixed_dictionaries(
            {"mode": st.sampled_from(["ceil", "floor"]), "divisor": divisors}, optional={"truncate": st.booleans()}
        ),
    )


SQUEEZE_EXCITES = st.fixed_dictionaries(
    {},
    optional={
        "base": st.sampled_from(["input", "expanded"]),
        "rounding": roundings(),
        "activation": st.one_of(ACTIVATIONS, st.just("block")),
        "gate": st.sampled_from(["sigmoid", "hardsigmoid"]),
    },
)

COMMON = {
    "repeats": st.integers(1, 3),
    "stride": st.sampled_from([1, 2]),
    "activation": ACTIVATIONS,
    "norm": NORMS,
    "padding": PADDINGS,
    "scale_width": WIDTH_SCALING,
    "scale_depth": st.booleans(),
    "skip": st.booleans(),
}
SQUEEZING = {"se_ratio": st.sampled_from([0, 0.1, 0.25, 1]), "squeeze_excite": SQUEEZE_EXCITES}
EXPANSIONS = st.one_of(
    st.fixed_dictionaries(
        {"expand_ratio": st.sampled_from([1, 1.5, 2, 3, 6])},
        optional={"expand_base": st.sampled_from(["input", "output"])},
    ),
    st.fixed_dictionaries({"expand_channels": CHANNELS}),
    st.just({"expand_ratio": 1, "always_expand": True}),
)
RATIOS = st.fixed_dictionaries({"expand_ratio": st.sampled_from([1, 1.5, 2, 4])})
GROUP_SIZES = st.sampled_from([1, 1, 2])
NOTHING: st.SearchStrategy[dict[str, Any]] = st.just({})


def rows(
    kind: str,
    expansions: st.SearchStrategy[dict[str, Any]] = NOTHING,
    **optional: Any,
) -> st.SearchStrategy[dict[str, Any]]:
    """Rows of one type; squeeze_excite only beside a se_ratio, as the language has it."""

    def join(row: dict[str, Any], expansion: dict[str, Any]) -> dict[str, Any]:
        if not row.get("se_ratio"):
            row.pop("squeeze_excite", None)
        return row | expansion

    row = st.fixed_dictionaries({"type": st.just(kind), "out_channels": CHANNELS}, optional=COMMON | optional)
    return st.builds(join, row, expansions)


ROWS = st.one_of(
    rows("mbconv", EXPANSIONS, **SQUEEZING, kernel_size=KERNELS, group_size=GROUP_SIZES),
    rows("mbconv", st.just({"expand_ratio": 2, "expand_kernel_size": 3}), **SQUEEZING),
    rows("depthwise_separable", **SQUEEZING, kernel_size=KERNELS, group_size=GROUP_SIZES, linear=st.booleans()),
    rows("fused_mbconv", EXPANSIONS, **SQUEEZING, kernel_size=KERNELS, group_size=GROUP_SIZES),
    rows("conv", kernel_size=KERNELS, group_size=GROUP_SIZES),
    rows("universal_inverted_bottleneck", RATIOS, **SQUEEZING, start_kernel_size=KERNELS, kernel_size=KERNELS),
)


def stages() -> st.SearchStrategy[Any]:
    """A row, or a list of rows of which only the first may stride."""
    later = ROWS.map(lambda row: row | {"stride": 1})
    return st.one_of(ROWS, st.builds(lambda first, rest: [first, *rest], ROWS, st.lists(later, max_size=2)))


HEADS = st.one_of(
    st.fixed_dictionaries(
        {"order": st.sampled_from(["conv_pool", "pool_conv", "pool_conv_norm"]), "out_channels": CHANNELS},
        optional={"activation": ACTIVATIONS, "scale_width": WIDTH_SCALING},
    ),
    st.fixed_dictionaries(
        {"order": st.just("pool_conv"), "out_channels": CHANNELS, "bias": st.booleans()},
    ),
    st.just({"order": "pool"}),
)

SPECS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "name": st.just("random"),
        "resolution": st.integers(1, 40),
        "stem": st.fixed_dictionaries(
            {"out_channels": CHANNELS},
            optional={
                "kernel_size": KERNELS,
                "stride": st.sampled_from([1, 2]),
                "activation": ACTIVATIONS,
                "scale_width": WIDTH_SCALING,
            },
        ),
        "stages": st.lists(stages(), min_size=1, max_size=4),
        "head": st.builds(
            lambda head, rest: head | rest,
            HEADS,
            st.fixed_dictionaries(
                {"num_classes": st.integers(0, 12)},
                optional={"dropout": st.floats(0, 0.9), "pool": st.sampled_from(["avg", "max", "avgmax"])},
            ),
        ),
        "rounding": st.fixed_dictionaries(
            {"expansion": roundings(), "repeats": st.just({"mode": "ceil"})},
            optional={"stem": roundings(), "stages": roundings(), "head": roundings(), "resolution": roundings()},
        ),
    },
    optional={
        "in_channels": st.integers(1, 5),
        "activation": ACTIVATIONS,
        "norm": NORMS,
        "padding": PADDINGS,
        "anti_alias": st.sampled_from(["none", "blur", "avg"]),
        "output_stride": st.sampled_from([8, 16, 32]),
        "squeeze_excite": SQUEEZE_EXCITES,
        "drop_path": st.fixed_dictionaries(
            {"rate": st.floats(0, 0.9)},
            optional={"schedule": st.sampled_from(["linear", "linear_inclusive", "constant"])},
        ),
        "scaling": st.fixed_dictionaries(
            {"alpha": st.floats(1, 1.5), "beta": st.floats(0.5, 1.5), "gamma": st.floats(1, 1.5)},
            optional={
                "phi": st.floats(-1, 2),
                "depth": st.floats(0.5, 2),
                "width": st.floats(0.3, 2),
                "resolution": st.floats(1, 60),
            },
        ),
    },
)
