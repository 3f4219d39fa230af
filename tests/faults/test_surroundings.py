"""What surrounds the process: outputs, paths, homes, clocks. It works, or one sentence says why not."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from harness import Ended, Fault, Place, command, differences

MAIN = "effnet_builder.cli.train:main"
STEP = "effnet_builder.train.engine:train_step"
ODD = b"odd \xff\n\x1b[31m'\"<b>&amp;[red]\\"


def begin(statements: str, module: str = "train") -> Fault:
    """Python that is run before the command."""
    return Fault(f"effnet_builder.cli.{module}:main", 1, f"DO\nimport os, sys\n{statements}")


TO = "; os.dup2({0}, {1}); sys.{2} = open({1}, 'w', closefd=False)"
FULL = "full = os.open('/dev/full', os.O_WRONLY)"
OUTPUTS = {
    "closed": ("os.close(1); sys.stdout = None", 0),
    "errors closed": ("os.close(2); sys.stderr = None", 0),
    "all closed": ("os.closerange(0, 3); sys.stdin = sys.stdout = sys.stderr = None", 0),
    "full": (FULL + TO.format("full", 1, "stdout"), 1),
    "errors full": (FULL + TO.format("full", 2, "stderr"), 0),
    "reader gone": (
        "out, into = os.pipe()" + TO.format("into", 1, "stdout") + "; os.close(into); os.close(out)", 0
    ),
    "reader asleep": (
        "out, into = os.pipe(); os.set_blocking(into, False)" + TO.format("into", 1, "stdout") + "\n"
        "while os.get_blocking(into) is False:\n"
        "    try: os.write(into, bytes(1000))\n"
        "    except BlockingIOError: break\n", 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("output", OUTPUTS)
def test_an_output_that_takes_nothing_stops_nothing(
    place: Place, undisturbed: dict[str, object], output: str, tmp_path: Path
) -> None:
    """What was not printed is said in the exit code, at the end."""
    statements, code = OUTPUTS[output]
    run = tmp_path / "run"
    ended = command(place.start(run), tmp_path, begin(statements))
    assert ended.code == code, ended.said()
    assert "Traceback" not in ended.said()
    if code:
        assert ended.err.startswith("standard output: ")
        assert ended.err.count("\n") == 1
    assert not differences(run, undisturbed)


@pytest.mark.parametrize("plain", [{"NO_COLOR": "1"}, {}])
def test_a_terminal_that_goes_away_stops_nothing(
    place: Place, undisturbed: dict[str, object], plain: dict[str, str], tmp_path: Path
) -> None:
    run, seen = tmp_path / "run", tmp_path / "seen"
    terminal = "sys.ours, theirs = os.openpty()" + TO.format("theirs", 1, "stdout") + TO.format("theirs", 2, "stderr")
    leave = f"DO\nimport os, sys\nopen({str(seen)!r}, 'wb').write(os.read(sys.ours, 100_000)); os.close(sys.ours)"
    faults = begin(terminal), Fault(STEP, 6, leave)
    environment = {"TERM": "xterm", **plain}
    ended = command(place.start(run), tmp_path, *faults, environment=environment)
    assert ended.code in (0, 1), ended.said()
    assert not differences(run, undisturbed)
    if plain:
        assert b"\x1b[3" not in seen.read_bytes(), "no colours"


@pytest.mark.parametrize("options", [["--help"], ["--version"], ["--schema"]])
def test_help_that_cannot_be_printed_is_one_sentence(options: list[str], tmp_path: Path) -> None:
    ended = command(options, tmp_path, begin(OUTPUTS["full"][0]))
    assert ended.code == 1
    assert ended.err.count("\n") == 1
    assert "No space left on device" in ended.err


HOMES = {
    "none": "os.environ.pop('HOME')",
    "that is gone": "os.environ['HOME'] = '/nonexistent/home'",
    "read-only": "os.environ['HOME'] = '/proc'",
    "of nobody": (
        "os.environ.pop('HOME'); import pwd\n"
        "def unknown(number): raise KeyError(number)\n"
        "pwd.getpwuid = unknown"
    ),
}  # fmt: skip


@pytest.mark.parametrize("home", HOMES)
def test_any_home_or_none(place: Place, undisturbed: dict[str, object], home: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    statements = f"os.environ.pop('EFFNET_BUILDER_DATA'); os.environ['TMPDIR'] = '/nonexistent'; {HOMES[home]}"
    ended = command(place.start(run, "--storage", "stream", "--report"), tmp_path, begin(statements))
    assert ended.code == 0, ended.said()
    assert "Traceback" not in ended.said()
    assert not differences(run, undisturbed)
    if home == "of nobody":
        ended = command(place.start(tmp_path / "other", "--storage", "cache"), tmp_path, begin(statements))
        assert ended.code == 2
        assert "no place for a cache: " in ended.err
        assert "$EFFNET_BUILDER_DATA may name one" in ended.err


def test_a_clock_that_jumps_changes_nothing(place: Place, undisturbed: dict[str, object], tmp_path: Path) -> None:
    run = tmp_path / "run"
    jump = """DO
