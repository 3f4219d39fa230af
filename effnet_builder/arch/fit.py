"""The largest variant of a spec that respects budgets, found on the networks themselves, as they are after rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..config import ConfigError, Problem
from .quantities import Budget, parse_budgets
from .rules import powers_of
from .spec import ArchSpec
from .variants import Costing, OutOfRangeError, Variant

# Two phi that are as near to each other are not told apart.
_RESOLUTION = 1e-9
_FARTHEST = 100.0  # the bound of `scaling.phi`

Measure = Callable[[Variant, Budget], float]


@dataclass(frozen=True, slots=True)
class Fit:
    """The answer to a fit: every phi from `phi_interval[0]` up to, not including, `phi_interval[1]` gives `variant`.

    `below` and `above` are its neighbours along the rule; `binding` are the budgets that keep `above` out.
    """

    variant: Variant
    phi_interval: tuple[float, float]
    below: Variant | None
    above: Variant
    binding: tuple[Budget, ...]


def fit_budget(spec: ArchSpec, *budgets: str | Budget, measure: Measure | None = None) -> Fit:
    """The largest variant along the spec's rule that respects all budgets (`"macs=1G"`); explicit multipliers give way.

    Where alpha, beta and gamma are at least 1, costs grow with phi, and bisection finds the border; the networks on
    either side of it are laid out and counted. `measure` answers for what no plan tells (latency, in seconds).
    Raises ConfigError for a rule that shrinks something, and where no variant respects the budgets, or every one.
    """
    texts = [budget for budget in budgets if isinstance(budget, str)]
    parsed = [budget for budget in budgets if isinstance(budget, Budget)]
    _check_rule(spec)
    return _Fitting(spec, [*parsed, *(parse_budgets(texts) if texts else [])], measure).run()


def _check_rule(spec: ArchSpec) -> None:
    powers = powers_of(spec)
    shrinking = [name for name, value in powers.items() if value < 1]
    message = "below 1: it shrinks with phi, so that no variant is the largest"
    problems = [Problem(message, ("scaling", name), f"{powers[name]:g}") for name in shrinking]
    if not any(value > 1 for value in powers.values()) and not problems:
        problems = [Problem("no alpha, beta or gamma above 1, so that nothing grows with phi", ("scaling",))]
    if problems:
        raise spec.error(problems)


class _Fitting:
    """Bisections over phi. A variant is known by its numbers, and counted once."""

    def __init__(self, spec: ArchSpec, budgets: list[Budget], measure: Measure | None) -> None:
        self.spec, self.budgets, self.measure = spec, budgets, measure
        self.costing = Costing(spec)
        self._variants: dict[tuple[int, ...], Variant] = {}
        self._measured: dict[tuple[Variant, Budget], float] = {}

    def run(self) -> Fit:
        low, high = _border(self._fits, *self._bracket())
        if self._is_out(low, "small"):
            raise self._refused(high, "no variant respects", "smallest")
        if self._is_out(high, "large"):
            raise self._refused(low, "every variant that can be built respects", "largest")
        before, first = self._start(low)
        # Counted once more, because depth and width differ within an interval.
        below = None if before is None else self.costing.variant(before)
        above, variant = self.costing.variant(high), self.costing.variant(shortest_between(first, high))
        binding = tuple(budget for budget in self.budgets if self._cost(above, budget) > budget.limit)
        return Fit(variant, (first, high), below, above, binding)

    def _bracket(self) -> tuple[float, float]:
        """A phi whose variant fits or is too small, and one above it whose variant does not."""
        # In steps of one where it is measured: a variant that is far too large would take hours.
        growth = 1 if any(budget.quantity == "latency" for budget in self.budgets) else 2
        low, step = 0.0, 1.0
        while not self._fits(low):
            if low == -_FARTHEST:
                raise self._refused(low, "no variant respects", "smallest")
            low, step = max(low - step, -_FARTHEST), step * growth
        high, step = low + 1, 1.0
        while self._fits(high):
            if high == _FARTHEST:
                raise self._refused(high, "every variant respects", "largest")
            low, high, step = high, min(high + step * growth, _FARTHEST), step * growth
        return low, high

    def _start(self, phi: float) -> tuple[float | None, float]:
        """The first phi with the network of `phi`, and before it the last with another, if there is one."""
        key = self._key(phi)

        def is_other(other: float) -> bool:
            return self._is_out(other, "small") or self._key(other) != key

        low, step = phi, 1e-3
        while not is_other(low):
            if low == -_FARTHEST:
                return None, low
            low, step = max(phi - step, -_FARTHEST), 2 * step
        before, first = _border(is_other, low, phi)
        return (None if self._is_out(before, "small") else before), first

    def _fits(self, phi: float) -> bool:
        """Whether a variant respects the budgets, or is too small to be built."""
        try:
            variant = self._variant(phi)
        except OutOfRangeError as error:
            return error.limit == "small"
        return all(self._cost(variant, budget) <= budget.limit for budget in self.budgets)

    def _cost(self, variant: Variant, budget: Budget) -> float:
        if budget.quantity != "latency":
            return budget.cost(variant)
        assert self.measure is not None
        key = (replace(variant, phi=None, depth=0.0, width=0.0), budget)
        if key not in self._measured:
            self._measured[key] = self.measure(variant, budget)
        return self._measured[key]

    def _is_out(self, phi: float, limit: str) -> bool:
        try:
            self._variant(phi)
        except OutOfRangeError as error:
            return error.limit == limit
        return False

    def _key(self, phi: float) -> tuple[int, ...]:
        return self.costing.scale(phi=phi, depth=None, width=None, resolution=None)[1].key

    def _variant(self, phi: float) -> Variant:
        resolver, scaled = self.costing.scale(phi=phi, depth=None, width=None, resolution=None)
        if scaled.key not in self._variants:
            try:
                self._variants[scaled.key] = self.costing.cost(phi, resolver, scaled)
            except OutOfRangeError:
                raise
            except ConfigError as error:  # a width that groups do not divide: the rule has a gap here
                raise ConfigError(
                    replace(found, message=f"at phi = {phi:.6g}: {found.message}") for found in error.problems
                ) from None
        return self._variants[scaled.key]

    def _refused(self, phi: float, what: str, which: str) -> ConfigError:
        variant = self._variant(phi)
        costs = ", ".join(f"{budget.show(self._cost(variant, budget))} of {budget}" for budget in self.budgets)
        return ConfigError([Problem(f"{what} the budget: the {which}, phi = {phi:.6g}, takes {costs}")])


def _border(holds: Callable[[float], bool], low: float, high: float) -> tuple[float, float]:
    """Where a condition ends that holds at `low` and not at `high`: the last phi with it, and the first without."""
    while high - low > _RESOLUTION:
        middle = (low + high) / 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low, high


def shortest_between(low: float, high: float) -> float:
    """The number with the fewest decimals from `low` up to, not including, `high`."""
    for digits in range(16):
        number = round(low, digits)
        if number < low:
            number = round(number + 10.0**-digits, digits)
        if low <= number < high:
            return number
    return low
