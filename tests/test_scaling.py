"""Scaling and rounding against the published tables and hand-derived numbers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from writing import WriteYaml

from effnet_builder import ConfigError, ScalingWarning, load_spec, resolve
from effnet_builder.arch.scaling import compound_growth, drop_path_rate, multiplier, round_to
from effnet_builder.config import shipped

# Widths and repeats of the released networks (google/automl, torchvision and timm agree): stem, stages, head; repeats.
PUBLISHED = {
    "b0": (32, [16, 24, 40, 80, 112, 192, 320], 1280, [1, 2, 2, 3, 3, 4, 1]),
    "b1": (32, [16, 24, 40, 80, 112, 192, 320], 1280, [2, 3, 3, 4, 4, 5, 2]),
    "b2": (32, [16, 24, 48, 88, 120, 208, 352], 1408, [2, 3, 3, 4, 4, 5, 2]),
    "b3": (40, [24, 32, 48, 96, 136, 232, 384], 1536, [2, 3, 3, 5, 5, 6, 2]),
    "b4": (48, [24, 32, 56, 112, 160, 272, 448], 1792, [2, 4, 4, 6, 6, 8, 2]),
    "b5": (48, [24, 40, 64, 128, 176, 304, 512], 2048, [3, 5, 5, 7, 7, 9, 3]),
    "b6": (56, [32, 40, 72, 144, 200, 344, 576], 2304, [3, 6, 6, 8, 8, 11, 3]),
    "b7": (64, [32, 48, 80, 160, 224, 384, 640], 2560, [4, 7, 7, 10, 10, 13, 4]),
    "b8": (72, [32, 56, 88, 176, 248, 424, 704], 2816, [4, 8, 8, 11, 11, 15, 4]),
    "l2": (136, [72, 104, 176, 344, 480, 824, 1376], 5504, [6, 11, 11, 16, 16, 22, 6]),
}
NOTEBOOK = {
    "b0": (32, [16, 24, 40, 80, 112, 192, 320], 1280, 16),
    "b1": (33, [16, 28, 44, 84, 120, 204, 336], 1343, 23),
    "b2": (35, [20, 28, 44, 88, 124, 212, 352], 1408, 23),
    "b3": (38, [20, 32, 48, 96, 136, 232, 388], 1549, 23 + 3),
    "b4": (42, [24, 32, 56, 108, 152, 256, 428], 1704, 31),
    "b5": (46, [24, 36, 60, 120, 164, 284, 468], 1875, 39),
    "b6": (51, [28, 40, 64, 128, 180, 312, 516], 2062, 42),
    "b7": (56, [28, 44, 72, 144, 200, 340, 568], 2268, 48),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_widths_and_depths_are_the_published_ones(name: str) -> None:
    plan = resolve(load_spec(f"efficientnet-{name}"))
    widths = [stage.blocks[-1].projection.out_channels for stage in plan.stages]
    depths = [len(stage.blocks) for stage in plan.stages]
    assert (plan.stem.out_channels, widths, plan.head.conv.out_channels, depths) == PUBLISHED[name]


@pytest.mark.parametrize("name", NOTEBOOK)
def test_widths_and_depths_of_the_notebook(name: str) -> None:
    plan = resolve(load_spec(f"notebook-{name}"))
    widths = [stage.blocks[-1].projection.out_channels for stage in plan.stages]
    assert (plan.stem.out_channels, widths, plan.head.conv.out_channels, len(plan.blocks)) == NOTEBOOK[name]


def test_the_limit_of_0_9_fires_for_b3_stage_1_alone() -> None:
    fired = []
    for name, width in {"b1": 1.0, "b2": 1.1, "b3": 1.2, "b4": 1.4, "b5": 1.6, "b6": 1.8, "b7": 2.0, "b8": 2.2}.items():
        fired += [
            (name, channels)
            for channels in (32, 16, 24, 40, 80, 112, 192, 320, 1280)
            if round_to(channels * width, "nearest", 8, 0.9) != round_to(channels * width, "nearest", 8, 0.0)
        ]
    assert fired == [("b3", 16)]  # 19.2 -> 16, below 0.9 * 19.2 = 17.28, so 24


@pytest.mark.parametrize(
    ("value", "mode", "divisor", "limit", "truncate", "expected"),
    [
        (35.2, "nearest", 8, 0.9, False, 32),
        (36.0, "nearest", 8, 0.9, False, 40),  # halves go up
        (3.2, "nearest", 8, 0.9, False, 8),  # never below one divisor
        (19.2, "nearest", 8, 0.0, False, 16),
        (28.4, "ceil", 4, 0.0, False, 32),
        (28.4, "ceil", 4, 0.0, True, 28),
        (33.6, "floor", 1, 0.0, False, 33),
        (33.6, "floor", 8, 0.0, False, 32),
        (0.3, "floor", 1, 0.0, False, 1),
        (257.6, "nearest", 1, 0.0, False, 258),
        (12.0, "none", 8, 0.9, False, 12),
        (12.7, "none", 8, 0.9, True, 12),
        (100 * 1.1, "none", 1, 0.0, False, 110),  # 110.00000000000001
    ],
)
def test_rounding(value: float, mode: str, divisor: int, limit: float, truncate: bool, expected: int) -> None:
    assert round_to(value, mode, divisor, limit, truncate) == expected


def test_none_refuses_a_fraction() -> None:
    with pytest.raises(ValueError, match=r"12\.7 is not a whole number"):
        round_to(12.7, "none")


@given(st.floats(0.01, 1e6), st.sampled_from(["nearest", "ceil", "floor"]), st.integers(1, 64), st.floats(0, 1))
def test_rounded_numbers_are_near_multiples(value: float, mode: str, divisor: int, limit: float) -> None:
    rounded = round_to(value, mode, divisor, limit)
    assert rounded % divisor == 0
    assert rounded >= divisor
    assert abs(rounded - value) <= divisor
    if mode == "nearest":
        assert rounded >= limit * value or math.isclose(rounded, limit * value)


def test_multipliers() -> None:
    assert multiplier(1.4, 1.1, 3) == 1.4
    assert multiplier(None, 1.1, 3) == 1.1**3
    assert multiplier(None, None, 3) == 1
    assert math.isclose(compound_growth(1.2, 1.1, 1.15), 1.920270)  # 1.2 * 1.21 * 1.3225


@pytest.mark.parametrize(
    ("phi", "params", "resolution"),
    [(0.5, 8441486, 240), (1, 9109994, 258), (2, 12255408, 296), (3, 16350296, 341), (4, 25916448, 392),
     (5, 33726740, 451), (6, 45464648, 518), (7, 68741810, 596)],
)  # fmt: skip
def test_phi_applies_the_rule_to_any_member_of_the_family(phi: float, params: int, resolution: int) -> None:
    from effnet_builder import analyze

    for name in ("efficientnet-b0", "efficientnet-b4"):
        plan = resolve(load_spec(name), phi=phi)
        assert (analyze(plan).total.params, plan.resolution) == (params, resolution)


@pytest.mark.parametrize("name", shipped("archspecs"))
def test_every_archspec_answers_phi(name: str) -> None:
    spec = load_spec(name)
    plan = resolve(spec, phi=1)
    assert (plan.depth, plan.width) == (1.2, 1.1)
    assert plan.resolution == int(spec.resolution * 1.15 + 0.5)  # 224 * 1.15 = 257.6 gives 258


def test_explicit_values_beside_phi_win() -> None:
    plan = resolve(load_spec("efficientnet-b4"), phi=2, resolution=97, width=2)
    assert (plan.resolution, plan.width, plan.depth) == (97, 2, 1.2**2)


def test_drop_path_schedules() -> None:
    assert [drop_path_rate(0.2, "linear", i, 4) for i in range(4)] == pytest.approx([0, 0.05, 0.1, 0.15])
    assert [drop_path_rate(0.2, "linear_inclusive", i, 5) for i in range(5)] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert [drop_path_rate(0.2, "constant", i, 3) for i in range(3)] == [0.2, 0.2, 0.2]
    assert drop_path_rate(0.2, "linear_inclusive", 0, 1) == 0


def test_a_rule_far_from_doubling_warns_and_works(write_yaml: WriteYaml) -> None:
    spec = load_spec(write_yaml("extends: efficientnet-b0\nname: wide\nscaling: {beta: 1.5}\n"))
    with pytest.warns(ScalingWarning, match=r"wide: alpha \* beta\^2 \* gamma\^2 = 3.571, not about 2"):
        assert resolve(spec).width == 1


def test_a_phi_without_effect_warns(write_yaml: WriteYaml) -> None:
    spec = load_spec(write_yaml("extends: efficientnet-b4\nname: mine\nscaling: {phi: 3}\n"))
    with pytest.warns(ScalingWarning, match="mine: phi = 3 has no effect: depth, width and resolution are given"):
        assert resolve(spec).width == 1.4
    resolve(load_spec("notebook-b3"), width=1)  # depth still follows phi


def test_parts_that_do_not_scale(write_yaml: WriteYaml) -> None:
    text = """\
