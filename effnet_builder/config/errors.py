"""What a mistake in a spec, recipe or argument is, and the one exception that lists every mistake."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..escaping import printable, printable_lines

Path = tuple[str | int, ...]
"""Where a value stands in a document: `("stages", 2, "stride")` is `stages[2].stride`."""

_MAX_SHOWN = 20
_MAX_VALUE_LENGTH = 60


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """Where a value was written: a file with line and column (both from 1), or a command-line argument."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        if not self.source:
            return ""
        return f"{printable(self.source)}:{self.line}:{self.column}" if self.line else f"{printable(self.source)}:"


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where it stands, what was found there (`value`, already as text), and what is allowed."""

    message: str
    path: Path = ()
    value: str | None = None
    mark: Mark | None = None

    def __str__(self) -> str:
        subject = format_path(self.path)
        if subject and self.value is not None:
            subject += f" = {self.value}"
        message = printable_lines(self.message)  # names in files are anybody's
        return " ".join(filter(None, (str(self.mark or ""), f"{subject}:" if subject else "", message)))


class ConfigError(Exception):
    """A spec, a recipe or an argument is not usable. `problems` holds every mistake, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=_position))
        super().__init__(self.problems)

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems[:_MAX_SHOWN]]
        if len(self.problems) > _MAX_SHOWN:
            lines.append(f"... and {len(self.problems) - _MAX_SHOWN} more")
        return "\n".join(lines)


def format_path(path: Path) -> str:
    """`("stages", 2, "stride")` as `stages[2].stride`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return shorten(text.removeprefix("."))


def format_value(value: object) -> str:
    """A found value as one short line, spelled as YAML spells it."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return shorten(value if isinstance(value, str) else str(value))


def shorten(text: str) -> str:
    """At most 60 printable characters of `text`."""
    if len(text) > _MAX_VALUE_LENGTH:
        text = text[: _MAX_VALUE_LENGTH - 3] + "..."
    return printable(text)


def of_system(error: OSError) -> str:
    """`FILE: No space left on device`: an error of the system as one part of a sentence."""
    return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)


def in_short(error: Exception) -> str:
    """What a library says, as one part of a sentence: its first line, of at most 200 characters, or the type's name."""
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _position(problem: Problem) -> tuple[bool, Mark]:
    return problem.mark is None, problem.mark or Mark("")
