"""Files are written atomically, through no link, under no name that can be guessed; and by one module alone."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import effnet_builder
from effnet_builder.files import (
    atomic_file,
    left_over,
    make_folder,
    open_in_place,
    open_regular,
    read_regular,
    same_file,
    write_atomic,
)
from effnet_builder.tensors import write_tensors

PACKAGE = Path(effnet_builder.__file__).parent

# Ways to write that do not go through effnet_builder/files.py, with the reason for each.
ALLOWED = {
    ("cli/console.py", "open"): "/dev/null, in place of an output that is closed",
    ("cli/console.py", "os.open"): "/dev/null, in place of an output that is closed",
    ("cli/search.py", "mkdir"): "the folder that --out names",
    ("search.py", "mkdir"): "the folder of the database that --study names",
    ("search.py", "sqlite3.connect"): "the database that --study names",
    ("train/cache.py", "mkdir"): "the folder of caches",
    ("train/survey.py", "mkdir"): "the folder of caches",
    ("train/run.py", "mkdir"): "the run directory that --out names",
    ("train/download.py", "mkdir"): "the folder of a published data set",
    ("train/download.py", "TemporaryDirectory"): "of a random name, and only for its owner",
    ("train/download.py", "open"): "in that folder",
    ("train/download.py", "os.replace"): "out of that folder",
    ("train/cache.py", "os.replace"): "of the file that is locked",
    ("train/sinks.py", "SummaryWriter"): "event files with names of TensorBoard's, in a folder that is not a link",
    ("plotting/style.py", "savefig"): "into memory",
}
WRITING = re.compile(r"[wax+]")
NAMES = {
    "write_text", "write_bytes", "mkstemp", "mkdtemp", "TemporaryDirectory", "NamedTemporaryFile", "TemporaryFile",
    "mkdir", "makedirs", "touch", "savefig", "SummaryWriter", "symlink", "symlink_to", "link", "hardlink_to",
    "copyfile", "copy", "copy2", "copytree", "move",
}  # fmt: skip
DOTTED = {
    "os.replace", "os.rename", "torch.save", "np.save", "np.savez", "shutil.copyfile", "shutil.copy", "sqlite3.connect",
    "safetensors.torch.save_file", "json.dump", "pickle.dump", "yaml.dump_all", "os.truncate", "np.memmap",
}  # fmt: skip


def calls_that_write(file: Path) -> Iterator[tuple[str, int]]:
    """The calls in a module that may write a file, with their lines; also functions that are only handed on."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in DOTTED:
            yield ast.unparse(node), node.lineno
        if not isinstance(node, ast.Call):
            continue
        dotted = ast.unparse(node.func)
        name = dotted.rpartition(".")[2]
        if dotted == "os.open":
            flags = ast.unparse(node.args[1])
            if "O_WRONLY" in flags or "O_RDWR" in flags or "O_CREAT" in flags:
                yield dotted, node.lineno
        elif name == "open" and dotted != "Image.open":
            first = 1 if dotted in ("open", "io.open", "os.fdopen", "gzip.open", "tarfile.open", "bz2.open") else 0
            given = [*node.args[first : first + 1], *(word.value for word in node.keywords if word.arg == "mode")]
            if any(isinstance(mode, ast.Constant) and WRITING.search(str(mode.value)) for mode in given):
                yield "open", node.lineno
        elif name in NAMES and not (name == "copy" and not dotted.startswith("shutil")):
            yield name, node.lineno


def test_no_other_module_writes_files() -> None:
    found = {
        (str(file.relative_to(PACKAGE)), call): line
        for file in PACKAGE.rglob("*.py")
        if file != PACKAGE / "files.py"
        for call, line in calls_that_write(file)
    }
    assert not {f"{file}:{line}: {call}" for (file, call), line in found.items() if (file, call) not in ALLOWED}
    assert not ALLOWED.keys() - found.keys(), "there is no such call"


def test_the_search_for_calls_finds_them(tmp_path: Path) -> None:
    lines = [
        'open("x", "w")', 'open("x", mode="r+b")', 'path.open("ab")', 'path.write_text("x")', "tempfile.mkstemp()",
        'os.open("x", os.O_WRONLY | os.O_CREAT)', "torch.save(x, y)", 'figure.savefig("x")', "path.mkdir()",
    ]  # fmt: skip
    others = [
        'open("x")',
        'open("x", "rb")',
        'path.open("rb")',
        'os.open("x", os.O_RDONLY)',
        "x.copy()",
        "Image.open(w)",
    ]
    (tmp_path / "module.py").write_text("\n".join(lines + others))
    assert sorted(line for _, line in calls_that_write(tmp_path / "module.py")) == list(range(1, len(lines) + 1))


# Atomic files


