"""The grid search of compound scaling: every (alpha, beta, gamma) that about doubles the MACs, each network once."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace

from ..config import ConfigError, Mark, Problem, at_most, limit
from .analysis import analyze
from .plan import LayerPlan, Plan
from .resolve import resolve
from .scaling import compound_growth
from .spec import ArchSpec, ScalingWarning

_GROWTH = 2.0  # of the MACs, for each step of phi
_DIGITS = 10  # decimals that are kept of a sum or product of what people write

Point = tuple[float, float, float]
"""`(alpha, beta, gamma)`."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A network of the grid and its cost; `twins` are the other points of the grid that round to the same network."""

    alpha: float
    beta: float
    gamma: float
    plan: Plan
    params: int
    macs: int
    twins: tuple[Point, ...] = ()

    @property
    def spec(self) -> ArchSpec:
        """The network as a spec, which resolves to `plan`."""
        return self.plan.spec

    @property
    def resolution(self) -> int:
        """In px."""
        return self.plan.resolution

    @property
    def growth(self) -> float:
        """`alpha * beta² * gamma²`."""
        return compound_growth(self.alpha, self.beta, self.gamma)

    def __str__(self) -> str:
        return f"alpha {self.alpha:g}, beta {self.beta:g}, gamma {self.gamma:g}"


@dataclass(frozen=True, slots=True)
class Grid:
    """The candidates by alpha, beta and gamma, of how many points, and how many of these have no network."""

    candidates: tuple[Candidate, ...]
    points: int
    refused: int


def candidates(spec: ArchSpec, *, step: float = 0.05, tolerance: float = 0.1) -> Grid:
    """The networks that `grid_points` makes of a spec, at phi = 1; of those that round to the same, the nearest to 2.

    The network as the spec describes it is the one that is scaled: explicit multipliers grow by alpha, beta and gamma.
    Raises ConfigError for a step or a tolerance out of bounds, and where not one point has a network.
    """
    base = resolve(spec)
    found: dict[tuple[LayerPlan, ...], Candidate] = {}
    errors: list[ConfigError] = []
    points = sorted(grid_points(step, tolerance), key=_distance)
    for point in points:
        try:
            plan = _resolve(scaled(base, *point))
        except ConfigError as error:
            errors.append(error)
            continue
        layers = tuple(plan.rows)
        known = found.get(layers)
        found[layers] = replace(known, twins=(*known.twins, point)) if known else _candidate(plan, point)
    if not found:
        raise errors[0]
    kept = sorted(found.values(), key=lambda one: (one.alpha, one.beta, one.gamma))
    return Grid(tuple(kept), len(points), len(errors))


def grid_points(step: float, tolerance: float) -> list[Point]:
    """Every point of the grid 1, 1 + step, ... with `|alpha * beta² * gamma² - 2| <= 2 * tolerance`.

    Tan & Le 2019, section 3.3: `alpha * beta² * gamma²` about 2 (equation 3), none of them below 1. Raises ConfigError.
    """
    if not 0.001 <= step <= 1:
        raise _refuse(f"--step {step:g}", "expected a number from 0.001 to 1")
    if not 0 <= tolerance < 0.5:
        raise _refuse(f"--tolerance {tolerance:g}", "expected a number from 0 below 0.5, a share of the growth 2")
    highest = _GROWTH * (1 + tolerance)
    depths, widths = _axis(highest, step), _axis(math.sqrt(highest), step)
    count = len(depths) * len(widths) ** 2
    if count > limit("points"):
        raise _refuse(f"--step {step:g}", f"a grid of {count:,} points; {at_most('points')}")
    box = ((alpha, beta, gamma) for alpha in depths for beta in widths for gamma in widths)
    points = [point for point in box if _distance(point)[0] <= _GROWTH * tolerance]
    if not points:
        raise _refuse(f"--step {step:g}", f"no point of the grid is within {tolerance:.0%} of the growth 2")
    return points


def scaled(base: Plan, alpha: float, beta: float, gamma: float) -> ArchSpec:
    """The spec of a plan, grown by alpha, beta and gamma: as powers at phi = 1, or as products of its multipliers."""
    depth = None if base.depth == 1 else round(base.depth * alpha, _DIGITS)
    width = None if base.width == 1 else round(base.width * beta, _DIGITS)
    kept = base.resolution == base.spec.resolution
    resolution = None if kept else round(base.resolution * gamma, _DIGITS)
    # Beside three explicit multipliers phi has no effect, and `resolve` would say so.
    phi = 1 if None in (depth, width, resolution) else None
    rule = {"phi": phi, "alpha": alpha, "beta": beta, "gamma": gamma}
    rule |= {"depth": depth, "width": width, "resolution": resolution, "source": None}
    own = {
        "name": f"{base.name[:60]}-a{alpha:g}-b{beta:g}-g{gamma:g}",
        "description": f"{base.name} grown by alpha {alpha:g}, beta {beta:g}, gamma {gamma:g}",
        "source": None,
        "published": None,
    }
    return base.spec.vary(own | {f"scaling.{name}": value for name, value in rule.items()})


def _resolve(spec: ArchSpec) -> Plan:
    """The plan; the tolerance says already how far from 2 the growth may be."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScalingWarning)
        return resolve(spec)


def _candidate(plan: Plan, point: Point) -> Candidate:
    cost = analyze(plan).total
    return Candidate(*point, plan, cost.params, cost.macs)


def _axis(highest: float, step: float) -> list[float]:
    """The steps from 1 to `highest`; a last one that only float arithmetic puts above it counts."""
    return [round(1 + i * step, _DIGITS) for i in range(int((highest - 1) / step + 1e-9) + 1)]


def _distance(point: Point) -> tuple[float, Point]:
    """How far the growth is from 2, and the point to decide between equals."""
    return round(abs(compound_growth(*point) - _GROWTH), _DIGITS), point


def _refuse(flag: str, message: str) -> ConfigError:
    return ConfigError([Problem(message, mark=Mark(flag))])
