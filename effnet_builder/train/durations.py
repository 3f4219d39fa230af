"""How long something lasts, as people write it with its unit, converted once into steps. Imports no torch."""

from __future__ import annotations

import difflib
import re
from fractions import Fraction
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, WithJsonSchema

_MAX_LENGTH = 20
# Not zero, epochs with at most six decimals, whole steps.
_PATTERN = r"^(?![0.]+[es])([0-9]{1,6}(\.[0-9]{1,6})?ep|[0-9]{1,9}steps)$"
_ALLOWED = "a duration above 0: epochs ('5ep'), whole steps ('500steps') or a share of the run up to 1 (0.2)"
_UNITS = {
    "ep": "ep",
    "epoch": "ep",
    "epochs": "ep",
    "step": "steps",
    "steps": "steps",
    "iterations": "steps",
    "iters": "steps",
    "updates": "steps",
}

TEXT_SCHEMA: dict[str, Any] = {
    "type": "string",
    "pattern": _PATTERN,
    "maxLength": _MAX_LENGTH,
    "description": "epochs or steps such as 2.4ep or 500steps, in a text",
}
_SCHEMA = {"anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": 1}, TEXT_SCHEMA]}


def is_duration(value: object) -> bool:
    """Whether this is written as a duration is."""
    if isinstance(value, str):
        return len(value) <= _MAX_LENGTH and re.fullmatch(_PATTERN, value) is not None
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1


def check_duration(value: object) -> object:
    """The value, if it is written as a duration is. Raises ValueError with what is allowed and the nearest form."""
    if is_duration(value):
        return value
    close = nearest_duration(value)
    raise ValueError(f"expected {_ALLOWED}" + (f"; did you mean {close}?" if close is not None else ""))


Duration: TypeAlias = Annotated[float | str, BeforeValidator(check_duration), WithJsonSchema(_SCHEMA)]
"""Kept as it was written: `2.4ep` and `500steps` are texts, a share of the whole run is a number. Never zero."""


def length(duration: float | str, *, steps_per_epoch: int, total_steps: int) -> Fraction:
    """The exact number of steps, `epochs * steps_per_epoch` or `share * total_steps`: 2.4 epochs of 6 are 14.4."""
    if not isinstance(duration, str):
        return _written(duration) * total_steps
    if duration.endswith("ep"):
        return Fraction(duration.removesuffix("ep")) * steps_per_epoch
    return Fraction(duration.removesuffix("steps"))


def steps(duration: float | str, *, steps_per_epoch: int, total_steps: int) -> int:
    """The nearest number of steps, halves up, and at least one: what is asked for is never dropped."""
    exact = length(duration, steps_per_epoch=steps_per_epoch, total_steps=total_steps)
    return max(1, int(exact + Fraction(1, 2)))


def nearest_duration(value: object) -> str | None:
    """The duration that was probably meant, as one would write it in YAML, or None."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 1 < value < 1_000_000:
        value = f"{value:g}ep"
    found = re.fullmatch(r"\s*(\d{0,9}\.?\d{1,9})\s*([A-Za-z]{0,12}|%)\s*", value) if isinstance(value, str) else None
    if found is None:
        return None
    number, unit = Fraction(found[1]), found[2].lower()
    if unit in ("", "%"):
        share = float(number / 100 if unit else number)
        return f"{share:g}" if is_duration(share) else nearest_duration(share)
    close = difflib.get_close_matches(unit, _UNITS, n=1)
    text = f"{float(number):.12g}{_UNITS[close[0]]}" if close else ""
    return f"'{text}'" if is_duration(text) else None


def _written(share: float) -> Fraction:
    """0.1 as the tenth that was written, not as the binary number beside it: a tenth of 30 steps is 3."""
    return Fraction(repr(float(share)))
