"""What is recorded of where a run takes place: read from files, compared at a resume, and asked of no program."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from effnet_builder.cli.environment import SWITCHES, commit_of, environment, environment_changes

CPU = torch.device("cpu")
TRAIN = """
import os, sys
started = []
EVENTS = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.startfile")
sys.addaudithook(lambda event, given: started.append((event, repr(given)[:200])) if event in EVENTS else None)
sys.argv[0] = "train-arch"
from effnet_builder.cli.train import main
try:
    main()
finally:
    print("started:", started)
"""


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", "-C", folder, *who, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    try:
        git(folder, "init", "-q")
    except FileNotFoundError:
        pytest.skip("git is not installed")
    (folder / "file").write_text("x")
    git(folder, "add", "file")
    git(folder, "commit", "-qm", "one")
    return folder


def test_the_commit_is_that_of_git(repository: Path, tmp_path: Path) -> None:
    """On a branch, with packed refs, detached, in a folder below, in a further working tree."""
    (repository / "below").mkdir()
    assert commit_of(repository) == commit_of(repository / "below") == git(repository, "rev-parse", "HEAD")
    git(repository, "checkout", "-qb", "feature/other")
    git(repository, "commit", "-qm", "two", "--allow-empty")
    assert commit_of(repository) == git(repository, "rev-parse", "HEAD")
    git(repository, "pack-refs", "--all")
    assert not (repository / ".git" / "refs" / "heads" / "feature" / "other").exists()
    assert commit_of(repository) == git(repository, "rev-parse", "HEAD")
    git(repository, "worktree", "add", "-q", "-b", "third", str(tmp_path / "tree"), "HEAD~1")
    assert commit_of(tmp_path / "tree") == git(tmp_path / "tree", "rev-parse", "HEAD") != commit_of(repository)
    git(repository, "checkout", "-q", "--detach", "HEAD~1")
    assert commit_of(repository) == git(repository, "rev-parse", "HEAD")


@pytest.mark.parametrize(
    "head", ["", "ref: refs/heads/nothing", "ref: ../../etc/passwd", "ref: refs/../../secret", "x" * 10_000, "\0", "é"]
)
def test_a_head_that_is_none_is_no_commit(head: str, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "secret").write_text("a" * 40)
    (tmp_path / ".git" / "HEAD").write_text(head)
    assert commit_of(tmp_path) is None


def test_pipes_in_the_place_of_git_files_are_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    os.mkfifo(tmp_path / ".git" / "HEAD")
    assert commit_of(tmp_path) is None
    (tmp_path / "other").mkdir()
    os.mkfifo(tmp_path / "other" / ".git")
    assert commit_of(tmp_path / "other") is None


def test_nothing_of_the_working_directory_is_executed(repository: Path, tmp_path: Path) -> None:
    """A repository whose configuration runs programs, modules by the names of libraries, programs in the PATH."""
    harm, traps = tmp_path / "harm", tmp_path / "traps"
    traps.mkdir()
    git(repository, "config", "core.fsmonitor", f"touch {harm}; false")
    git(repository, "config", "core.pager", f"touch {harm}")
    for name in ("torch", "yaml", "numpy", "typer", "sitecustomize", "usercustomize", "matplotlib", "tensorboard"):
        (repository / f"{name}.py").write_text(f"open({str(harm)!r}, 'w').close()")
    for name in ("git", "hg", "uname", "file", "ldconfig", "gcc", "cc", "lscpu", "nvidia-smi", "sh", "less", "gs"):
        for folder in (traps, repository):
            (folder / name).write_text(f"#!/bin/sh\ntouch {harm}\n")
            (folder / name).chmod(0o755)
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    given = [
        "efficientnet-pico",
        "--data",
        "fake:64x4",
        "--epochs",
        "1",
        "--tensorboard",
        "--out",
        str(tmp_path / "run"),
    ]
    environment = {**os.environ, "PATH": f"{traps}:.:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, script, *given], cwd=repository, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    started = ast.literal_eval(done.stdout.splitlines()[-1].removeprefix("started: "))
    # What ctypes asks for the place of a library: by its full path, and about nothing of ours.
    assert [one for one in started if not one[1].startswith("('/sbin/ldconfig', ['/sbin/ldconfig', '-p'],")] == []
    assert not harm.exists()
    written = json.loads((tmp_path / "run" / "run.json").read_text())
    assert written["git"] == {"commit": git(repository, "rev-parse", "HEAD")}
    assert written["directory"] == str(repository)


def test_what_may_change_the_last_bits_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    found = environment(CPU, 2)
    assert found["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert found["torch"] == torch.__version__
    assert (found["processes"], found["MKL_CBWR"]) == (2, "COMPATIBLE")
    assert {"torchvision", "numpy", "pillow", "python", "cpu", "threads"} < found.keys()


def test_what_differs_is_told_and_what_was_not_recorded_is_not() -> None:
    now = environment(CPU, 1)
    assert environment_changes(now, now) == []
    before = {**now, "torch": "2.10.0", "cpu_capability": "DEFAULT", "platform": "other", "threads": 77}
    assert environment_changes(before, now) == [
        f"torch 2.10.0 -> {now['torch']}", f"cpu_capability DEFAULT -> {now['cpu_capability']}",
    ]  # fmt: skip
    switch = SWITCHES[0]
    assert environment_changes({**now, switch: "avx2"}, now) == [f"{switch} avx2 -> not set"]
    assert environment_changes(now, {**now, switch: "avx2"}) == [f"{switch} not set -> avx2"]
    old = {"effnet_builder": now["effnet_builder"], "torch": now["torch"], "threads": 2}  # of 0.1.0 before
    assert environment_changes(old, {**now, switch: "avx2"}) == []