def test_a_planted_link_of_a_guessed_name_destroys_nothing(tmp_path: Path) -> None:
    """As `.{name}.{pid}`, which was the name of temporary files once."""
    precious, target = tmp_path / "precious", tmp_path / "weights.safetensors"
    precious.write_text("precious")
    for name in (f".{target.name}.{os.getpid()}", f".{target.name}.tmp", target.name):
        (tmp_path / name).symlink_to(precious)
    write_tensors(target, {"x": torch.zeros(2)}, {})
    write_atomic(tmp_path / "precious-link", "x")
    assert precious.read_text() == "precious"
    assert target.is_file()
    assert not target.is_symlink()


def test_temporary_names_are_random_and_exclusive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for _ in range(3):
        with atomic_file(tmp_path / "x"):
            names |= {*os.listdir(tmp_path)} - {"x"}
    assert len(names) == 3
    assert all(left_over(name, ("x",)) for name in names)
    assert all(len(name.rpartition(".")[2]) == 16 for name in names)
    monkeypatch.setattr(os, "urandom", lambda count: bytes(count))
    (tmp_path / ".x.0000000000000000").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError, match=f"{tmp_path}/x"):
        write_atomic(tmp_path / "x", "x")
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_becomes_a_link_meanwhile_changes_nothing(tmp_path: Path) -> None:
    folder, moved, elsewhere = tmp_path / "run", tmp_path / "moved", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    with atomic_file(folder / "x") as file:
        file.write(b"new")
        folder.rename(moved)
        folder.symlink_to(elsewhere)
    assert os.listdir(elsewhere) == []
    assert (moved / "x").read_text() == "new"


def test_an_error_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    write_atomic(tmp_path / "x", "old")
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "x") as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["x"]
    assert read_regular(tmp_path / "x") == b"old"
    with pytest.raises(OSError, match=re.escape(f"{tmp_path}/nowhere/x")):
        write_atomic(tmp_path / "nowhere" / "x", "x")


@pytest.mark.parametrize("mask", [0o077, 0o022, 0])
def test_the_mask_of_the_process_holds(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write_atomic(tmp_path / "x", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o666 & ~mask


def test_long_names_can_be_written(tmp_path: Path) -> None:
    write_atomic(tmp_path / ("x" * 255), "x")
    write_atomic(tmp_path / ("ö" * 127), "x")
    assert len(os.listdir(tmp_path)) == 2


# Files in place, and files to read


@pytest.mark.parametrize("what", ["link", "dangling link", "pipe", "folder", "device"])
def test_only_regular_files_are_changed_in_place(what: str, tmp_path: Path) -> None:
    path, precious = tmp_path / "x", tmp_path / "precious"
    if what.endswith("link"):
        path.symlink_to(precious)
        precious.write_text("precious") if what == "link" else None
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path = Path("/dev/null")
    with pytest.raises(OSError, match=re.escape(f"{path}")):
        open_in_place(path)
    assert precious.exists() == (what == "link")


@pytest.mark.parametrize("what", ["pipe", "folder", "device", "link to a pipe"])
def test_what_is_not_a_file_is_not_waited_for(what: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if what == "folder":
        path.mkdir()
    elif what == "device":
        path = Path("/dev/zero")
    else:
        os.mkfifo(path)
        if what.startswith("link"):
            (tmp_path / "link").symlink_to(path)
            path = tmp_path / "link"
    found: list[OSError] = []

    def read() -> None:
        try:
            read_regular(path)
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(10)
    assert [error.filename for error in found] == [str(path)]


def test_a_file_that_was_replaced_is_not_the_same(tmp_path: Path) -> None:
    write_atomic(tmp_path / "x", "1")
    with open_regular(tmp_path / "x") as file:
        assert same_file(file, tmp_path / "x")
        write_atomic(tmp_path / "x", "1")
        assert not same_file(file, tmp_path / "x")
        (tmp_path / "x").unlink()
        assert not same_file(file, tmp_path / "x")


def test_folders_of_ours_are_not_links(tmp_path: Path) -> None:
    make_folder(tmp_path / "x")
    make_folder(tmp_path / "x")
    (tmp_path / "link").symlink_to(tmp_path / "x")
    with pytest.raises(OSError, match="is a link"):
        make_folder(tmp_path / "link")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        make_folder(tmp_path / "file")


def test_weights_beside_a_planted_link_of_the_commands_pid(tmp_path: Path) -> None:
    """As an attacker does who shares the folder and guesses the pid: the command is exec'ed in the same process."""
    precious = tmp_path / "precious"
    precious.write_text("precious")
    script = (
        "import os, sys; os.symlink(sys.argv[1], f'{sys.argv[2]}/.w.safetensors.{os.getpid()}');"
        "from effnet_builder.cli.build import main;"
        "sys.argv = ['build-arch', 'efficientnet-pico', '--save-weights', sys.argv[2] + '/w.safetensors']; main()"
    )
    (tmp_path / "shared").mkdir()
    subprocess.run([sys.executable, "-c", script, precious, tmp_path / "shared"], check=True, capture_output=True)
    assert precious.read_text() == "precious"
    assert (tmp_path / "shared" / "w.safetensors").stat().st_size > 100_000
