"""Disks that are full, cannot be written, or go away: the training goes on, and what was written stays whole."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Fault, Place, command, differences

from effnet_builder.train.run import Run

STEP = "effnet_builder.train.engine:train_step"
EPOCH = "effnet_builder.train.engine:end_epoch"
OLDER = {"steps"}  # which checkpoints there are, where some could not be written
FINISH = "effnet_builder.cli.session:finish"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    with mounted(tmp_path / "disk", "size=2m") as folder:
        yield folder


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("only root can make a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: Path) -> str:
    """Write until there is no room."""
    return f"""DO
import contextlib
with contextlib.suppress(OSError), open({str(disk / "full")!r}, "wb", buffering=0) as file:
    while True:
        file.write(bytes(1000))
"""


def empty(disk: Path) -> str:
    return f"DO import os; os.unlink({str(disk / 'full')!r})"


def whole(run: Path) -> bool:
    """Whether there is a checkpoint and every one of them can be read, and no file is half written."""
    found = list(Run(run).checkpoints.newest())
    left = [path.name for path in run.rglob(".*") if path.name != ".lock"]
    return bool(found) and not left and not any(isinstance(one, Exception) for _, one in found)


def test_a_disk_that_is_full_for_a_while_costs_nothing(
    place: Place, undisturbed: dict[str, object], small_disk: Path, tmp_path: Path
) -> None:
    """From the third step of the first epoch to the last step: no checkpoint, no log."""
    run = small_disk / "run"
    faults = Fault(STEP, 3, fill(small_disk)), Fault(STEP, 21, empty(small_disk))
    ended = command(place.start(run), tmp_path, *faults)
    assert ended.code == 0, ended.said()
    assert ended.err.count(f"{run}/metrics.csv: No space left on device; the training goes on") == 1
    assert "no checkpoint of step 4 could be written: " in ended.out
    assert set(differences(run, undisturbed)) <= OLDER


def test_a_limit_on_the_size_of_files_costs_nothing(
    place: Place, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    """From the second step on, until somebody raises it in the evaluation of the first epoch."""
    run = tmp_path / "run"
    ended = command(place.start(run), tmp_path, Fault(STEP, 2, "FULL"), Fault(EPOCH, 1, "ROOM"))
    assert ended.code == 0, ended.said()
    (sentence,) = [line for line in ended.out.splitlines() if "no checkpoint" in line]
    assert sentence.startswith("no checkpoint of step 4 could be written: ")
    assert sentence.endswith("File too large; the last one is of step 0")
    assert not differences(run, undisturbed)


def test_a_disk_that_stays_full_ends_the_run_with_its_last_checkpoint_whole(
    place: Place, undisturbed: dict[str, object], small_disk: Path, tmp_path: Path
) -> None:
    run = small_disk / "run"
    ended = command(place.start(run), tmp_path, Fault(STEP, 6, fill(small_disk)))
    assert ended.code == 1, ended.said()
    assert ended.err.endswith(f"{run}/model.safetensors: No space left on device; step 4 is saved\n")
    assert whole(run)
    (small_disk / "full").unlink()
    assert command(["--resume", run], tmp_path).code == 0
    assert not differences(run, undisturbed)


@pytest.mark.parametrize("name", ["model.safetensors", "evaluation.json", "result.json"])
def test_an_end_that_cannot_be_written_is_made_up_for(
    place: Place, undisturbed: dict[str, object], name: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    prevent = f"DO import os; os.mkdir({str(run / name)!r}); os.mkdir({str(run / name / 'in the way')!r})"
    ended = command(place.start(run), tmp_path, Fault(FINISH, 1, prevent))
    assert ended.code == 1, ended.said()
    assert ended.err.splitlines()[-1] == f"{run / name}: Is a directory; step 21 is saved"
    assert "Traceback" not in ended.said()
    (run / name / "in the way").rmdir()
    (run / name).rmdir()
    ended = command(["--resume", run], tmp_path)
    assert ended.code == 0, ended.said()
    assert not differences(run, undisturbed)


def test_a_report_that_cannot_be_written_costs_nothing_else(
    place: Place, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    report = run / "report.html"
    prevent = f"DO import os; os.mkdir({str(report)!r}); os.mkdir({str(report / 'in the way')!r})"
    ended = command(place.start(run, "--report"), tmp_path, Fault(FINISH, 1, prevent))
    assert ended.code == 0, ended.said()
    assert f"no report: {report}: Is a directory" in ended.err
    assert not differences(run, undisturbed)


CALLS = [
    ("os:fsync", "ENOSPC"), ("os:replace", "EDQUOT"), ("os:open", "EIO"), ("os:urandom", "EROFS"),
    ("os:listdir", "ESTALE"), ("io:open", "EACCES"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error"), CALLS)
def test_a_call_that_fails_during_the_training_stops_nothing(
    place: Place, undisturbed: dict[str, object], call: str, error: str, tmp_path: Path
) -> None:
    """The second, third and fifth such call after the first step."""
    run = tmp_path / "run"
    later = f"""DO
