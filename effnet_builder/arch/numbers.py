"""The numbers of a spec after scaling and rounding, and the mistakes that show on the way, each in its place."""

from __future__ import annotations

from typing import Literal

from ..config import Path, Problem, at_most, format_value, limit
from .scaling import distribute, multiplier, round_to
from .settings import Rounding, ScaleWidth
from .spec import ArchSpec

Limit = Literal["small", "large"]


class Numbers:
    """Multipliers, widths, depths and resolution of a spec. Mistakes are gathered, and raised all at once."""

    def __init__(self, spec: ArchSpec) -> None:
        self.spec = spec
        rule = spec.scaling
        self.problems: list[Problem] = []
        self.limits: set[Limit | None] = set()
        self.depth = multiplier(rule.depth, rule.alpha, rule.phi)
        self.width = multiplier(rule.width, rule.beta, rule.phi)
        if rule.phi and (rule.alpha, rule.beta, rule.gamma) == (None, None, None):
            self.refuse("the spec has no alpha, beta or gamma to raise to phi", ("scaling", "phi"), rule.phi)

    def resolution(self) -> int:
        """The image size in px."""
        spec, rule = self.spec, self.spec.scaling
        if rule.resolution is None:
            factor = multiplier(None, rule.gamma, rule.phi)
            if factor == 1:
                return spec.resolution
            exact, path = spec.resolution * factor, self.cause("resolution")
        else:
            exact, path = rule.resolution, ("scaling", "resolution")
        # Compared before rounding: rounding never gives less than one px.
        if not 1 <= exact <= limit("resolution"):
            allowed = "at least 1 is needed" if exact < 1 else at_most("resolution")
            message = f"an image of {exact:,.6g} px; {allowed}"
            self.refuse(message, path, self.value(path), limit="small" if exact < 1 else "large")
            return 1
        return self.round(exact, spec.rounding.resolution, path)

    def scaled(self, channels: int, scaled: ScaleWidth, rule: Rounding, path: Path) -> int:
        """Channels times the width multiplier, as far as it applies; `up`: never fewer than written."""
        if not scaled or self.width == 1:
            return channels
        rounded = self.round(channels * self.width, rule, path)
        if scaled == "up":
            rounded = max(channels, rounded)
        if rounded > limit("channels"):
            message = f"{count(rounded)} channels after scaling; {at_most('channels')}"
            self.refuse(message, path, channels, limit="large")
        return rounded

    def depths(self) -> dict[Path, int]:
        """Blocks of every row: a stage's total is scaled and rounded, and its rows share it."""
        depths: dict[Path, int] = {}
        for rows in self.spec.table():
            depths |= {path: row.repeats for path, row in rows}
            scaled = [path for path, row in rows if row.scale_depth]
            if scaled and self.depth != 1:
                repeats = [depths[path] for path in scaled]
                total = self.round(sum(repeats) * self.depth, self.spec.rounding.repeats, (*scaled[0], "repeats"))
                depths |= dict(zip(scaled, distribute(total, repeats), strict=True))
        if sum(depths.values()) > limit("blocks"):
            message = f"{count(sum(depths.values()))} blocks; {at_most('blocks')}"
            self.refuse(message, self.cause("depth"), None, limit="large")
        return depths

    def round(self, value: float, rule: Rounding, path: Path) -> int:
        """A number made whole; refused in the place it comes from where the rule is `none` and it is not."""
        try:
            return round_to(value, rule.mode, rule.divisor, rule.limit, rule.truncate)
        except ValueError as error:
            self.refuse(f"{error} after scaling, and its rounding mode is 'none'", path, self.value(path))
            return 1

    def cause(self, dimension: str) -> Path:
        """The path of what sets a multiplier."""
        explicit = getattr(self.spec.scaling, dimension) is not None
        return ("scaling", dimension) if explicit else ("scaling", "phi") if self.spec.scaling.phi else ("stages",)

    def value(self, path: Path) -> object:
        """What the spec says there."""
        value: object = self.spec
        for part in path:
            value = value[part] if isinstance(value, tuple) and isinstance(part, int) else getattr(value, str(part))
        return value

    def refuse(self, message: str, path: Path, value: object, limit: Limit | None = None) -> None:
        """Note a mistake; `limit` where another size of the same network would have none."""
        self.limits.add(limit)
        self.problems.append(Problem(message, path, None if value is None else format_value(value)))

    def stop_on_problems(self) -> None:
        """Raise what was noted."""
        if self.problems:
            raise self.spec.error(dict.fromkeys(self.problems))


class RowNumbers:
    """The numbers inside the blocks of one row, by the network's rules; mistakes stand in the row's fields."""

    def __init__(self, numbers: Numbers, path: Path, squeezing: Rounding) -> None:
        self.numbers, self.path = numbers, path
        self.rules = {"se_ratio": squeezing, "expand_ratio": numbers.spec.rounding.expansion}

    def width(self, value: float, field: str) -> int:
        """A width made whole by the rule for this field."""
        return self.numbers.round(value, self.rules[field], (*self.path, field))

    def groups(self, in_channels: int, out_channels: int, size: int | None) -> int:
        """Groups of `size` output channels; one where there is no size."""
        if size is None:
            return 1
        groups = out_channels // size
        if out_channels % size or in_channels % groups:
            message = f"groups of {size:,} do not divide {in_channels:,} input and {out_channels:,} output channels"
            self.numbers.refuse(message, (*self.path, "group_size"), size)
            return 1
        return groups


def count(number: int) -> str:
    """A number as text, short also where it is absurd."""
    return f"{number:,}" if number < 10**15 else f"{number:.3g}"
