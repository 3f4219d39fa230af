"""Many variants of one spec in a row: along phi, or over a grid of multipliers."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation

from ..config import ConfigError, Mark, Problem, at_most, limit, nearest
from .spec import ArchSpec
from .variants import Costing, Variant

DIMENSIONS = ("depth", "width", "resolution")
_PER_SECOND = 5_000  # for the estimate in the refusal; measured in benchmarks/RESULTS.md


def sweep(spec: ArchSpec, phi: Iterable[float] | None = None, **multipliers: Iterable[float]) -> list[Variant]:
    """The variants at each `phi`, or at each combination of `depth`, `width` and `resolution` (px), the last fastest.

    Along phi explicit multipliers give way to the rule; in a grid, dimensions that are not given stay as in the spec.
    Raises ConfigError for a value out of range, for a variant that cannot be built, and for more than 200,000 of them.
    """
    values = {name: list(each) for name, each in (multipliers if phi is None else {"phi": phi}).items()}
    _check(spec, values)
    costing = Costing(spec)
    points = itertools.product(*values.values())
    return [_at(costing, dict(zip(values, point, strict=True))) for point in points]


def _check(spec: ArchSpec, values: Mapping[str, Sequence[float]]) -> None:
    """Refuse too many variants, and values that no spec may have."""
    count = math.prod(len(each) for each in values.values())
    if count > limit("variants"):
        seconds = count / _PER_SECOND
        message = f"{count:,} variants, about {seconds:,.0f} s; take larger steps: {at_most('variants')}"
        raise ConfigError([Problem(message)])
    if not count:
        raise ConfigError([Problem("no values, so that there are no variants")])
    for name, each in values.items():
        for value in {min(each), max(each), *(value for value in each if not math.isfinite(value))}:
            spec.vary({f"scaling.{name}": value})


def _at(costing: Costing, point: Mapping[str, float]) -> Variant:
    try:
        return costing.variant(**point)
    except ConfigError as error:
        where = ", ".join(f"{name} = {value:g}" for name, value in point.items())
        raise ConfigError(
            Problem(f"{where}: {found.message}", found.path, found.value, found.mark) for found in error.problems
        ) from None


def pareto(variants: Iterable[Variant]) -> list[Variant]:
    """The variants that none other beats, by MACs: more params than every one of as few MACs or fewer."""
    front: list[Variant] = []
    for variant in sorted(variants, key=lambda each: (each.macs, -each.params)):
        if not front or variant.params > front[-1].params:
            front.append(variant)
    return front


def parse_range(text: str, argument: str) -> list[float]:
    """`0:6:0.5`, from, to and step, both ends included; or one number. Raises ConfigError."""
    mark = Mark(f"{argument} {text}"[:80])
    parts = text.split(":")
    try:
        numbers = [Decimal(part.strip()) for part in parts]
    except InvalidOperation:
        numbers = []
    if len(numbers) not in (1, 3) or not all(number.is_finite() for number in numbers):
        raise ConfigError([Problem("expected a number, or from:to:step such as 0:6:0.5", mark=mark)])
    if len(numbers) == 1:
        return [float(numbers[0])]
    start, stop, step = numbers
    if step <= 0 or stop < start:
        raise ConfigError([Problem("empty: expected from:to:step with to >= from and step > 0", mark=mark)])
    count = int((stop - start) / step) + 1
    if count > limit("variants"):
        raise ConfigError([Problem(f"{count:,} steps; {at_most('variants')}", mark=mark)])
    # Decimal: 0.1 * 3 is not 0.3 in binary, and would miss or repeat a rounding border.
    return [float(start + i * step) for i in range(count)]


def parse_grid(text: str, argument: str = "--sweep") -> dict[str, list[float]]:
    """`depth=1:3:0.2,width=0.5:2:0.1` as values by dimension. Raises ConfigError with every mistake."""
    grid: dict[str, list[float]] = {}
    problems: list[Problem] = []
    for part in text.split(","):
        name, equals, values = (piece.strip() for piece in part.partition("="))
        mark = Mark(f"{argument} {part.strip()}"[:80])
        if not equals or not re.fullmatch(r"\w+", name):
            problems.append(Problem("expected dimension=from:to:step, such as depth=1:3:0.2", mark=mark))
        elif name not in DIMENSIONS:
            hint = nearest(name, list(DIMENSIONS)) or f"; there are {', '.join(DIMENSIONS)}"
            problems.append(Problem(f"{name!r} is no dimension{hint}", mark=mark))
        elif name in grid:
            problems.append(Problem(f"{name} is given twice", mark=mark))
        else:
            try:
                grid[name] = parse_range(values, f"{argument} {name}=")
            except ConfigError as error:
                problems += error.problems
    if problems:
        raise ConfigError(problems)
    return grid