import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})
from harness import Fault, harm
for call in (2, 3, 5):
    harm(Fault({call!r}, call, {error!r}))
"""
    ended = command(place.start(run), tmp_path, Fault(STEP, 1, later, late=True))
    assert ended.code == 0, ended.said()
    assert "Traceback" not in ended.said()
    assert set(differences(run, undisturbed)) <= OLDER


def test_a_directory_that_goes_away_and_comes_back_costs_nothing(
    place: Place, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    run, away = tmp_path / "there" / "run", tmp_path / "away"
    go, come = (f"DO import os; os.rename({str(a)!r}, {str(b)!r})" for a, b in ((run.parent, away), (away, run.parent)))
    ended = command(place.start(run), tmp_path, Fault(STEP, 6, go), Fault(STEP, 18, come))
    assert ended.code == 0, ended.said()
    assert f"{run}/metrics.jsonl: No such file or directory; the training goes on" in ended.err
    assert set(differences(run, undisturbed)) <= OLDER


def test_a_directory_that_was_removed_ends_the_run_with_a_sentence(place: Place, tmp_path: Path) -> None:
    run = tmp_path / "run"
    remove = f"DO import shutil; shutil.rmtree({str(run)!r})"
    ended = command(place.start(run), tmp_path, Fault(STEP, 6, remove))
    assert ended.code == 1, ended.said()
    assert ended.err.endswith(f"{run}/model.safetensors: No such file or directory; nothing was kept\n")
    assert not run.exists()


def test_a_disk_that_becomes_read_only_leaves_all_that_was_written(
    place: Place, undisturbed: dict[str, object], small_disk: Path, tmp_path: Path
) -> None:
    run = small_disk / "run"
    disk = str(small_disk)
    change = f"DO import subprocess\nfor how in ['--bind', {disk!r}], ['-o', 'remount,bind,ro']:\n"
    change += f"    subprocess.run(['mount', *how, {disk!r}], check=True)"
    ended = command(place.start(run), tmp_path, Fault(STEP, 6, change))
    assert ended.code == 1, ended.said()
    assert ended.err.endswith(f"{run}/model.safetensors: Read-only file system; step 4 is saved\n")
    assert whole(run)
    ended = command(["--resume", run], tmp_path)
    assert (ended.code, ended.err) == (1, f"{run}/.lock: Read-only file system\n")
    subprocess.run(["umount", small_disk], check=True)
    assert command(["--resume", run], tmp_path).code == 0
    assert not differences(run, undisturbed)


def test_where_nothing_can_be_written_nothing_is_trained(place: Place, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "ro,size=1m") as disk:
        ended = command(place.start(disk / "run"), tmp_path)
    assert ended.code == 2
    assert ended.err.startswith(f"--out {disk}/run: Read-only file system\n")
    with mounted(tmp_path / "tiny", "size=64k") as disk:
        ended = command(place.start(disk / "run"), tmp_path)
        assert os.listdir(disk) == []
    assert ended.code == 1
    assert (
        ended.err == f"{disk}/run/checkpoints/step-000000000.safetensors: No space left on device; nothing was kept\n"
    )


def test_tensorboard_that_cannot_write_stops_nothing(
    place: Place, undisturbed: dict[str, object], small_disk: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    events = run / "tensorboard"
    bind = ["mount", "--bind", str(small_disk), str(events)]
    mount = f"DO import os, subprocess; os.mkdir({str(events)!r}); subprocess.run({bind!r}, check=True)"
    faults = Fault("effnet_builder.cli.session:_write", 1, mount), Fault(STEP, 3, fill(small_disk))
    try:
        ended = command([*place.start(run), "--tensorboard"], tmp_path, *faults)
    finally:
        subprocess.run(["umount", "-l", events], check=True)
    assert ended.code == 0, ended.said()
    assert "No space left on device; the training goes on" in ended.err
    assert "Traceback" not in ended.said()
    assert not differences(run, undisturbed)
