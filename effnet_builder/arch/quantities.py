"""What a network may cost: quantities with their units, and budgets as people write them, `memory=8G@batch=128`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast, get_args

from ..config import ConfigError, Mark, Problem, nearest
from ..precisions import PRECISIONS, Precision
from .summary import si
from .variants import Variant

Quantity = Literal["params", "macs", "activations", "memory", "latency"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)

_NUMBER = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(?:e([+-]?[0-9]{1,3}))?\s*([a-zA-Zµ]*)")
_DECIMAL = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_BINARY = {"kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30, "tib": 2.0**40}
_UNITS: dict[Quantity, dict[str, float]] = {
    "params": _DECIMAL,
    "macs": _DECIMAL,
    "activations": _DECIMAL,
    "memory": _DECIMAL | _BINARY | {f"{prefix}b": factor for prefix, factor in _DECIMAL.items()},
    "latency": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6},
}
_SHOWN: dict[Quantity, str] = {
    "params": "k, M, G or T",
    "macs": "k, M, G or T",
    "activations": "k, M, G or T",
    "memory": "kB, MB, GB, MiB or GiB",
    "latency": "s, ms or us",
}
_OPTIONS: dict[Quantity, tuple[str, ...]] = {
    "memory": ("batch", "precision"),
    "latency": ("batch", "device", "precision"),
}


@dataclass(frozen=True, slots=True)
class Budget:
    """At most `limit` of a quantity: elements, multiply-adds, bytes of a training step, or seconds of a forward pass.

    `batch` and `precision` count for memory and latency; `device` (cpu, cuda) for latency.
    """

    quantity: Quantity
    limit: float
    batch: int = 1
    device: str = "cpu"
    precision: Precision = "fp32"

    def cost(self, variant: Variant) -> int:
        """What a variant takes of this budget, as far as a plan tells: not its latency."""
        assert self.quantity != "latency"
        if self.quantity == "memory":
            return variant.memory(self.batch, self.precision)
        return int(getattr(variant, self.quantity))

    def show(self, value: float) -> str:
        """An amount of this quantity with its unit: `998.1 M`, `7.912 GB`, `4.871 ms`."""
        if self.quantity == "latency":
            return f"{1e3 * value:.4g} ms"
        return si(value, "B" if self.quantity == "memory" else "")

    def __str__(self) -> str:
        batch = f" at batch size {self.batch:,}" if self.quantity in _OPTIONS else ""
        device = f" on {self.device}" if self.quantity == "latency" else ""
        precision = f" in {self.precision}" if self.precision != "fp32" else ""
        return f"{self.quantity} of at most {self.show(self.limit)}{batch}{device}{precision}"


def parse_budgets(texts: Iterable[str], argument: str = "--fit") -> list[Budget]:
    """Budgets such as `macs=1G`, also several in one text: `macs=1G,latency=5ms@batch=1,device=cpu`.

    Raises ConfigError with every mistake: unknown quantities, options and units, and what is given twice.
    """
    budgets: list[Budget] = []
    problems: list[Problem] = []
    for text in texts:
        mark = Mark(f"{argument} {text}"[:80])
        # A comma also stands between the options of one budget; what follows it says which it is.
        for part in re.split(r",(?!\s*(?:batch|device|precision)\s*=)", text):
            try:
                budgets.append(_parse(part.strip()))
            except ValueError as error:
                problems.append(Problem(str(error), mark=mark))
    if not budgets and not problems:
        problems.append(Problem("expected a budget such as macs=1G", mark=Mark(argument)))
    seen: set[Quantity] = set()
    for budget in budgets:
        if budget.quantity in seen:
            problems.append(Problem(f"{budget.quantity} is given twice; which one holds?", mark=Mark(argument)))
        seen.add(budget.quantity)
    if problems:
        raise ConfigError(problems)
    return budgets


def _parse(text: str) -> Budget:
    body, at, rest = text.partition("@")
    name, equals, amount = (piece.strip() for piece in body.partition("="))
    if not equals:
        raise ValueError(f"expected quantity=amount, such as macs=1G, found {text!r}")
    if name.lower() not in QUANTITIES:
        hint = nearest(name, list(QUANTITIES)) or f"; there are {', '.join(QUANTITIES)}"
        raise ValueError(f"{name!r} is no quantity{hint}")
    quantity = cast(Quantity, name.lower())
    options = _options(quantity, rest) if at else {}
    batch = options.get("batch", "1")
    if not re.fullmatch(r"[1-9][0-9]{0,6}", batch):
        raise ValueError(f"batch={batch}: expected a whole number from 1 to 9,999,999")
    device = options.get("device", "cpu")
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device={device}: expected cpu or cuda")
    precision = options.get("precision", "fp32")
    if precision not in PRECISIONS:
        hint = nearest(precision, list(PRECISIONS))
        raise ValueError(f"precision={precision}: expected {', '.join(PRECISIONS)}{hint}")
    if quantity == "latency" and device == "cpu" and precision == "tf32":
        raise ValueError("precision=tf32: is arithmetic of CUDA devices; add device=cuda")
    return Budget(quantity, _amount(quantity, amount), int(batch), device, precision)


def _amount(quantity: Quantity, text: str) -> float:
    match = _NUMBER.fullmatch(text)
    factor = None if match is None else _UNITS[quantity].get(match[3].lower())
    if match is None or factor is None:
        raise ValueError(f"{quantity}={text}: expected a number with {_SHOWN[quantity]}")
    amount = float(f"{match[1]}e{match[2] or 0}") * factor
    if not 0 < amount < float("inf"):
        raise ValueError(f"{quantity}={text}: expected a finite amount above 0")
    return amount


def _options(quantity: Quantity, text: str) -> dict[str, str]:
    allowed = _OPTIONS.get(quantity, ())
    options: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name not in allowed or not equals:
            known = f"may have @{','.join(f'{option}=...' for option in allowed)}" if allowed else "has no options"
            raise ValueError(f"@{part.strip()}: {quantity} {known}")
        options[name] = value
    return options
