"""Hypothesis strategies of spec data: what a person could write."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

ACTIVATIONS = st.sampled_from(["relu", "relu6", "silu", "hardswish", "gelu"])
NORMS = st.fixed_dictionaries({}, optional={"eps": st.floats(1e-6, 1e-2), "momentum": st.floats(0.01, 1)})
PADDINGS = st.sampled_from(["symmetric", "same"])
KERNELS = st.sampled_from([1, 3, 5, 7])
CHANNELS = st.integers(1, 24)


def roundings() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {"mode": st.sampled_from(["nearest", "ceil", "floor"]), "divisor": st.sampled_from([1, 3, 4, 8])},
        optional={"limit": st.floats(0, 1), "truncate": st.booleans()},
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

ROWS = st.fixed_dictionaries(
    {
        "type": st.just("mbconv"),
        "expand_ratio": st.sampled_from([1, 1.5, 2, 3, 6]),
        "out_channels": CHANNELS,
    },
    optional={
        "repeats": st.integers(1, 3),
        "kernel_size": KERNELS,
        "stride": st.sampled_from([1, 2]),
        "expand_kernel_size": KERNELS,
        "se_ratio": st.sampled_from([0, 0.1, 0.25, 1]),
        "activation": ACTIVATIONS,
        "norm": NORMS,
        "padding": PADDINGS,
        "squeeze_excite": SQUEEZE_EXCITES,
        "scale_width": st.booleans(),
        "scale_depth": st.booleans(),
    },
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
                "scale_width": st.booleans(),
            },
        ),
        "stages": st.lists(ROWS, min_size=1, max_size=4),
        "head": st.fixed_dictionaries(
            {"out_channels": CHANNELS, "num_classes": st.integers(1, 12)},
            optional={"dropout": st.floats(0, 0.9), "activation": ACTIVATIONS, "scale_width": st.booleans()},
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
