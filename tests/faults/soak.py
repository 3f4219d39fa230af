"""Many trials of each kind of fault: `make soak`, or python tests/faults/soak.py --kind kills --n 200 --seed 0 --jobs 2.

Prints a line for each kind, and for each trial that failed its seed and its folder, which is kept. Exit code 1 then.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
import trials
from harness import Place, command, make_place
from races import race
from trials import Bench, make_bench

Trial = Callable[[Bench, Path, int], int]


@dataclass
class Tally:
    """What the trials of a kind came to."""

    trials: int = 0
    faults: int = 0
    failed: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)


def evaluations(bench: Bench, folder: Path, seed: int) -> int:
    run = folder / "run"
    shutil.copytree(FINISHED[0], run)
    return trials.kill_an_evaluation(bench, folder, seed, run, FIGURES[0])


def writes(bench: Bench, folder: Path, seed: int) -> int:
    _, torn = trials.kill_during_writes(folder, seed, megabytes=[0.5, 4, 16][seed % 3])
    TORN[torn] += 1
    return 1


def corruptions(bench: Bench, folder: Path, seed: int) -> int:
    """A hundred in a copy of one run."""
    run = folder / "run"
    shutil.copytree(FINISHED[0], run)
    found = [trials.corrupt(run, 100 * seed + i) for i in range(100)]
    KINDS.update(kind for kind in found if kind is not None)
    return sum(kind is not None for kind in found)


def races(bench: Bench, folder: Path, seed: int) -> int:
    """A hundred starts of two processes in one directory."""
    OUTCOMES.update(race(folder, seed, 100))
    return 100


OUTCOMES: Counter[str] = Counter()
FINISHED: list[Path] = []
FIGURES: list[str] = []
TORN: Counter[bool] = Counter()
KINDS: Counter[str] = Counter()
TRIALS: dict[str, tuple[Trial, int, str]] = {
    "kills": (trials.kill_at_random_times, 200, "kill -9 of train-arch at random times, up to six of a run"),
    "aimed": (trials.kill_where_it_hurts, 100, "kill -9 inside writes, renames, appends, updates, evaluations"),
    "cache": (trials.kill_while_the_cache_is_built, 50, "kill -9 while images are decoded into a cache"),
    "evaluations": (evaluations, 100, "kill -9 of eval-arch"),
    "signals": (trials.signal_at_random_times, 100, "SIGTERM and SIGINT at random times, four of ten a second time"),
    "writes": (writes, 1000, "kill -9 of a process that does nothing but write checkpoints"),
    "races": (races, 100, "two processes that start in one new directory at once, a hundred times each"),
    "corruptions": (corruptions, 105, "checkpoints harmed: bits, pages, length, header, a pickle in their place"),
}


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder that stays where something failed."""
    folder = Path(tempfile.mkdtemp(prefix="effnet-soak-"))
    yield folder
    shutil.rmtree(folder)


def soak(name: str, bench: Bench, count: int, seed: int, jobs: int) -> Tally:
    """Make the trials, some at once."""
    trial, tally = TRIALS[name][0], Tally()

    def one(number: int) -> tuple[int, str | None]:
        try:
            with workplace() as folder:
                return trial(bench, folder, number), None
        except Exception as error:  # the others go on
            return 0, f"seed {number}, {folder}: {type(error).__name__}: {str(error)[:2000]}"

    with ThreadPoolExecutor(jobs) as pool:
        for faults, failure in pool.map(one, range(seed, seed + count)):
            tally.trials += 1
            tally.faults += faults
            if failure is not None:
                tally.failed.append(failure)
                print(f"FAILED {name}: {failure}", flush=True)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", action="append", choices=TRIALS, help="which faults; all if not given")
    parser.add_argument("--n", type=int, help="trials of each kind, instead of its own number")
    parser.add_argument("--seed", type=int, default=0, help="of the first trial; the others follow")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="trials at a time")
    options = parser.parse_args()
    failed = 0
    with workplace() as folder:
        place: Place = make_place(folder)
        (folder / "undisturbed").mkdir()
        bench = make_bench(place, folder / "undisturbed")
        FINISHED.append(folder / "undisturbed" / "run")
        FIGURES.append(command([FINISHED[0]], folder, program="evaluate").out.replace(str(FINISHED[0]), ""))
        print(
            f"torch {torch.__version__}, Python {sys.version.split()[0]}, seed {options.seed}, {options.jobs} at a time"
        )
        print("| what | trials | faults | not as undisturbed | minutes |\n|---|---|---|---|---|")
        for name in options.kind or TRIALS:
            start = time.monotonic()
            tally = soak(name, bench, options.n or TRIALS[name][1], options.seed, options.jobs)
            failed += len(tally.failed)
            minutes = (time.monotonic() - start) / 60
            print(
                f"| {TRIALS[name][2]} | {tally.trials:,} | {tally.faults:,} | {len(tally.failed)} | {minutes:.1f} |",
                flush=True,
            )
        if TORN:
            print(f"of the writes that were killed, {TORN[True]:,} left a file half written")
        if OUTCOMES:
            print(f"of the races: {', '.join(f'{outcome} {count:,}' for outcome, count in sorted(OUTCOMES.items()))}")
        if KINDS:
            print(f"corruptions: {', '.join(f'{kind} {count:,}' for kind, count in KINDS.most_common())}")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
