"""Fits to budgets: as a whole process, against brute force, beside pycls' rule as published; and how fast sweeps are.

python benchmarks/fit.py [--budgets 1000]
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import time
import warnings
from bisect import bisect_right
from collections.abc import Callable

from effnet_builder import ScalingWarning, fit_budget, load_spec, sweep
from effnet_builder.arch.quantities import Budget
from effnet_builder.arch.rules import rule_overrides
from effnet_builder.arch.variants import Costing

STEP = 0.0005
COMMAND = [
    sys.executable, "-c", "import sys; from effnet_builder.cli.scale import app; app(standalone_mode=False); "
    "assert 'torch' not in sys.modules", "efficientnet-b0", "--fit", "macs=1G",
]  # fmt: skip


def seconds(work: Callable[[], object], runs: int) -> float:
    """The median of several runs, after one to warm up."""
    found = []
    for i in range(runs + 1):
        start = time.perf_counter()
        work()
        found += [time.perf_counter() - start] if i else []
    return statistics.median(found)


def check_against_brute_force(count: int) -> None:
    """Random budgets of random quantities along B0's rule, and a grid of 32,001 phi."""
    spec, generator = load_spec("efficientnet-b0"), random.Random(0)
    grid = sweep(spec, phi=[i * STEP for i in range(-16000, 16001)])
    agreed = 0
    start = time.perf_counter()
    for _ in range(count):
        quantity = generator.choice(("params", "macs", "activations", "memory"))
        budget = Budget(quantity, 1.0, batch=128 if quantity == "memory" else 1)  # type: ignore[arg-type]
        costs = [budget.cost(variant) for variant in grid]
        limit = math.exp(generator.uniform(math.log(costs[5]), math.log(costs[-5])))
        fit = fit_budget(spec, Budget(budget.quantity, limit, budget.batch))
        best = grid[bisect_right(costs, limit) - 1]
        assert best.phi is not None
        first, end = fit.phi_interval
        same = (best.params, best.macs) == (fit.variant.params, fit.variant.macs)
        agreed += (
            budget.cost(fit.variant) <= limit
            and best.phi < end <= best.phi + STEP + 1e-9
            and (same or best.phi < first)
        )
    print(
        f"fits that brute force over 32,001 phi agrees with: {agreed} of {count} ({time.perf_counter() - start:.0f} s)"
    )


def compare_with_pycls(count: int) -> None:
    """MACs of the network / MACs asked for, from B0's 0.39 G up to 40 G."""
    spec, generator = load_spec("efficientnet-b0"), random.Random(1)
    rule = Costing(spec.vary(rule_overrides("fast")))
    base = Costing(spec).variant().macs
    ours, theirs = [], []
    for _ in range(count):
        target = math.exp(generator.uniform(math.log(base), math.log(40e9)))
        ours.append(fit_budget(rule.spec, Budget("macs", target)).variant.macs / target)
        theirs.append(rule.variant(phi=math.log2(target / base)).macs / target)
    for name, ratios in (("fit_budget, rule fast", ours), ("pycls' rule, not corrected", theirs)):
        worst = max(ratios, key=lambda ratio: abs(math.log(ratio)))
        print(
            f"{name:28} median {statistics.median(ratios):.4f}, worst {worst:.4f}, "
            f"over the budget {sum(ratio > 1 for ratio in ratios) / count:.0%}"
        )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", type=int, default=1000)
    count = parser.parse_args().budgets
    warnings.simplefilter("ignore", ScalingWarning)
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}")
    process = seconds(lambda: subprocess.run(COMMAND, check=True, stdout=subprocess.DEVNULL), 7)
    print(f"scale-arch efficientnet-b0 --fit macs=1G, whole process, no torch: {process:.2f} s, median of 7")
    print(f"fit_budget alone: {1e3 * seconds(lambda: fit_budget(load_spec('efficientnet-b0'), 'macs=1G'), 20):.0f} ms")
    check_against_brute_force(count)
    compare_with_pycls(count)
    spec = load_spec("efficientnet-b0")
    hundredths = {"depth": [1 + 0.02 * i for i in range(100)], "width": [0.5 + 0.02 * i for i in range(100)]}
    for name, work in (
        ("10,000 phi from 0 to 6", lambda: sweep(spec, phi=[i * 6e-4 for i in range(10_000)])),
        ("100 depths x 100 widths", lambda: sweep(spec, **hundredths)),
    ):
        taken = seconds(work, 3)
        print(f"sweep of {name}: {taken:.2f} s, {10_000 / taken:,.0f} variants/s")


if __name__ == "__main__":
    main()
