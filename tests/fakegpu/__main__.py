"""Runs a command of the project, or a script, on the fake GPU: `python tests/fakegpu train-arch ... --device cuda`."""

from __future__ import annotations

import argparse
import importlib
import os
import runpy
import sys
from pathlib import Path

# Python puts this folder on the path, whose modules are not to be found under their bare names.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from fakegpu import Unavailable, active  # noqa: E402
from fakegpu.build import environment  # noqa: E402

_COMMANDS = {
    "train-arch": "train",
    "eval-arch": "evaluate",
    "predict-arch": "predict",
    "scale-arch": "scale",
    "build-arch": "build",
}
_SETTINGS = """\
settings, from the environment:
  FAKE_CUDA_DEVICES=1       number of devices
  FAKE_CUDA_BYTES=8589934592  memory of each device
  FAKE_CUDA_ZERO=1          new device memory is zero instead of garbage (NaN)
  FAKE_CUDA_FAIL_AT=N       the device dies at the N-th synchronization
  FAKE_CUDA_NAMES=1         count launches by kernel
  FAKE_PINNED_BYTES=N       limit of pinned memory
  FAKEGPU_COLLECTIVES=FILE  with several ranks: append a line of JSON for each collective of the default group

With WORLD_SIZE > 1, as torchrun sets it, Gloo takes NCCL's place.
"""


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python tests/fakegpu",
        description="Run a command of the project, or a Python script, on the fake GPU.",
        epilog=_SETTINGS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--count", action="store_true", help="compute nothing; print the counts to stderr at the end")
    parser.add_argument("program", help=f"{', '.join(_COMMANDS)}, or the path of a script")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of the program")
    return parser.parse_args(arguments)


def _restart(options: argparse.Namespace) -> None:
    """Execute this program anew, with the stub preloaded. Ends the process with 1 if there is no fake GPU."""
    try:
        variables = environment("count" if options.count else "emulate")
    except Unavailable as error:
        sys.exit(f"no fake GPU: {error.reason}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        variables["FAKEGPU_RANKS"] = "1"
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | variables)


def _run(options: argparse.Namespace) -> None:
    sys.argv = [options.program, *options.arguments]
    module = _COMMANDS.get(options.program)
    if module is not None:
        importlib.import_module(f"effnet_builder.cli.{module}").main()
    else:
        sys.path[0] = str(Path(options.program).resolve().parent)
        runpy.run_path(options.program, run_name="__main__")


def _print_counts() -> None:
    from fakegpu import counts

    done = counts()
    copies = ", ".join(f"{kind}: {copy.calls} ({copy.bytes} bytes)" for kind, copy in done.copies.items() if copy.calls)
    print(f"launches: {done.launches}", f"synchronizations: {done.synchronizations}", f"copies: {copies or 'none'}",
          f"allocations: {done.allocations}", f"pinned allocations: {done.pinned_allocations}",
          sep="\n", file=sys.stderr)  # fmt: skip


def main() -> None:
    """Run this module as a program."""
    options = _parse(sys.argv[1:])
    if not active():
        _restart(options)
    try:
        _run(options)
    finally:
        if options.count:
            _print_counts()


if __name__ == "__main__":
    main()
