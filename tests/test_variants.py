"""Costs along a scaling rule, fits to budgets, sweeps and rules, each against an independent way to the same number."""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from strategies import SPECS

from effnet_builder import ArchSpec, ConfigError, analyze, fit_budget, load_spec, resolve, sweep
from effnet_builder.arch.fit import shortest_between
from effnet_builder.arch.quantities import Budget, parse_budgets
from effnet_builder.arch.rules import rule_overrides
from effnet_builder.arch.sweep import pareto, parse_grid, parse_range
from effnet_builder.arch.variants import Costing, OutOfRangeError, Variant
from effnet_builder.config import Document, node_of, shipped, validate
from effnet_builder.config.errors import Mark

pytestmark = pytest.mark.filterwarnings("ignore::effnet_builder.ScalingWarning")

Costs = tuple[int, int, int, int, int, int]


def costs_of(variant: Variant) -> Costs:
    return (
        variant.resolution, variant.params, variant.macs, variant.activations, variant.weight_bytes,
        variant.training_bytes_per_image,
    )  # fmt: skip


def laid_out(spec: ArchSpec, **keywords: float | None) -> Costs:
    """The same by the long way: a plan with every layer of every block."""
    plan = resolve(spec, **keywords)  # type: ignore[arg-type]
    analysis = analyze(plan)
    total = analysis.total
    return (
        plan.resolution, total.params, total.macs, total.activations, analysis.weight_bytes,
        analysis.training_bytes_per_image,
    )  # fmt: skip


@pytest.mark.parametrize("name", [name for i, name in enumerate(shipped("archspecs")) if i % 4 == 0])
def test_costing_equals_the_analysis_of_a_plan(name: str) -> None:
    spec = load_spec(name)
    costing = Costing(spec)
    assert costs_of(costing.variant()) == laid_out(spec)
    for keywords in ({"phi": -0.7}, {"phi": 0}, {"phi": 0.37}, {"phi": 1.9}, {"width": 1.37, "depth": 1.21}):
        assert outcome(lambda kw=keywords: costs_of(costing.variant(**kw))) == outcome(
            lambda kw=keywords: laid_out(spec, **kw)
        )


def outcome(way: Callable[[], Costs]) -> Costs | list[str]:
    """The costs, or what is wrong (a group norm does not divide every width)."""
    try:
        return way()
    except ConfigError as error:
        return [problem.message for problem in error.problems][:1]


