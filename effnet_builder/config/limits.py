"""The limits that keep a stranger's spec from taking all memory or time; each names itself and can be raised."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from .errors import ConfigError, Mark, Problem, shorten

LimitName = Literal[
    "kib", "nesting", "values", "files", "channels", "blocks", "stages", "resolution", "multiplier", "weights",
    "points", "variants",
]  # fmt: skip

_HIGHEST = 10**15
_HIGHEST_NESTING = 100  # reading recurses


@dataclass(frozen=True)
class _Limits:
    kib: int = 256  # of one file
    nesting: int = 32  # lists and mappings in one another
    values: int = 10_000  # of one file
    files: int = 8  # that extend one another
    channels: int = 1_000_000
    blocks: int = 1_000
    stages: int = 200
    resolution: int = 65_536  # px
    multiplier: int = 100  # of depth and width
    weights: int = 10**12
    points: int = 100_000  # of the grid that a search lays
    variants: int = 200_000  # of one table


_DEFAULTS = _Limits()
_current: ContextVar[_Limits] = ContextVar("limits", default=_DEFAULTS)


def limit(name: LimitName) -> int:
    """The number that holds here."""
    found: int = getattr(_current.get(), name)
    return found


def at_most(name: LimitName) -> str:
    """How a refusal ends: `at most 1,000 are allowed (--limit blocks=N raises it)`."""
    return f"at most {limit(name):,} are allowed (--limit {name}=N raises it)"


@contextmanager
def limits(**numbers: int) -> Iterator[None]:
    """Other limits inside this `with`, by name: `blocks=5_000`. Raises ConfigError for what is no limit."""
    problems = [_misuse(name, number, Mark(f"limit {shorten(name)}={number}")) for name, number in numbers.items()]
    if found := [problem for problem in problems if problem is not None]:
        raise ConfigError(found)
    token = _current.set(replace(_current.get(), **numbers))
    try:
        yield
    finally:
        _current.reset(token)


def parse_limits(texts: Iterable[str]) -> dict[str, int]:
    """`--limit` arguments, `name=number`, as numbers by name. Raises ConfigError with every mistake."""
    found: dict[str, int] = {}
    problems: list[Problem] = []
    for text in texts:
        mark = Mark(f"--limit {shorten(text)}")
        name, _, number = (part.strip() for part in text.partition("="))
        if not re.fullmatch(r"[0-9]{1,16}", number, re.ASCII):
            problems.append(Problem("expected name=number, such as blocks=5000", mark=mark))
        elif problem := _misuse(name, int(number), mark):
            problems.append(problem)
        else:
            found[name] = int(number)
    if problems:
        raise ConfigError(problems)
    return found


def _misuse(name: str, number: int, mark: Mark) -> Problem | None:
    names = list(asdict(_DEFAULTS))
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
        return Problem(f"there is no such limit; {hint}", mark=mark)
    highest = _HIGHEST_NESTING if name == "nesting" else _HIGHEST
    if not 1 <= number <= highest:
        return Problem(f"expected a whole number from 1 to {highest:,}", mark=mark)
    return None


@dataclass(frozen=True)
class AtMost:
    """Annotates a number, or the length of a list, that a limit bounds; the JSON Schema has the limit's default."""

    name: LimitName

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The annotated schema, and then the check."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The annotated schema with a maximum."""
        found = handler(schema)
        found["maxItems" if found.get("type") == "array" else "maximum"] = getattr(_DEFAULTS, self.name)
        return found

    def _check(self, value: Any) -> Any:
        if (len(value) if isinstance(value, tuple) else value) > limit(self.name):
            raise ValueError(at_most(self.name))
        return value
