"""Fuzzing by bytes, led by coverage: atheris, which is no dependency of the tests (pip install atheris, Linux).

python tests/fuzz/coverage_guided.py specs --runs 100000
python tests/fuzz/coverage_guided.py safetensors --runs 100000

What it finds it writes as crash-* into the working directory, and ends.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import atheris  # noqa: E402

with atheris.instrument_imports(
    include=["effnet_builder.config", "effnet_builder.arch", "effnet_builder.train.recipe"]
):
    from fuzz_targets import TARGETS, at

BYTES = ("specs", "recipes", "safetensors", "pth")
SEEDS = 200  # inputs of our own fuzzer that it starts from


def main() -> None:
    """Check inputs of one kind until something is found or the runs are over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=BYTES)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    (folder / "target").mkdir()
    (folder / "corpus").mkdir()
    target = TARGETS[options.kind](folder / "target")
    for index in range(SEEDS):
        given = target.make(at(options.kind, options.seed, index))
        data = given if isinstance(given, bytes) else given.encode("utf-8", "surrogatepass")
        (folder / "corpus" / str(index)).write_bytes(data)

    def check(data: bytes) -> None:
        target.check(data)

    arguments = [f"-runs={options.runs}", f"-seed={options.seed}", "-timeout=2", "-rss_limit_mb=2000", "-max_len=65536"]
    atheris.Setup([sys.argv[0], *arguments, str(folder / "corpus")], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
