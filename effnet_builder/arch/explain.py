"""Where every number of a network comes from: what was written, by what it was multiplied, how it was made whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path as File

from ..config import ConfigError, Mark, Node, Path, Problem, locate, nearest, printable, shipped
from .plan import BlockPlan, Plan
from .resolve import Resolver, merged, resolve
from .rows import AnyRow, Conv
from .settings import Rounding, ScaleWidth
from .spec import ArchSpec, load_spec
from .summary import align


@dataclass(frozen=True, slots=True)
class Origin:
    """Of one number: `base * factor = raw`, made whole by `rounding` as `value`; `where` it was written.

    `cause` names the factor (width, depth, resolution, expand_ratio, se_ratio); it is empty where nothing is scaled.
    """

    path: str
    base: float
    cause: str
    factor: float
    raw: float
    rounding: str
    value: int
    where: str

    @property
    def error(self) -> float:
        """What the rounding added, as a part of the exact number."""
        return self.value / self.raw - 1


@dataclass(frozen=True, slots=True)
class Multiplier:
    """A multiplier of the whole network: its value, how it comes about, and where that is written."""

    name: str
    value: float
    reason: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """The numbers of a network, or of the part at `path`; `coincides` says which shipped networks have the same."""

    name: str
    path: str
    multipliers: tuple[Multiplier, ...]
    origins: tuple[Origin, ...]
    coincides: tuple[str, ...]

    def __str__(self) -> str:
        return render_explanation(self)


def explain(spec: ArchSpec, path: str = "") -> Explanation:
    """Where the numbers of a spec come from: all of them, or those of `stem`, `head`, `resolution` or `stages.3`.

    Raises ConfigError for a spec that is not valid, and for another path.
    """
    plan = resolve(spec)
    explainer = _Explainer(spec, plan)
    part = _part(spec, path)
    origins = tuple(explainer.inside(part) if part[:1] == ("stages",) else explainer.outline(part))
    coincides = () if part else tuple(_coincidences(spec, plan))
    return Explanation(spec.name, path, tuple(explainer.multipliers()), origins, coincides)


def _part(spec: ArchSpec, path: str) -> Path:
    """The part of the spec that a path names. Raises ConfigError."""
    part: Path = tuple(int(piece) if piece.isdigit() else piece for piece in re.findall(r"\w+", path))
    known: list[Path] = [("stem",), ("head",), ("resolution",)]
    known += [row_path for rows in spec.table() for row_path, _ in rows]
    known += [("stages", i) for i in range(len(spec.stages))]
    if part and part not in known:
        names = ["stem", "head", "resolution", *(f"stages.{i}" for i in range(len(spec.stages)))]
        hint = nearest(path, names) or f"; there are {', '.join(names)}"
        raise ConfigError([Problem(f"no such part{hint}", mark=Mark(f"--explain {path}"))])
    return part


class _Explainer:
    """The numbers once more, beside the plan that has them."""

    def __init__(self, spec: ArchSpec, plan: Plan) -> None:
        self.spec, self.plan = spec, plan
        self.scaled = Resolver(spec).scale()

    def multipliers(self) -> Iterator[Multiplier]:
        """Depth, width and resolution."""
        rule = self.spec.scaling
        parts = (("depth", "alpha", self.plan.depth), ("width", "beta", self.plan.width))
        for name, letter, value in (*parts, ("resolution", "gamma", float(self.plan.resolution))):
            power = getattr(rule, letter)
            if getattr(rule, name) is not None:
                node, _ = self._node(("scaling", name))
                # What an argument says has not the source of what the file says.
                source = f" ({rule.source})" if rule.source and node is not None and node.mark.line else ""
                reason = f"explicit, {self._where('scaling', name)}{source}"
            elif power is not None and rule.phi:
                places = f"{self._where('scaling', letter)}, {self._where('scaling', 'phi')}"
                times = f"{self.spec.resolution} px * " if name == "resolution" else ""
                reason = f"{times}{letter} {power:g} ** phi {rule.phi:g}, {places}"
            else:
                reason = "as written: phi is 0" if power is not None else "as written"
            yield Multiplier(name, value, reason)

    def outline(self, part: Path) -> Iterator[Origin]:
        """The scaled numbers, of one part or of all."""
        spec, rounding = self.spec, self.spec.rounding
        if part in ((), ("resolution",)):
            yield self._resolution()
        if part in ((), ("stem",)):
            yield self._width(("stem", "out_channels"), spec.stem.scale_width, rounding.stem, "stem", self.scaled.stem)
        if not part:
            for rows in spec.table():
                for path, row in rows:
                    yield from self._row(path, row)
        if part in ((), ("head",)) and spec.head.out_channels:
            path = ("head", "out_channels")
            yield self._width(path, spec.head.scale_width, rounding.head, "head", self.scaled.head)

    def inside(self, part: Path) -> Iterator[Origin]:
        """The rows of a stage, with the widths inside their first and their other blocks."""
        for rows, stage in zip(self.spec.table(), self.plan.stages, strict=True):
            for (path, row), group in zip(rows, stage.groups, strict=True):
                if path[: len(part)] == part:
                    yield from self._row(path, row)
                    yield from self._block(path, row, group.blocks[0], "first block")
                    if len(group.blocks) > 1:
                        yield from self._block(path, row, group.blocks[1], "other blocks")

    def _row(self, path: Path, row: AnyRow) -> Iterator[Origin]:
        rounding = self.spec.rounding
        yield self._width((*path, "out_channels"), row.scale_width, rounding.stages, "stages", self.scaled.widths[path])
        if path in self.scaled.expanded:
            field, value = (*path, "expand_channels"), self.scaled.expanded[path]
            yield self._width(field, row.scale_width, rounding.stages, "stages", value)
        scales = row.scale_depth and self.plan.depth != 1
        factor = self.plan.depth if scales else 1.0
        text = self._rule(rounding.repeats, "repeats") if scales else ""
        if scales and len(path) == 3:
            text += ", for the whole stage, shared among its rows"
        value = self.scaled.repeats[path]
        yield self._origin((*path, "repeats"), row.repeats, "depth" if scales else "", factor, text, value)

    def _block(self, path: Path, row: AnyRow, block: BlockPlan, which: str) -> Iterator[Origin]:
        channels = block.convs[0].in_channels
        ratio = getattr(row, "expand_ratio", None)
        if block.expansion is not None and ratio is not None:
            output = getattr(row, "expand_base", "input") == "output"
            base = block.convs[-1].out_channels if output else channels
            text = self._rule(self.spec.rounding.expansion, "expansion") if ratio != 1 else ""
            value = block.expansion.out_channels
            yield self._origin((*path, "expand_ratio"), base, "expand_ratio", ratio, text, value, f"expansion, {which}")
        if block.squeeze_excite is not None:
            assert not isinstance(row, Conv)
            rule = merged(self.spec.squeeze_excite, row.squeeze_excite)
            value, expanded = block.squeeze_excite.reduce.out_channels, block.squeeze_excite.reduce.in_channels
            base = channels if rule.base == "input" else expanded
            text, what = describe_rounding(rule.rounding), f"squeeze of the {rule.base}, {which}"
            yield self._origin((*path, "se_ratio"), base, "se_ratio", row.se_ratio, text, value, what)

    def _resolution(self) -> Origin:
        spec, rule = self.spec, self.spec.scaling
        if rule.resolution is not None:
            path: Path = ("scaling", "resolution")
            return self._origin(path, rule.resolution, "", 1.0, self._rule(spec.rounding.resolution, "resolution"),
                                self.plan.resolution, "resolution")  # fmt: skip
        factor = 1.0 if rule.gamma is None else rule.gamma**rule.phi
        text = self._rule(spec.rounding.resolution, "resolution") if factor != 1 else ""
        cause = "resolution" if factor != 1 else ""
        return self._origin(("resolution",), spec.resolution, cause, factor, text, self.plan.resolution)

    def _width(self, path: Path, scaled: ScaleWidth, rounding: Rounding, rule: str, value: int) -> Origin:
        _, base = self._node(path)
        scales = bool(scaled) and self.plan.width != 1
        text = self._rule(rounding, rule) if scales else ""
        if scales and scaled == "up":
            text += ", never below what is written"
        return self._origin(path, base, "width" if scales else "", self.plan.width if scales else 1.0, text, value)

    def _origin(
        self, path: Path, base: float, cause: str, factor: float, rounding: str, value: int, what: str = ""
    ) -> Origin:
        name = str(path[0]) + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path[1:])
        shown = what if path[0] == "scaling" else name.rpartition(".")[0] + f" {what}" if what else name
        return Origin(shown, base, cause, factor, base * factor, rounding, value, self._where(*path))

    def _rule(self, rounding: Rounding, name: str) -> str:
        node, _ = self._node(("rounding", name))
        source = "" if node is None else f" ({_place(node.mark)})"
        return describe_rounding(rounding) + source

    def _node(self, path: Path) -> tuple[Node | None, float]:
        document = self.spec.document
        value: object = self.spec
        for part in path:
            value = value[part] if isinstance(part, int) else getattr(value, part)  # type: ignore[index]
        node = None if document is None else locate(document.root, path)[0]
        return node, value if isinstance(value, int | float) else 0.0

    def _where(self, *path: str | int) -> str:
        node, _ = self._node(path)
        return "default" if node is None else _place(node.mark)


def _place(mark: Mark) -> str:
    """`efficientnet-b0.yaml:24`, or the argument."""
    return f"{File(mark.source).name}:{mark.line}" if mark.line else mark.source


def describe_rounding(rule: Rounding) -> str:
    """A rounding rule in words: `nearest multiple of 8, at least 90 %`."""
    to = f" multiple of {rule.divisor}" if rule.divisor != 1 else ""
    words = {"nearest": f"nearest{to}", "ceil": f"up{to and ' to a' + to}", "floor": f"down{to and ' to a' + to}"}
    text = words.get(rule.mode, "must be whole")
    text += f", at least {rule.limit:.0%}" if rule.mode == "nearest" and rule.limit else ""
    return f"fraction dropped, {text}" if rule.truncate else text


def _coincidences(spec: ArchSpec, plan: Plan) -> Iterator[str]:
    """The shipped networks of the same table whose numbers after scaling are those of the spec."""
    key = Resolver(spec).scale().key
    for name, file in shipped("archspecs").items():
        if file.parent not in _folders(spec):
            continue
        other = load_spec(name)
        if (other.stem, other.stages, other.head.out_channels) != (spec.stem, spec.stages, spec.head.out_channels):
            continue
        scaled = Resolver(other).scale()
        if scaled.key[1:] == key[1:] and (other.scaling, other.name) != (spec.scaling, spec.name):
            same = scaled.resolution == plan.resolution
            but = "" if same else f" but for resolution: {plan.resolution} px here, {scaled.resolution} px there"
            yield f"depth {plan.depth:.4g}, width {plan.width:.4g}: equals {name}{but}"


def _folders(spec: ArchSpec) -> set[File]:
    """The folders of the files that the table comes from."""
    if spec.document is None:
        return {file.parent for file in shipped("archspecs").values()}
    stages, _ = locate(spec.document.root, ("stages",))
    marks = {spec.document.root.mark.source, *([] if stages is None else _sources(stages))}
    return {File(source).resolve().parent for source in marks}


def _sources(node: Node) -> Iterator[str]:
    yield node.mark.source
    children = node.value
    for child in children.values() if isinstance(children, dict) else children if isinstance(children, list) else ():
        yield from _sources(child)


def render_explanation(found: Explanation) -> str:
    """An explanation as a table, a line for each number."""
    rows = []
    for origin in found.origins:
        times = f"x {origin.factor:.4g} ({origin.cause})" if origin.cause else ""
        error = f"{origin.error:+.1%}" if origin.rounding and origin.value != origin.raw else ""
        base, raw = f"{origin.base:g}", f"{origin.raw:.6g}" if origin.cause or origin.rounding else ""
        rows.append((origin.path, base, times, raw, origin.rounding, f"{origin.value:,}", error, origin.where))
    lines = [f"{found.name}{', ' + found.path if found.path else ''}: where its numbers come from", ""]
    lines += [f"{each.name:10}  {each.value:<8.6g}  {printable(each.reason)}" for each in found.multipliers]
    lines += [
        "",
        *align(("number", "written", "times", "exact", "rounding", "is", "off", "written in"), rows, texts=(4, 7)),
    ]
    return "\n".join([*lines, *([""] if found.coincides else []), *found.coincides])