extends: efficientnet-b0
name: lite-like
stem: {scale_width: false}
head: {scale_width: false}
stages:
  0: {scale_depth: false}
  6: {scale_depth: false, scale_width: false}
scaling: {width: 1.4, depth: 1.8}
"""
    plan = resolve(load_spec(write_yaml(text)))
    assert (plan.stem.out_channels, plan.head.conv.out_channels) == (32, 1280)
    assert [len(stage.blocks) for stage in plan.stages] == [1, 4, 4, 6, 6, 8, 1]
    assert [stage.blocks[0].projection.out_channels for stage in plan.stages] == [24, 32, 56, 112, 160, 272, 320]


def test_numbers_stay_as_written_where_nothing_is_scaled(write_yaml: WriteYaml) -> None:
    plan = resolve(load_spec("efficientnet-b0", {"stem.out_channels": 33, "stages[1].out_channels": 21}))
    assert (plan.stem.out_channels, plan.stages[1].blocks[0].projection.out_channels) == (33, 21)


def test_resolve_refuses_bad_keywords_with_the_value() -> None:
    spec = load_spec("efficientnet-b0")
    for value in (-1, True, 1.5, "7"):
        with pytest.raises(ConfigError, match=r"head.num_classes = .*: expected a whole number from 0 to 1,000,000"):
            resolve(spec, num_classes=value)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"scaling.phi = 3: expected a number from -100 to 100; write it without"):
        resolve(spec, phi="3")  # type: ignore[arg-type]
