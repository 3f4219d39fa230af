"""Rows of results: each is on disk the moment it exists, and a case that fails does not end the others."""

from __future__ import annotations

import json
import math
import os
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

Values = dict[str, Any]
Status = Literal["ok", "failed", "error", "skipped"]
"""`failed`: a check found a difference above its bound. `error`: the case raised, or its process failed."""

BAD = ("failed", "error")
_LINES_OF_TRACEBACK = 12
_FIRST_COLUMNS = ("case", "status")
_NOT_IN_TABLES = ("part", "traceback", "output")


class Rows:
    """Appends the rows of one part to a file of JSON lines.

    `seconds` is the time that the part has. A case that asks for more than is left of it is skipped.
    """

    def __init__(self, path: Path, part: str, seconds: float = math.inf) -> None:
        self.path = path
        self.part = part
        self._end = time.monotonic() + seconds

    @property
    def seconds_left(self) -> float:
        """Return the seconds left of the part's time."""
        return self._end - time.monotonic()

    def add(self, case: str, status: Status, **values: object) -> None:
        """Append a row, wait until it is on disk, and print it."""
        row = {"part": self.part, "case": case, "status": status, **values}
        line = json.dumps(_as_json(row))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        shown = ", ".join(f"{key} {show(value)}" for key, value in values.items() if key not in _NOT_IN_TABLES)
        print(f"  {status:7} {case}{': ' if shown else ''}{shown}", flush=True)

    def skip(self, case: str, reason: str) -> None:
        """Append a row that says why a case was not run."""
        self.add(case, "skipped", reason=reason)

    def measure(self, case: str, work: Callable[[], Values], *, seconds: float = 0.0) -> Values | None:
        """Run a case and append what it returns, or the error that it raises; skip it if there is no time for it.

        `seconds` is an estimate of how long it takes. A result with `passed: False` is a failed check. Returns the
        result, None if there is none.
        """
        if self.seconds_left < seconds:
            self.skip(case, f"takes about {seconds:.0f} s, {max(0.0, self.seconds_left):.0f} s of the part are left")
            return None
        print(f"  {case} ...", flush=True)  # so that the output of a process that dies ends with the case
        start = time.monotonic()
        try:
            values = work()
        except Exception as error:
            self.add(case, "error", **describe(error), seconds=time.monotonic() - start)
            return None
        passed = values.pop("passed", True)
        self.add(case, "ok" if passed else "failed", **values, seconds=time.monotonic() - start)
        return values


def within(difference: float, bound: float, **others: object) -> Values:
    """Return the values of a check that passes if the difference is at most the bound; NaN does not pass."""
    return {"difference": difference, "bound": bound, "passed": difference <= bound, **others}


def describe(error: BaseException) -> Values:
    """Return type and first line of an error, and the end of its traceback, or of the failed process's output."""
    lines = "".join(traceback.format_exception(error)).rstrip().splitlines()
    first = next(iter(str(error).splitlines()), "")
    values = {"error": f"{type(error).__name__}: {first}"[:300]}
    if output := getattr(error, "output", None):  # of a process, which says more than the traceback of this one
        return {**values, "output": output}
    return {**values, "traceback": "\n".join(lines[-_LINES_OF_TRACEBACK:])}


def read(path: Path) -> list[Values]:
    """Return the rows of a file; a last line that was cut off is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def write(folder: Path, notes: Sequence[str], rows: Iterable[Values]) -> None:
    """Write results.json and results.md."""
    rows = list(rows)
    _replace(folder / "results.json", json.dumps({"notes": list(notes), "rows": rows}, indent=2) + "\n")
    _replace(folder / "results.md", _markdown(notes, rows))


def show(value: object) -> str:
    """Return a number with four digits, anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"


def _markdown(notes: Sequence[str], rows: list[Values]) -> str:
    lines = ["# Ten minutes on a GPU", ""]
    for note in notes:
        lines += [note, ""]
    for part in dict.fromkeys(row["part"] for row in rows):
        lines += [f"## {part}", ""]
        mine = [row for row in rows if row["part"] == part]
        # Cases with the same values share a table.
        for columns in dict.fromkeys(_columns(row) for row in mine):
            lines += [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
            lines += [
                f"| {' | '.join(_cell(row[name]) for name in columns)} |" for row in mine if _columns(row) == columns
            ]
            lines.append("")
        for row in mine:
            for name in ("traceback", "output"):
                if row.get(name):
                    lines += [f"{row['case']}, {name}:", "", "```", str(row[name]), "```", ""]
    return "\n".join(lines)


def _columns(row: Values) -> tuple[str, ...]:
    return (*_FIRST_COLUMNS, *(name for name in row if name not in (*_FIRST_COLUMNS, *_NOT_IN_TABLES)))


def _cell(value: object) -> str:
    return show(value).replace("|", "\\|").replace("\n", " ")


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(path.suffix + ".new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _as_json(value: object) -> object:
    """Return a value with strings for the numbers that JSON does not have."""
    if isinstance(value, dict):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)
