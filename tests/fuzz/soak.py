"""Fuzzing in volume: every input of a kind, in processes that may hang, die or run out of memory without stopping it.

python tests/fuzz/soak.py --kind specs --n 1000000 --seed 0 --jobs 2
python tests/fuzz/soak.py --kind specs --seed 0 --only 1234

Input number i depends on kind, seed and i alone. Exits with 1 where something was found; each finding is printed with
the number that makes it again, and kept as a file in --keep.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
os.environ.setdefault("OMP_NUM_THREADS", "1")

from fuzz_targets import TARGETS, Target, at  # noqa: E402

HANG = 30.0  # seconds of the clock after which an input is given up; ten times as many to set up
SLOWEST = {"networks": 2.0, "runs": 2.0, "pth": 2.0}  # seconds, where a module is built or a pickle read twice
WARM_UP = 20  # inputs whose time is not counted: they load what is loaded once
ROOM = 4 * 2**30  # bytes of addresses that a process may take
FIELDS = ("index", "done", "accepted", "slow", "worst", "worst_index", "peak", "base", "since")


def work(kind: str, seed: int, first: int, last: int, step: int, shared: Any, keep: str, slowest: float) -> None:
    """Check the inputs first, first + step, ...; the numbers in `shared` are those of FIELDS."""
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{kind}-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    try:
        target = TARGETS[kind](folder)
        resource.setrlimit(resource.RLIMIT_AS, (_addresses() + ROOM, resource.RLIM_INFINITY))
        for number, index in enumerate(range(first, last, step)):
            shared[0], shared[8] = index, time.time()
            given = target.make(at(kind, seed, index))
            start = time.thread_time()
            try:
                shared[2] += target.check(given)
            except Exception:
                report(keep, kind, seed, index, given, traceback.format_exc())
            seconds = time.thread_time() - start
            if number == WARM_UP:
                shared[7] = max(shared[7], _peak())
            if number > WARM_UP:
                if seconds > slowest:
                    seconds = _again(target, given)  # once more: the machine may have been busy
                if seconds > slowest:
                    report(keep, kind, seed, index, given, f"took {seconds:.2f} s")
                if seconds > shared[4]:
                    shared[4], shared[5] = seconds, index
            shared[1] += 1
            shared[6] = _peak()
        shared[0] = -1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _again(target: Target, given: Any) -> float:
    start = time.thread_time()
    try:
        target.check(given)
    except Exception:  # it is reported already
        return 0.0
    return time.thread_time() - start


def report(keep: str, kind: str, seed: int, index: int, given: Any, said: str) -> None:
    """Keep a finding as a file that says all."""
    text = f"soak.py --kind {kind} --seed {seed} --only {index}\n\n{said}\n\n{given!r}\n"
    (Path(keep) / f"{kind}-{seed}-{index}.txt").write_text(text, encoding="utf-8", errors="backslashreplace")
    print(f"FINDING {kind} --seed {seed} --only {index}: {said.strip().splitlines()[-1][:200]}", flush=True)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _addresses() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


class Worker:
    """A process that checks every `jobs`-th input; another takes its place where it hangs or dies."""

    def __init__(self, start: Callable[[int, Any], Any], first: int) -> None:
        self.start = start
        self.shared = multiprocessing.Array("d", len(FIELDS), lock=False)
        self.begun = time.time()
        self.process = start(first, self.shared)

    def watch(self, jobs: int) -> tuple[int, str] | None:
        """What became of an input that stopped the process, if one did; the next process goes on behind it."""
        index = int(self.shared[0])
        allowed = HANG if self.shared[8] else 10 * HANG
        hangs = self.process.is_alive() and index >= 0 and time.time() - (self.shared[8] or self.begun) > allowed
        if self.process.is_alive() and not hangs:
            return None
        if hangs:
            self.process.kill()
        self.process.join()
        if index < 0:
            return None
        said = f"hangs for more than {HANG:.0f} s" if hangs else f"ends the process: exit code {self.process.exitcode}"
        self.shared[8], self.begun = 0.0, time.time()
        self.process = self.start(index + jobs, self.shared)
        return index, said


def soak(kind: str, n: int, seed: int, jobs: int, keep: str, slowest: float) -> int:
    """Check n inputs; the number of findings."""
    context = multiprocessing.get_context(
        "spawn" if kind in ("networks", "pth", "runs", "safetensors", "tar") else "fork"
    )

    def start(first: int, shared: Any) -> Any:
        process = context.Process(target=work, args=(kind, seed, first, n, jobs, shared, keep, slowest), daemon=True)
        process.start()
        return process

    before = set(os.listdir(keep))
    began = time.time()
    workers = [Worker(start, first) for first in range(jobs)]
    while any(worker.process.is_alive() for worker in workers):
        time.sleep(0.2)
        for worker in workers:
            found = worker.watch(jobs)
            if found is not None:
                report(keep, kind, seed, found[0], "--only makes it again", found[1])
    seconds = time.time() - began
    done, accepted = (sum(int(worker.shared[field]) for worker in workers) for field in (1, 2))
    worst = max(workers, key=lambda worker: worker.shared[4]).shared
    grown = max(worker.shared[6] - worker.shared[7] for worker in workers)
    peak = max(worker.shared[6] for worker in workers)
    findings = len(set(os.listdir(keep)) - before)
    print(
        f"{'kind':12} {'inputs':>9} {'accepted':>9} {'refused':>9} {'findings':>8} {'worst s':>8} {'of':>8} {'peak MB':>8} {'grown':>6} {'inputs/s':>9}"
    )
    print(
        f"{kind:12} {done:9,} {accepted:9,} {done - accepted:9,} {findings:8} {worst[4]:8.3f} {int(worst[5]):8} {peak:8.0f} {grown:6.0f} {done / seconds:9.0f}"
    )
    return findings


def main() -> None:
    """Options, then the soak, or one input again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=[*TARGETS, "all"], default="all")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--keep", default="fuzz-findings")
    parser.add_argument(
        "--slowest", type=float, help="seconds of one core an input may take [0.25; 2 for networks, runs, pth]"
    )
    parser.add_argument("--only", type=int, help="check this input alone, and show it")
    options = parser.parse_args()
    kinds = list(TARGETS) if options.kind == "all" else [options.kind]
    if options.only is not None:
        with tempfile.TemporaryDirectory() as folder:
            target = TARGETS[kinds[0]](Path(folder))
            given = target.make(at(kinds[0], options.seed, options.only))
            print(repr(given)[:5000])
            start = time.thread_time()
            print("accepted" if target.check(given) else "refused", f"{time.thread_time() - start:.3f} s")
        return
    os.makedirs(options.keep, exist_ok=True)
    found = sum(
        soak(kind, options.n, options.seed, options.jobs, options.keep, options.slowest or SLOWEST.get(kind, 0.25))
        for kind in kinds
    )
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