@settings(max_examples=150, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(data=SPECS, phis=st.lists(st.floats(-2, 2), max_size=3))
def test_costing_equals_the_analysis_of_any_spec(data: dict[str, Any], phis: list[float]) -> None:
    try:
        spec = validate(ArchSpec, Document(node_of(data, Mark("random"))))
    except ConfigError:
        assume(False)
    costing = Costing(spec)
    for keywords in [{}, *({"phi": phi} for phi in phis)]:
        found, expected = (
            outcome(way)
            for way in (
                lambda kw=keywords: costs_of(costing.variant(**kw)),
                lambda kw=keywords: laid_out(spec, **kw),
            )
        )
        assert found == expected or (isinstance(found, list) and isinstance(expected, list))


def test_too_small_and_too_large_are_told_apart() -> None:
    costing = Costing(load_spec("efficientnet-b0"))
    for phi, limit in ((-30, "small"), (60, "large"), (99, "large")):
        with pytest.raises(OutOfRangeError) as error:
            costing.variant(phi=phi)
        assert error.value.limit == limit


# ------------------------------------------------------------------------------------------------ fit

STEP = 0.001


@pytest.fixture(scope="module")
def along_phi() -> list[Variant]:
    """B0's rule on a fine grid of phi, by brute force."""
    return sweep(load_spec("efficientnet-b0"), phi=[i * STEP for i in range(-7000, 7001)])


@pytest.mark.parametrize("quantity", ["params", "macs", "activations", "memory"])
def test_fits_agree_with_brute_force(quantity: str, along_phi: list[Variant]) -> None:
    spec, generator = load_spec("efficientnet-b0"), random.Random(quantity)
    for _ in range(60):
        batch = generator.choice((1, 32, 256)) if quantity == "memory" else 1
        cost: Callable[[Variant], int] = Budget(quantity, 1.0, batch).cost  # type: ignore[arg-type]
        costs = [cost(variant) for variant in along_phi]
        limit = math.exp(generator.uniform(math.log(costs[10]), math.log(costs[-10])))
        fit = fit_budget(spec, Budget(quantity, limit, batch))  # type: ignore[arg-type]
        last = max(i for i, value in enumerate(costs) if value <= limit)
        first, end = fit.phi_interval
        assert cost(fit.variant) <= limit < cost(fit.above)
        # The last point of the grid that respects the budget lies within one step below the border.
        assert end - STEP - 1e-9 <= along_phi[last].phi < end  # type: ignore[operator]
        if along_phi[last].phi >= first:  # type: ignore[operator]
            assert costs_of(along_phi[last]) == costs_of(fit.variant)
        assert first <= fit.variant.phi < end  # type: ignore[operator]
        assert laid_out(spec, phi=fit.variant.phi) == costs_of(fit.variant)


def test_every_phi_of_the_interval_gives_the_network_and_no_other() -> None:
    spec = load_spec("efficientnetv2-s")
    fit = fit_budget(spec, "macs=6G")
    first, end = fit.phi_interval
    costing = Costing(spec)
    for share in (0, 0.3, 0.7, 0.999):
        assert costs_of(costing.variant(phi=first + share * (end - first))) == costs_of(fit.variant)
    assert fit.below is not None
    assert costs_of(costing.variant(phi=first - 1e-8)) == costs_of(fit.below)
    assert costs_of(costing.variant(phi=end)) == costs_of(fit.above) != costs_of(fit.variant)


def test_several_budgets_are_all_respected_and_the_binding_one_is_named() -> None:
    spec = load_spec("efficientnet-b0")
    fit = fit_budget(spec, "macs=2G", "params=8M,activations=1G", Budget("memory", 16e9, batch=64))
    assert fit.variant.macs <= 2e9
    assert fit.variant.params <= 8e6 < fit.above.params
    assert [budget.quantity for budget in fit.binding] == ["params"]
    alone = fit_budget(spec, "params=8M")
    assert costs_of(alone.variant) == costs_of(fit.variant)


def test_explicit_multipliers_give_way() -> None:
    assert costs_of(fit_budget(load_spec("efficientnet-b4"), "macs=1G").variant) == costs_of(
        fit_budget(load_spec("efficientnet-b0"), "macs=1G").variant
    )


@pytest.mark.parametrize(
    ("budget", "changes", "message"),
    [
        ("macs=1k", {}, "no variant respects the budget: the smallest, phi = -18.6"),
        ("params=1E12G", {}, "expected a number with k, M, G or T"),
        ("macs=1e6T", {}, "every variant that can be built respects the budget: the largest"),
        ("macs=1G", {"scaling.gamma": 0.9}, "scaling.gamma = 0.9: below 1: it shrinks with phi"),
        ("macs=1G", {"scaling.alpha": None, "scaling.beta": None, "scaling.gamma": None}, "nothing grows with phi"),
        (
            "params=100G",
            {"scaling.alpha": 1.001, "scaling.beta": None, "scaling.gamma": None},
            "every variant respects",
        ),
    ],
)
def test_what_cannot_be_fitted_is_refused(budget: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        fit_budget(load_spec("efficientnet-b0", changes), budget)
    assert message in str(error.value)


def test_latency_is_measured_near_the_answer_only() -> None:
    measured: list[int] = []

    def measure(variant: Variant, budget: Budget) -> float:
        measured.append(variant.macs)
        return variant.macs / 1e12

    fit = fit_budget(load_spec("efficientnet-b0"), "latency=5ms", measure=measure)
    assert fit.variant.macs <= 5e9 < fit.above.macs
    assert max(measured) < 4 * 5e9
    assert len(measured) == len(set(measured)) < 40


@given(low=st.floats(-20, 20), width=st.floats(1e-8, 3))
def test_the_shortest_number_lies_in_the_interval(low: float, width: float) -> None:
    found = shortest_between(low, low + width)
    assert low <= found < low + width
    digits = len(repr(found).partition(".")[2]) if "e" not in repr(found) and not found.is_integer() else 0
    assert (
        all(not low <= round(low, n) + k * 10.0**-n < low + width for n in range(digits) for k in (0, 1)) or digits < 1
    )


# ------------------------------------------------------------------------------------------------ rules

# pycls' models/scaler.py, executed on EfficientNet-B0: depths, stem / widths / head, px, GMACs, M params, activations.
PYCLS = {
    ("fast", 2): ([1, 2, 2, 3, 3, 4, 1], 40, [24, 32, 56, 104, 144, 256, 424], 1688, 232, 0.782, 8.60, 1.51),
    ("fast", 4): ([1, 2, 2, 3, 3, 5, 1], 56, [24, 40, 72, 136, 192, 336, 560], 2232, 240, 1.381, 15.8, 1.98),
    ("d1_w8_g8_r1", 8): ([1, 2, 2, 4, 4, 5, 1], 72, [40, 56, 88, 184, 256, 440, 736], 2944, 248, 2.918, 27.8, 3.19),
    ("fast", 16): ([1, 3, 3, 4, 4, 5, 1], 96, [48, 72, 120, 240, 336, 584, 968], 3880, 256, 5.478, 47.4, 5.08),
    ("dwr", 2): ([1, 3, 3, 4, 4, 5, 1], 32, [16, 24, 48, 88, 128, 216, 360], 1440, 252, 0.792, 7.68, 1.77),
    ("dwr", 4): ([2, 3, 3, 5, 5, 6, 2], 40, [24, 32, 48, 104, 144, 240, 400], 1616, 284, 1.697, 13.2, 3.19),
    ("dwr", 16): ([3, 5, 5, 8, 8, 10, 3], 48, [24, 40, 64, 128, 176, 304, 504], 2032, 356, 6.918, 32.3, 9.47),
}


@pytest.mark.parametrize(("rule", "factor"), PYCLS)
def test_pycls_rules_give_pycls_networks(rule: str, factor: int) -> None:
    depths, stem, widths, head, px, macs, params, activations = PYCLS[rule, factor]
    base = load_spec("efficientnet-b0")
    plan = resolve(base.vary(rule_overrides(rule)), phi=math.log2(factor))
    found = (
        [len(stage.blocks) for stage in plan.stages],
        plan.stem.out_channels,
        [stage.blocks[-1].convs[-1].out_channels for stage in plan.stages],
        plan.head.hidden_size,
        plan.resolution,
    )
    assert found == (depths, stem, widths, head, px)
    total, of_base = analyze(plan).total, analyze(resolve(base)).total
    assert (round(total.macs / 1e9, 3), float(f"{total.params / 1e6:.3g}")) == (macs, params)
    assert round(total.activations / of_base.activations, 2) == activations


@pytest.mark.parametrize("rule", ["depth", "width", "resolution"])
def test_one_dimension_alone_moves_only_that_and_doubles_the_macs(rule: str) -> None:
    spec = load_spec("efficientnet-b0").vary(rule_overrides(rule))
    base, scaled = (resolve(spec, phi=phi) for phi in (0, 2))
    assert (base.depth != scaled.depth, base.width != scaled.width, base.resolution != scaled.resolution) == (
        rule == "depth", rule == "width", rule == "resolution",
    )  # fmt: skip
    assert analyze(scaled).total.macs / analyze(base).total.macs == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("rule", ["", "deep", "d1_x2", "g1", "g", "d1w2", "rwd"])
def test_unknown_rules_are_refused(rule: str) -> None:
    with pytest.raises(ConfigError, match="expected compound, depth, width, resolution, fast"):
        rule_overrides(rule)


# ------------------------------------------------------------------------------------------------ sweeps


def test_a_grid_is_every_combination() -> None:
    spec = load_spec("mobilenetv2-100")
    variants = sweep(spec, depth=[1, 1.5], width=[0.5, 1, 2])
    assert [(variant.depth, variant.width) for variant in variants] == [
        (1, 0.5), (1, 1), (1, 2), (1.5, 0.5), (1.5, 1), (1.5, 2),
    ]  # fmt: skip
    assert [costs_of(variant) for variant in variants] == [
        laid_out(spec, depth=variant.depth, width=variant.width) for variant in variants
    ]


def test_pareto_keeps_what_nothing_beats() -> None:
    variants = sweep(load_spec("efficientnet-b0"), depth=[1, 1.5, 2], width=[0.7, 1, 1.4], resolution=[160, 224])
    front = pareto(variants)
    for variant in variants:
        better = [
            other
            for other in variants
            if other.macs <= variant.macs
            and other.params >= variant.params
            and (other.macs, other.params) != (variant.macs, variant.params)
        ]
        assert (variant in front) == (not better)


@pytest.mark.parametrize(
    ("text", "values"),
    [("0:6:0.5", [i / 2 for i in range(13)]), ("2", [2.0]), ("0.1:0.7:0.1", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
     ("-1:1:1", [-1.0, 0.0, 1.0]), ("0:1:0.4", [0.0, 0.4, 0.8])],
)  # fmt: skip
def test_ranges_hold_both_ends_and_exact_decimals(text: str, values: list[float]) -> None:
    assert parse_range(text, "--phi") == values


@pytest.mark.parametrize("text", ["", "a", "1:2", "3:1:1", "1:2:0", "1:2:-1", "nan", "0:inf:1", "0:1:1e-9", "1:2:3:4"])
def test_bad_ranges_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--phi"):
        parse_range(text, "--phi")


def test_every_mistake_of_a_grid_is_named() -> None:
    with pytest.raises(ConfigError) as error:
        parse_grid("dept=1:2:1,width=1,width=2,height=3,resolution=x,")
    text = str(error.value)
    for part in (
        "did you mean 'depth'?",
        "width is given twice",
        "'height' is no dimension",
        "resolution= x: expected",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"phi": []}, "no values"),
        ({"phi": [math.nan]}, "scaling.phi = nan"),
        ({"width": [0.0]}, "expected a number above 0"),
        (
            {"depth": [1.0] * 1000, "width": [1.0] * 1000},
            "1,000,000 variants, about 200 s; take larger steps: at most 200,000",
        ),
        ({"resolution": [224.0, 4.0]}, "resolution = 4: too small"),
        ({"height": [1.0]}, "unknown key"),
    ],
)
def test_what_cannot_be_swept_is_refused(keywords: dict[str, list[float]], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        sweep(load_spec("efficientnet-b0"), **keywords)  # type: ignore[arg-type]
    assert message in str(error.value)


# ------------------------------------------------------------------------------------------------ budgets


@pytest.mark.parametrize(
    ("text", "budgets"),
    [
        ("macs=1G", [Budget("macs", 1e9)]),
        ("MACs = 1.5 g", [Budget("macs", 1.5e9)]),
        ("params=2e6", [Budget("params", 2e6)]),
        ("memory=8G@batch=128", [Budget("memory", 8e9, 128)]),
        ("memory=8GiB@batch=2", [Budget("memory", 8 * 2.0**30, 2)]),
        ("memory=8G@batch=128,precision=bf16", [Budget("memory", 8e9, 128, precision="bf16")]),
        ("latency=5ms@device=cuda,precision=tf32", [Budget("latency", 5e-3, 1, "cuda", "tf32")]),
        ("latency=5ms@batch=4,device=cuda,macs=1G", [Budget("latency", 5e-3, 4, "cuda"), Budget("macs", 1e9)]),
        ("activations=.5k", [Budget("activations", 500.0)]),
    ],
)
def test_budgets_are_read_as_people_write_them(text: str, budgets: list[Budget]) -> None:
    assert parse_budgets([text]) == budgets


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flops=1G", "'flops' is no quantity; there are params, macs"),
        ("parms=1M", "did you mean 'params'?"),
        ("macs", "expected quantity=amount"),
        ("macs=1X", "macs=1X: expected a number with k, M, G or T"),
        ("macs=1GB", "expected a number with k, M, G or T"),
        ("macs=-1G", "expected a number with"),
        ("macs=0", "expected a finite amount above 0"),
        ("macs=1e400", "expected a finite amount above 0"),
        ("macs=1G@batch=2", "@batch=2: macs has no options"),
        ("memory=1G@bach=2", "@bach=2: memory may have @batch=..."),
        ("memory=1G@batch=0", "batch=0: expected a whole number"),
        ("latency=5ms@device=tpu", "device=tpu: expected cpu or cuda"),
        ("memory=8G@precision=bf6", "precision=bf6: expected fp32, tf32, bf16, fp16; did you mean 'bf16'?"),
        ("latency=5ms@precision=tf32", "precision=tf32: is arithmetic of CUDA devices; add device=cuda"),
        ("macs=1G@precision=bf16", "@precision=bf16: macs has no options"),
        ("latency=5", "latency=5: expected a number with s, ms or us"),
        ("macs=1G,macs=2G", "macs is given twice"),
        ("", "expected quantity=amount"),
    ],
)
def test_bad_budgets_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_budgets([text])
    assert message in str(error.value)


@given(
    text=st.text(max_size=30) | st.from_regex(r"[a-z]{3,8}=[0-9.e]{1,8}[a-zA-Z]{0,3}(@[a-z=0-9,]*)?", fullmatch=True)
)
def test_any_text_is_a_budget_or_refused(text: str) -> None:
    try:
        budgets = parse_budgets([text])
    except ConfigError as error:
        assert error.problems
    else:
        assert all(0 < budget.limit < math.inf for budget in budgets)


def test_bisection_needs_costs_that_grow(along_phi: list[Variant]) -> None:
    """What `fit_budget` rests on, on 14,001 networks."""
    for quantity in ("params", "macs", "activations", "weight_bytes", "training_bytes_per_image"):
        costs = [getattr(variant, quantity) for variant in along_phi]
        assert costs == sorted(costs)
        assert bisect.bisect_right(costs, costs[-1]) == len(costs)
