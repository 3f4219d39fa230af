"""Kills and stops random processes of runs under torchrun: each run must end by itself, with the undisturbed bits.

    python tests/faults/soak_ranks.py --n 50 --seed 0

A quarter of the faults end all processes, an eighth stop one (SIGSTOP), all others kill one (kill -9), at random times.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

LIMIT = 60.0  # seconds from a fault to the next step of training, or to the end of the run
SILENCE = 5  # --timeout
SPEC = "extends: efficientnet-pico\nname: small\nscaling: {width: 0.1, depth: 0.1, resolution: 8}\n"
KEPT = ("model.safetensors", "metrics.csv", "metrics.jsonl", "evaluation.json")
COMMAND = "from effnet_builder.cli.train import main; main()"
TRAINING = [
    "--device", "cpu", "--data", "fake:240x3", "--epochs", "30", "--set", "batch_size=24", "--set", "ema.horizon=9steps",
    "--log-every", "1", "--save-every", "4", "--no-report", "--timeout", f"{SILENCE}",
]  # fmt: skip


@dataclass
class Tally:
    """What was done, and what came of it."""

    faults: dict[str, int] = field(default_factory=lambda: {"one killed": 0, "all killed": 0, "one stopped": 0})
    runs: dict[int, int] = field(default_factory=dict)  # by the number of processes
    longest: dict[str, float] = field(default_factory=dict)  # seconds to the next step
    wrong: list[str] = field(default_factory=list)


class Launched:
    """A run under torchrun."""

    def __init__(self, folder: Path, name: str, count: int, restarts: int) -> None:
        self.run = folder / name
        self.log = (folder / f"{name}.log").open("w+")
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", f"{count}"]
        launcher += [
            "--max-restarts",
            f"{restarts}",
            "--no-python",
            sys.executable,
            "-c",
            COMMAND,
        ]
        root = f"{Path(__file__).parents[2]}"
        paths = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, *launcher, f"{folder / 'small.yaml'}", *TRAINING, "--out", f"{self.run}"],
            stdout=self.log, stderr=subprocess.STDOUT, cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        )  # fmt: skip

    def ranks(self) -> list[int]:
        """The processes that train, without their children."""
        found = subprocess.run(["pgrep", "-P", f"{self.process.pid}"], capture_output=True, text=True, check=False)
        return [int(one) for one in found.stdout.split()]

    def steps(self) -> int:
        """The last step in the log of steps."""
        try:
            lines = (self.run / "metrics.jsonl").read_text().splitlines()
            return max((json.loads(line)["step"] for line in lines), default=0)
        except (OSError, ValueError):
            return 0

    def goes_on(self, before: list[int]) -> bool:
        """Whether processes that were started since are training, or the run is over."""
        if self.process.poll() is not None:
            return True
        marker = self.run / "metrics.jsonl"
        return not set(self.ranks()) & set(before) and marker.exists() and marker.stat().st_mtime > self.disturbed

    def disturb(self, what: str, random_: random.Random) -> list[int]:
        """Harm the processes that there are; none where the run is done and they only leave."""
        ranks = [] if (self.run / "result.json").exists() else self.ranks()
        chosen = ranks if what == "all killed" else random_.sample(ranks, min(1, len(ranks)))
        self.disturbed = time.time()
        for one in chosen:
            try:
                os.kill(one, signal.SIGSTOP if what == "one stopped" else signal.SIGKILL)
            except ProcessLookupError:
                continue
        return ranks


def disturbed_run(folder: Path, name: str, count: int, faults: int, random_: random.Random, tally: Tally) -> None:
    """A run with some faults, and whether it ends as the undisturbed one."""
    launched = Launched(folder, name, count, restarts=3 * faults)
    for _ in range(faults):
        what = random_.choices(list(tally.faults), weights=[5, 2, 1])[0]
        time.sleep(random_.uniform(0.5, 6))
        if launched.process.poll() is not None:
            break
        before = launched.disturb(what, random_)
        if not before:
            continue
        tally.faults[what] += 1
        start = time.monotonic()
        while not launched.goes_on(before):
            if time.monotonic() - start > LIMIT:
                tally.wrong.append(f"{name}: {what}, and no step for {LIMIT:.0f} s")
                break
            time.sleep(0.05)
        taken = time.monotonic() - start
        tally.longest[what] = max(taken, tally.longest.get(what, 0.0))
        print(f"{name}: {what} at step {launched.steps()}, going on after {taken:.1f} s", flush=True)
    try:
        code = launched.process.wait(300)
    except subprocess.TimeoutExpired:
        launched.process.kill()
        code = -1
    tally.runs[count] = tally.runs.get(count, 0) + 1
    if code != 0:
        tally.wrong.append(f"{name}: ended with code {code}; see {launched.log.name}")
    else:
        whole = folder / f"whole-{count}"
        tally.wrong += [
            f"{name}: {file} differs"
            for file in KEPT
            if (launched.run / file).read_bytes() != (whole / file).read_bytes()
        ]


def main() -> None:
    """Until so many faults are done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=50, help="faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for runs and logs, instead of a temporary one")
    given = parser.parse_args()
    random_, tally = random.Random(given.seed), Tally()
    folder = given.keep or Path(tempfile.mkdtemp(prefix="soak-ranks-"))
    folder.mkdir(exist_ok=True)
    (folder / "small.yaml").write_text(SPEC)
    start = time.monotonic()
    for count in (2, 4):
        code = Launched(folder, f"whole-{count}", count, 0).process.wait(600)
        if code:
            raise SystemExit(f"the undisturbed run of {count} processes ended with code {code}; see {folder}")
    number = 0
    while sum(tally.faults.values()) < given.n:
        number += 1
        left = given.n - sum(tally.faults.values())
        disturbed_run(folder, f"run-{number}", 4 if number % 4 == 0 else 2, min(5, left), random_, tally)
    runs = ", ".join(f"{many} of {count} processes" for count, many in sorted(tally.runs.items()))
    print(
        f"seed {given.seed}: {sum(tally.faults.values())} faults in {sum(tally.runs.values())} runs ({runs}), {time.monotonic() - start:.0f} s"
    )
    for what, many in tally.faults.items():
        print(f"{what}: {many}, at most {tally.longest.get(what, 0.0):.1f} s to the next step")
    print("\n".join(tally.wrong) or "all ended with the bits of the undisturbed run")
    if not tally.wrong and given.keep is None:
        shutil.rmtree(folder)
    raise SystemExit(bool(tally.wrong))


if __name__ == "__main__":
    main()