import os, time
real = time.time
time.time = lambda: real() {}
time.time_ns = lambda: int(time.time() * 1e9)
os.environ["TZ"] = "{}"
time.tzset()
"""
    faults = [
        Fault(STEP, 3, jump.format("- 1e9", "Asia/Kathmandu")),
        Fault(STEP, 12, jump.format("+ 2e9", "nowhere/5")),
    ]
    ended = command(place.start(run, "--report"), tmp_path, *faults)
    assert (ended.code, ended.err) == (0, ""), ended.said()
    assert not differences(run, undisturbed)
    rows = (run / "times.csv").read_text().splitlines()[1:]
    assert all(0 < float(row.split(",")[1]) < 60 for row in rows)


def test_only_the_user_may_read_where_the_mask_says_so(place: Place, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert command(place.start(run, "--epochs", "1"), tmp_path, begin("os.umask(0o077)")).code == 0
    assert [path for path in run.rglob("*") if path.stat().st_mode & 0o077] == []


def test_a_working_directory_that_is_gone_is_one_sentence(place: Place, tmp_path: Path) -> None:
    leave = f"os.makedirs({str(tmp_path / 'gone')!r}); os.chdir({str(tmp_path / 'gone')!r}); os.rmdir(os.getcwd())"
    for module, given in (("train", place.start(tmp_path / "run")), ("build", ["efficientnet-b0"])):
        ended = command(given, tmp_path, begin(leave, module), program=module)
        assert (ended.code, ended.err) == (2, "the working directory cannot be used: No such file or directory\n")


@pytest.fixture
def odd(place: Place, tmp_path: Path) -> Path:
    """A folder with photographs, spec and recipe; it, a class and an image are named by bytes that are no text."""
    folder = os.fsencode(tmp_path) + b"/" + ODD
    try:
        os.mkdir(folder)
    except OSError:
        pytest.skip("this file system takes only text as names")
    shutil.copytree(os.fsencode(place.images), folder + b"/" + ODD)
    for part in (b"train", b"test"):
        os.rename(folder + b"/" + ODD + b"/" + part + b"/digit", folder + b"/" + ODD + b"/" + part + b"/dig" + ODD)
    images = folder + b"/" + ODD + b"/train/china/"
    os.rename(images + b"1.jpg", images + ODD + b".jpg")
    for name in ("small.yaml", "short.yaml"):
        shutil.copy(place.folder / name, folder + b"/" + os.fsencode(name))
    return Path(os.fsdecode(folder))


def test_any_bytes_in_paths_and_names_of_classes(odd: Path, tmp_path: Path) -> None:
    def say(program: str, *given: object) -> Ended:
        ended = command(given, tmp_path, program=program, environment={"EFFNET_BUILDER_DATA": str(odd / "data")})
        assert "Traceback" not in ended.said()
        assert "\x1b" not in ended.said(), "a terminal obeys no name"
        return ended

    name, run = os.fsdecode(ODD), tmp_path / "run\n\x1b[31m'\"<b>&amp;[red]\\"
    given = [odd / "small.yaml", "--recipe", odd / "short.yaml", "--data", f"folder:{odd / name}", "--device", "cpu"]
    refused = say("train", *given, "--out", odd / "run")
    assert refused.code == 2
    assert "holds bytes that are no UTF-8; safetensors reads no file there" in refused.err
    ended = say("train", *given, "--storage", "stream", "--out", run)
    assert ended.code == 0, ended.said()
    assert say("train", *given, "--storage", "cache", "--out", tmp_path / "cached").code == 0
    assert json.loads((run / "run.json").read_text("utf-8"))["data"]["classes"][1] == f"dig{name}"
    (run / "result.json").unlink()
    assert say("train", "--resume", run).code == 0
    ended = say("evaluate", run, "--format", "json")
    assert ended.code == 0
    assert json.loads(ended.out)["data"] == f"folder:{odd / name}"
    assert say("evaluate", run).code == 0
    image = odd / name / "train" / "china" / f"{name}.jpg"
    ended = say("predict", run / "model.safetensors", image, "--format", "json")
    assert str(image) in json.dumps(json.loads(ended.out), ensure_ascii=False).replace("\\\\", "\\") or ended.code == 0
    assert say("predict", run, image).code == 0
    assert say("build", odd / "small.yaml", "--save", odd / "copy.yaml").code == 0
    image.write_bytes(b"no image")
    assert say("train", *given, "--out", tmp_path / "again").code == 2
    assert say("train", *given[:-3], f"folder:{odd / name / 'none'}", "--out", tmp_path / "again").code == 2
    assert say("train", "--resume", odd / "again").code == 2
    assert say("build", odd / "none.yaml").code == 2


def test_the_longest_names_and_paths(place: Place, undisturbed: dict[str, object], tmp_path: Path) -> None:
    run = tmp_path / ("n" * 255)
    assert command(place.start(run), tmp_path).code == 0
    assert not differences(run, undisturbed)
    ended = command(place.start(tmp_path / ("n" * 256)), tmp_path)
    assert ended.code == 2
    assert "n: File name too long\n" in ended.err
    deep = tmp_path
    while len(str(deep)) < 3890:
        deep /= "d" * 100
    deep.mkdir(parents=True)
    room = 4095 - len(str(deep))
    for length, code in ((room - 5, 2), (room - 8, 1), (room - 80, 0)):
        ended = command(place.start(deep / ("r" * length), "--report"), tmp_path)
        assert ended.code == code, ended.said()
        assert "Traceback" not in ended.said()
        if code:
            assert "File name too long" in ended.err
            assert code == 1 or not (deep / ("r" * length)).exists()
