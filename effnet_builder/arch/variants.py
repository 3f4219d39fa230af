"""Many variants of one spec, and what each costs: a block that several of them have is laid out and counted once."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace

from ..config import ConfigError
from ..precisions import Precision, kept_bytes
from .analysis import Cost, Counter, RowCost
from .memory import Tape
from .numbers import Limit
from .resolve import Place, Placed, Resolver, Scaled
from .scaling import drop_path_rate
from .spec import ArchSpec

_Numbers = tuple[int, ...]  # the fields of a Cost


@dataclass(frozen=True, slots=True)
class Variant:
    """A network of a scaled spec, for one image: what it is called by, and what it costs. Resolution in px."""

    phi: float | None
    depth: float
    width: float
    resolution: int
    params: int
    macs: int
    activations: int
    weight_bytes: int
    training_bytes_per_image: int

    def memory(self, batch: int, precision: Precision = "fp32") -> int:
        """Return the bytes of a training step: weights, gradients, momentum, and what autograd keeps of `batch`."""
        kept = kept_bytes(precision, batch * self.training_bytes_per_image, self.weight_bytes)
        return 3 * self.weight_bytes + kept


class OutOfRangeError(ConfigError):
    """A variant is too small for its strides, or larger than any machine holds."""

    limit: Limit


class Costing:
    """Costs along the scaling rule of a spec; equal to `analyze(resolve(...)).total`, which lays out every layer."""

    def __init__(self, spec: ArchSpec) -> None:
        self.spec = spec
        self._counted: dict[Hashable, tuple[_Numbers, bool]] = {}

    def scale(self, **scaling: float | None) -> tuple[Resolver, Scaled]:
        """The numbers with these values in `scaling`. Raises OutOfRangeError, and ConfigError for mistakes."""
        # Not `vary`: it checks the whole document again, which takes longer than all the rest.
        spec = self.spec.model_copy(update={"scaling": self.spec.scaling.model_copy(update=scaling)})
        resolver = Resolver(spec)
        with _located(self.spec, resolver):
            return resolver, resolver.scale()

    def variant(self, phi: float | None = None, **multipliers: float | None) -> Variant:
        """The variant at `phi`, or with these multipliers. Raises OutOfRangeError, and ConfigError for mistakes."""
        if phi is not None:
            multipliers = {"phi": phi, "depth": None, "width": None, "resolution": None} | multipliers
        return self.cost(phi, *self.scale(**multipliers))

    def cost(self, phi: float | None, resolver: Resolver, scaled: Scaled) -> Variant:
        """The variant of numbers that are scaled already. Raises OutOfRangeError, and ConfigError for mistakes."""
        numbers = resolver.numbers
        with _located(self.spec, resolver):
            cost = self._total(resolver, scaled)
            resolver.check_weights(cost.params)
            numbers.stop_on_problems()
        return Variant(
            phi, numbers.depth, numbers.width, scaled.resolution, cost.params, cost.macs, cost.activations,
            cost.weight_bytes, 4 * cost.saved,
        )  # fmt: skip

    def _total(self, resolver: Resolver, scaled: Scaled) -> Cost:
        drop_path, blocks = self.spec.drop_path, sum(scaled.repeats.values())
        total, is_kept = self._stem(resolver, scaled)
        index = 0
        for placed in resolver.rows(scaled):
            for place, times in _runs(placed):
                drops = drop_path_rate(drop_path.rate, drop_path.schedule, index, blocks) > 0
                numbers, is_kept = self._block(resolver, placed, place, is_kept, drops)
                total = tuple(a + times * b for a, b in zip(total, numbers, strict=True))
                index += times
        numbers, _ = self._head(resolver, scaled, placed.rest, is_kept)
        return Cost(*(a + b for a, b in zip(total, numbers, strict=True)))

    def _stem(self, resolver: Resolver, scaled: Scaled) -> tuple[_Numbers, bool]:
        key = ("stem", scaled.stem, scaled.resolution)
        if key not in self._counted:
            counter = Counter(Tape(self.spec.in_channels * scaled.resolution**2))
            self._keep(key, resolver, counter, [counter.conv(resolver.stem(scaled))])
        return self._counted[key]

    def _block(
        self, resolver: Resolver, placed: Placed, place: Place, is_kept: bool, drops: bool
    ) -> tuple[_Numbers, bool]:
        key = (placed.path, place, placed.out_channels, placed.expanded, is_kept, drops)
        if key not in self._counted:
            counter = Counter(Tape(place.in_channels * place.resolution**2, is_kept))
            block = resolver.block(placed, place, f"stages.{placed.stage}.0", 0.5 * drops)
            self._keep(key, resolver, counter, list(counter.block(block)))
        return self._counted[key]

    def _head(self, resolver: Resolver, scaled: Scaled, last: Place, is_kept: bool) -> tuple[_Numbers, bool]:
        key = ("head", scaled.head, last, is_kept)
        if key not in self._counted:
            counter = Counter(Tape(last.in_channels * last.resolution**2, is_kept))
            head = resolver.head(scaled, last.in_channels, last.resolution)
            self._keep(key, resolver, counter, list(counter.head(head)))
        return self._counted[key]

    def _keep(self, key: Hashable, resolver: Resolver, counter: Counter, rows: list[RowCost]) -> None:
        """Keep the sum of a part for the variants that have it too; a part with mistakes is none."""
        resolver.numbers.stop_on_problems()
        cost = replace(sum((row.cost for row in rows), Cost()), saved=counter.tape.kept)
        self._counted[key] = astuple(cost), counter.tape.is_kept


def _runs(placed: Placed) -> Iterator[tuple[Place, int]]:
    """The first block, the second, and how many follow, each behind one of its kind."""
    yield placed.first, 1
    if placed.repeats > 1:
        yield placed.rest, 1
    if placed.repeats > 2:
        yield placed.rest, placed.repeats - 2


@contextmanager
def _located(spec: ArchSpec, resolver: Resolver) -> Iterator[None]:
    """Mistakes with their places in the document, and OutOfRangeError where they are one of size only."""
    try:
        yield
    except ConfigError as error:
        limits = resolver.numbers.limits
        located = spec.error(error.problems)
        if len(limits) != 1 or None in limits:
            raise located from None
        out = OutOfRangeError(located.problems)
        (out.limit,) = limits  # type: ignore[assignment]
        raise out from None
