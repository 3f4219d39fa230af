"""Scaling rules by name, as the values that they set in a spec: one dimension alone, or the exponents of pycls."""

from __future__ import annotations

import math
import re

from ..config import ConfigError, Mark, Problem
from .spec import ArchSpec

_WEIGHTS = re.compile(r"(?:[dwgr][0-9]+(?:\.[0-9]+)?)(?:_[dwgr][0-9]+(?:\.[0-9]+)?)*")
_LETTERS = re.compile(r"(?=[dwgr])d?w?g?r?")
_SINGLE = {"depth": ("alpha", 2.0), "width": ("beta", math.sqrt(2)), "resolution": ("gamma", math.sqrt(2))}
_PYCLS = "pycls models/scaler.py; Dollar, Singh & Girshick 2021, arXiv 2103.06877"
_TO_8 = {"mode": "nearest", "divisor": 8, "limit": 0.0, "source": _PYCLS}


def rule_overrides(name: str) -> dict[str, object]:
    """What a rule sets in a spec, by path. In each of them the MACs double with each step of phi.

    compound: nothing, the spec's own rule. depth, width, resolution: one dimension alone (Tan & Le 2019, figure 3).
    fast: `d1_w8_g8_r1`, the fast compound scaling of Dollar et al. 2021. Other weights in this notation, or letters
    alone (`dwr`) of equal weights: depth `s^(d/S)`, width `s^(w/2S)`, resolution `s^(r/2S)` with `s = 2^phi`,
    `S = d + w + r`, and pycls' rounding; `g`, the width of groups, has no effect on depthwise convolutions.
    Raises ConfigError.
    """
    if name == "compound":
        return {}
    if name in _SINGLE:
        return _powers(f"{name} alone", **dict([_SINGLE[name]]))
    weights = _weights("d1_w8_g8_r1" if name == "fast" else name)
    total = weights["d"] + weights["w"] + weights["r"]
    powers = _powers(
        f"{name}: {_PYCLS}",
        alpha=2 ** (weights["d"] / total),
        beta=2 ** (weights["w"] / total / 2),
        gamma=2 ** (weights["r"] / total / 2),
    )
    rounding: dict[str, object] = {f"rounding.{part}": dict(_TO_8) for part in ("stem", "stages", "head")}
    rounding["rounding.repeats"] = {"mode": "nearest", "source": _PYCLS}
    rounding["rounding.resolution"] = {"mode": "nearest", "divisor": 4, "source": _PYCLS}
    return powers | rounding


def powers_of(spec: ArchSpec) -> dict[str, float]:
    """The alpha, beta and gamma that a spec has."""
    powers = {name: getattr(spec.scaling, name) for name in ("alpha", "beta", "gamma")}
    return {name: value for name, value in powers.items() if value is not None}


def _powers(source: str, **powers: float) -> dict[str, object]:
    unset: dict[str, object] = dict.fromkeys(("alpha", "beta", "gamma", "depth", "width", "resolution"))
    return {f"scaling.{key}": value for key, value in (unset | powers | {"source": source}).items()}


def _weights(name: str) -> dict[str, float]:
    weights = dict.fromkeys("dwgr", 0.0)
    if _LETTERS.fullmatch(name):
        weights |= dict.fromkeys(name, 1.0)
    elif _WEIGHTS.fullmatch(name):
        weights |= {part[0]: float(part[1:]) for part in name.split("_")}
    if weights["d"] + weights["w"] + weights["r"] == 0:
        known = "compound, depth, width, resolution, fast, or weights such as d1_w8_g8_r1"
        raise ConfigError([Problem(f"expected {known}", mark=Mark(f"--rule {name}"))])
    return weights
