"""What all parts know: the device, whether its speed means anything, where results go."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_LINES_OF_OUTPUT = 25


@dataclass(frozen=True)
class Setting:
    """The device and the sizes of a benchmark. `name` is that of the GPU, or `cpu`."""

    out: Path
    name: str
    tiny: bool
    data: str | None

    @property
    def device(self) -> str:
        """Return `cuda` or `cpu`."""
        return "cpu" if self.name == "cpu" else "cuda"

    @property
    def real(self) -> bool:
        """Return whether figures of speed mean anything, and Triton's kernels run."""
        return self.device == "cuda" and not self.name.startswith("Fake")

    @property
    def needs_real(self) -> str:
        """Return why a case that needs the kernels of a real GPU is skipped."""
        return f"needs the kernels of a real GPU, and this is {'the CPU' if self.device == 'cpu' else 'a fake one'}"


@dataclass(frozen=True)
class Ended:
    """How a process ended: `code` is None if it was killed for taking too long. `output` is its last lines."""

    code: int | None
    output: str

    @property
    def reason(self) -> str:
        """Return the exit code, the signal, or that the time was over, in words."""
        if self.code is None:
            return "killed: it took too long"
        return f"ended by signal {-self.code}" if self.code < 0 else f"exit code {self.code}"


def run(
    command: list[str],
    seconds: float,
    *,
    group: bool = False,
    on_line: Callable[[str], None] | None = None,
    on_start: Callable[[subprocess.Popen[str]], None] | None = None,
) -> Ended:
    """Run a process for at most some seconds, whatever its exit code.

    `group`: it gets a process group of its own, of which nothing is left when this returns. `on_line` is called with
    each line of its output, `on_start` once, with the process.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*_python_path(), str(ROOT)]), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=group,
    )  # fmt: skip
    tail: deque[str] = deque(maxlen=_LINES_OF_OUTPUT)

    def pass_on() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            tail.append(line.rstrip())
            if on_line is not None:
                on_line(line.rstrip())

    reader = threading.Thread(target=pass_on, daemon=True)
    reader.start()
    code: int | None = None
    try:
        if on_start is not None:
            on_start(process)
        with suppress(subprocess.TimeoutExpired):
            code = process.wait(max(1.0, seconds))
    finally:
        if group:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
        process.kill()
        process.wait()
        reader.join(5)
    return Ended(code, "\n".join(tail))


def command_of(module: str) -> list[str]:
    """Return the start of a command of the project, such as `train` for train-arch."""
    return [sys.executable, "-c", f"from effnet_builder.cli.{module} import main; main()"]


def _python_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", str(ROOT))]
