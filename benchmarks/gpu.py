"""Ten minutes on a GPU: numbers against the CPU first, then whole runs, then speed. Each result is written at once.

python benchmarks/gpu.py --out FOLDER [--data folder:DIR] [--parts PART ...] [--tiny] [--budget SECONDS]

{parts}

The seconds are estimates for an H100, not measured, and for --tiny, measured on one core with the fake GPU. A part that
is estimated to take longer than what is left of the budget is skipped. Each part is a process of its own, so that the
next part does not inherit a broken device. When a part's time is over (its estimate and what earlier parts saved, half
as much again for tests, check and run), its remaining cases are skipped; if it hangs, it is killed. A case that raises
is a row with its error, and the next one runs.

FOLDER/results.jsonl gets each row as soon as it exists, results.md and results.json are written after each part. The
exit code is 1 if a check failed or anything raised. With the same FOLDER, parts that are run again replace their rows.
Without a GPU, or on the fake one (python tests/fakegpu benchmarks/gpu.py --out FOLDER), it runs in small to its end.
"""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from gpu_parts.results import BAD, Rows, Values, describe, read, write
from gpu_parts.setting import Setting, run


@dataclass(frozen=True)
class Part:
    """A part is `function` of a module of gpu_parts; `seconds` on an H100, `tiny` on one core, are estimates.

    `patience` is how much of its time a part may take: correctness comes before speed.
    """

    name: str
    about: str
    module: str
    function: str
    seconds: float
    tiny: float
    patience: float = 1.0


PARTS = (
    Part("environment", "card, driver, versions, rates of copies", "environment", "environment", 15, 10),
    Part("tests", "pytest tests/test_cuda*.py", "tests", "tests", 80, 30, 1.5),
    Part("check", "network, input path, optimizers, precisions against the CPU", "check", "check", 60, 60, 1.5),
    Part("run", "train-arch, SIGTERM and --resume, eval-arch, predict-arch", "runs", "runs", 80, 80, 1.5),
    Part("speed", "the engine's training step and forward pass, B0", "speed", "speed", 150, 30),
    Part("train", "cifar10-fast7 in bf16, one seed: accuracy, images/s", "runs", "train", 90, 20),
    Part("compare", "B0 of this package, timm, torchvision, compiled", "compare", "compare", 120, 25),
)
_BY_NAME = {part.name: part for part in PARTS}
_NO_SPEED = "Figures of speed mean nothing here: they are those of {device}."
_PROBE = "import torch; print('device:', torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu')"
_PROBE_SECONDS = 120.0
_SECONDS_TO_END = 20.0


