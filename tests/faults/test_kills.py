"""kill -9 at any moment: the run goes on to the bits of the one that was never killed."""

from __future__ import annotations

from pathlib import Path

from harness import Fault, Place, command, differences


def test_killed_after_a_checkpoint_was_written(place: Place, undisturbed: dict[str, object], tmp_path: Path) -> None:
    run = tmp_path / "run"
    fault = Fault("effnet_builder.tensors:save_file", 3, "SIGKILL", late=True)
    assert command(place.start(run), tmp_path, fault).code == -9
    ended = command(["--resume", run], tmp_path)
    assert ended.code == 0, ended.said()
    assert not differences(run, undisturbed)
