"""Worker processes of the real command that die, hang or find no memory: replaced by others, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import Fault, Place, command, differences

ASK = "effnet_builder.train.workers:Worker._ask"
SERVE = "effnet_builder.train.workers:decode_rows"
STREAMED = ("--storage", "stream", "--workers", "2")


def to_worker(signal: str) -> str:
    """A signal to the first worker, from the process that trains."""
    return f"DO\nimport multiprocessing, os, signal\nos.kill(multiprocessing.active_children()[0].pid, signal.{signal})"


@pytest.mark.parametrize("call", [1, 6, 20])
def test_a_worker_that_is_killed_is_replaced(
    place: Place, undisturbed: dict[str, object], call: int, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    ended = command(place.start(run, *STREAMED), tmp_path, Fault(ASK, call, to_worker("SIGKILL")))
    assert ended.code == 0, ended.said()
    (line,) = ended.err.splitlines()
    assert line.startswith(
        "warning: a worker that decodes images was killed by SIGKILL; perhaps the memory was full; it"
    )
    assert line.endswith("images after it; another one reads them")
    assert not differences(run, undisturbed)


def test_a_worker_that_stands_still_is_replaced(place: Place, undisturbed: dict[str, object], tmp_path: Path) -> None:
    run = tmp_path / "run"
    ended = command(place.start(run, *STREAMED, "--timeout", "2"), tmp_path, Fault(ASK, 6, to_worker("SIGSTOP")))
    assert ended.code == 0, ended.said()
    assert "a worker that decodes images gave no answer for 2 s; it was at " in ended.err
    assert not differences(run, undisturbed)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (
            "SIGKILL",
            "a worker that decodes images was killed by SIGKILL; perhaps the memory was full, as another one before",
        ),
        ("DO raise MemoryError", "a worker that decodes images ended with code 1, as another one before"),
    ],
)
def test_workers_that_die_each_time_end_the_run_with_the_cause(
    place: Place, undisturbed: dict[str, object], harm: str, said: str, tmp_path: Path
) -> None:
    """Each of them at its first piece."""
    run = tmp_path / "run"
    ended = command(place.start(run, *STREAMED), tmp_path, Fault(SERVE, 1, harm))
    assert ended.code == 1, ended.said()
    assert ended.err.splitlines()[-1].startswith(f"{said}; it was at {place.images}/train/")
    assert ended.err.endswith("; step 0 is saved\n")
    assert command(["--resume", run], tmp_path).code == 0
    assert not set(differences(run, undisturbed)) - {"steps"}


def test_a_worker_without_memory_ends_the_run_with_the_file(
    place: Place, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    later = (
        "import harness; harness.harm(harness.Fault('effnet_builder.train.encoded:decode', 3, 'DO raise MemoryError'))"
    )
    full = Fault("effnet_builder.cli.session:fit", 1, f"DO {later}")
    ended = command(place.start(run, *STREAMED), tmp_path, full)
    assert ended.code == 1, ended.said()
    assert f"no memory to decode {place.images}/train/" in ended.err
    assert ended.err.endswith("; step 0 is saved\n")
    assert command(["--resume", run], tmp_path).code == 0
    assert not set(differences(run, undisturbed)) - {"steps"}