def main() -> int:
    """Run the parts; the exit code."""
    options = _parse()
    if options.part_in_this_process is not None:
        return _run_here(options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what is under way is ended
    end = time.monotonic() + options.budget
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    name, error = _device()
    setting = Setting(options.out, name, options.tiny, options.data)
    if not setting.real and options.tiny is None:
        setting = Setting(options.out, name, True, options.data)
    notes = [f"Device: {name}. Parts in {'small' if setting.tiny else 'full size'}, budget {options.budget:.0f} s."]
    if not setting.real:
        notes.insert(0, _NO_SPEED.format(device="the CPU" if setting.device == "cpu" else f"a fake GPU ({name})"))
    print(*notes, sep="\n", flush=True)
    path = options.out / "results.jsonl"
    wanted = [part for part in PARTS if part.name in options.parts]
    kept = [row for row in read(path) if row["part"] not in options.parts and row["part"] != "device"]
    path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    if error is not None:
        Rows(path, "device").add("start of the GPU", "error", **error)
    for number, part in enumerate(wanted):
        try:
            _run_part(part, wanted[number + 1 :], setting, path, end)
        finally:
            write(options.out, notes, read(path))
    rows = read(path)
    bad = [f"{row['part']}: {row['case']}" for row in rows if row["status"] in BAD]
    print(*notes[: 0 if setting.real else 1], f"{len(rows)} rows in {path.parent}, {len(bad)} bad", *bad, sep="\n")
    return 1 if bad else 0


def _run_part(part: Part, later: list[Part], setting: Setting, path: Path, end: float) -> None:
    """Run a part in a process of its own, and record how it ended."""
    rows, left = Rows(path, part.name), end - time.monotonic()
    needed = _seconds(part, setting)
    print(f"\n{part.name}: {part.about}; about {needed:.0f} s of {max(0.0, left):.0f} s that are left", flush=True)
    if needed > left:
        rows.skip("part", f"takes about {needed:.0f} s, {max(0.0, left):.0f} s of the budget are left")
        return
    # What is saved by a part that is faster than estimated goes to the next ones.
    seconds = min(left, part.patience * max(needed, left - sum(_seconds(other, setting) for other in later)))
    command = [
        sys.executable,
        str(Path(__file__).resolve()),
        "--part-in-this-process",
        part.name,
        "--out",
        str(setting.out),
    ]
    command += ["--device-name", setting.name, "--budget", f"{seconds:.1f}", "--tiny" if setting.tiny else "--no-tiny"]
    command += [] if setting.data is None else ["--data", setting.data]
    start = time.monotonic()
    # Cases are skipped when the time is over; only one that hangs is killed.
    ended = run(
        command, max(needed, min(1.5 * seconds, left)), group=True, on_line=lambda line: print(line, flush=True)
    )
    took = time.monotonic() - start
    if ended.code == 0:
        rows.add("part", "ok", seconds=took, estimated_seconds=needed)
    else:
        rows.add("part", "error", error=ended.reason, seconds=took, estimated_seconds=needed, output=ended.output)


def _run_here(options: argparse.Namespace) -> int:
    """Run a part in this process; exit code 0 if it came to its end, whatever its cases did."""
    part = _BY_NAME[options.part_in_this_process]
    rows = Rows(options.out / "results.jsonl", part.name, options.budget)
    setting = Setting(options.out, options.device_name, bool(options.tiny), options.data)
    try:
        work = getattr(importlib.import_module(f"gpu_parts.{part.module}"), part.function)
        work(setting, rows)
    except Exception as error:
        rows.add(part.function, "error", **describe(error))
    return 0


def _device() -> tuple[str, Values | None]:
    """Return the GPU's name, or `cpu`, asked in a process of its own, so that this one holds no memory there."""
    ended = run([sys.executable, "-c", _PROBE], _PROBE_SECONDS)
    for line in ended.output.splitlines():
        if line.startswith("device: "):
            return line.removeprefix("device: "), None
    return "cpu", {"error": f"torch does not start: {ended.reason}", "output": ended.output}


def _seconds(part: Part, setting: Setting) -> float:
    return part.tiny if setting.tiny else part.seconds


def _table() -> str:
    lines = [f"{'part':12} {'H100, s':>7} {'tiny, s':>7}"]
    lines += [f"{part.name:12} {part.seconds:7.0f} {part.tiny:7.0f}   {part.about}" for part in PARTS]
    return "\n".join(lines)


def _parse() -> argparse.Namespace:
    description = (__doc__ or "").replace("{parts}", _table())
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results and of the runs")
    parser.add_argument("--data", help="images of the part train, as train-arch takes it: folder:DIR, cifar10:DIR")
    names = [part.name for part in PARTS]
    parser.add_argument("--parts", nargs="+", choices=names, default=names, metavar="PART", help=", ".join(names))
    parser.add_argument(
        "--tiny", action=argparse.BooleanOptionalAction, help="everything small; the default without a real GPU"
    )
    parser.add_argument("--budget", type=float, default=600, metavar="SECONDS", help="for all parts (default: 600)")
    parser.add_argument("--part-in-this-process", choices=names, help=argparse.SUPPRESS)
    parser.add_argument("--device-name", default="cpu", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
