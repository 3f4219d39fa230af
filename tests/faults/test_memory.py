"""No memory: one sentence with a batch that fits, nothing half written, and a checkpoint to go on from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from harness import Fault, Place, command, differences

STEP = "effnet_builder.train.engine:train_step"
ERRORS = {
    "of Python": "raise MemoryError",
    "of the host": "torch.empty(10**15)",
    "of the device": "raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')",
}
WHERE = ("effnet_builder.train.step:F.cross_entropy", "torch:Tensor.backward", "torch.optim:SGD.step")
SAID = r"out of memory: a step on 8 images keeps about [\d.]+ MB; give --fit-batch, or accumulate: 2, which takes 4 at a time"
LIMIT = """DO
import resource
from pathlib import Path
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + {}, resource.RLIM_INFINITY))
"""


@pytest.mark.parametrize(("error", "where"), list(zip(ERRORS, WHERE, strict=True)))
def test_a_step_without_memory_names_a_batch(
    place: Place, undisturbed: dict[str, object], error: str, where: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    ended = command(place.start(run), tmp_path, Fault(where, 6, f"DO import torch; {ERRORS[error]}"))
    assert ended.code == 1, ended.said()
    assert re.fullmatch(rf"{SAID}; step 4 is saved; to go on: train-arch --resume {run}\n", ended.err)
    assert not list(run.rglob(".step*"))
    if error == "of Python":
        assert command(["--resume", run], tmp_path).code == 0
        assert not differences(run, undisturbed)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="where the system says how much a process has")
def test_a_limit_on_the_memory_of_the_process_is_known_before_the_first_step(place: Place, tmp_path: Path) -> None:
    limit = Fault("effnet_builder.cli.session:fit_into_memory", 1, LIMIT.format(5_000_000))
    more = "--set", "batch_size=24"
    ended = command(place.start(tmp_path / "run", *more), tmp_path, limit)
    assert ended.code == 2, ended.said()
    assert re.search(
        r"does not fit into the memory of cpu; \d images do: give --fit-batch, or accumulate: \d", ended.err
    )
    assert not (tmp_path / "run").exists()
    ended = command(place.start(tmp_path / "run", *more, "--fit-batch", "--epochs", "1"), tmp_path, limit)
    assert "Traceback" not in ended.said()
    limit = Fault("effnet_builder.cli.session:new_model", 1, LIMIT.format(100_000))
    ended = command(place.start(tmp_path / "other"), tmp_path, limit)
    assert ended.code == 2, ended.said()
    assert "small: weights, gradients and optimizer need 566.4 kB of memory" in ended.err


def test_images_that_find_no_memory_are_no_bad_images(place: Place, tmp_path: Path) -> None:
    full = Fault("effnet_builder.train.survey:decode", 3, "DO raise MemoryError")
    ended = command(place.start(tmp_path / "run", "--on-bad", "skip"), tmp_path, full)
    assert ended.code == 1, ended.said()
    assert ended.err.startswith("out of memory: ")
    assert not (tmp_path / "run").exists()
