"""What comes from outside is escaped for where it goes: commands that are run in bash, a terminal, HTML, YAML."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from folders import make_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from effnet_builder import load_spec
from effnet_builder.cli import build, evaluate, predict, scale, train
from effnet_builder.cli.console import echo, warn
from effnet_builder.cli.dataset import progress
from effnet_builder.escaping import path_argument, printable, printable_lines, rich_text, shell_command

EVIL = "\x1b]0;x\x07[red]\u202e[link=x]\x9b31m"
NAMES = [
    "sp ace;touch PWNED", "$(touch PWNED)", "`touch PWNED`", "two\nlines", EVIL, "it's \"quoted\"", "-dash", "a\\b\t'\x01f",
    os.fsdecode(b"no text \xff\xc3"), "größe", "*", "~", "", "\r#!", "\u2028\x85",
]  # fmt: skip


def run_in_bash(command: str, folder: Path) -> list[str]:
    """The arguments that a command of our own gets from bash, named as the one that is offered."""
    tools = folder / "tools"
    tools.mkdir()
    for name in ("train-arch", "eval-arch", "predict-arch"):
        show = f"import sys, os, json; json.dump(sys.argv[1:], open({str(folder / 'said')!r}, 'w'))"
        (tools / name).write_text(f"#!{sys.executable}\n{show}\n")
        (tools / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", command], check=True, cwd=folder, env=environment)
    arguments: list[str] = json.loads((folder / "said").read_text())
    assert {path.name for path in folder.iterdir()} == {"tools", "said"}, "something else has run"
    return arguments


def test_offered_commands_run_as_they_are_in_bash(tmp_path: Path) -> None:
    command = shell_command("train-arch", *NAMES)
    assert command.isprintable()
    assert run_in_bash(command, tmp_path) == NAMES


@pytest.mark.parametrize("name", [name for name in NAMES if name])
def test_the_hint_to_resume_and_the_report_name_the_run(tmp_path: Path, name: str) -> None:
    from effnet_builder.cli.reporting import _commands
    from effnet_builder.cli.session import _hint
    from effnet_builder.train.run import Run

    class Saved(Run):
        done = False  # type: ignore[assignment]
        checkpoints = type("Steps", (), {"steps": lambda _: [3]})()  # type: ignore[assignment]

    said = _hint(Saved(Path(name)))
    assert printable(said) == said
    (tmp_path / "a").mkdir()
    assert run_in_bash(said.partition(": ")[2], tmp_path / "a") == ["--resume", name]
    again = _commands(Run(Path(name)), f"folder:{name}")["train again"]
    (tmp_path / "b").mkdir()
    folder = path_argument(name)
    expected = [f"{folder}/spec.yaml", "--recipe", f"{folder}/recipe.yaml", "--data", f"folder:{name}"]
    assert run_in_bash(again, tmp_path / "b") == expected


@given(st.text(st.characters(), max_size=20))
def test_escaped_text_commands_no_terminal(text: str) -> None:
    assert printable(text).isprintable()
    assert printable_lines(text).replace("\n", "").isprintable()
    assert shell_command(text).isprintable()
    if text.isprintable():
        assert printable(text) == text


def test_names_are_no_markup_of_rich() -> None:
    from rich.text import Text

    for name in (*NAMES, "[bold]x[/bold]", "\\[red]"):
        assert Text.from_markup(rich_text(name)).plain == printable(name)


def test_a_progress_bar_shows_names_as_they_are() -> None:
    import io

    from rich.console import Console

    written = io.StringIO()
    list(progress(Console(file=written, force_terminal=True, color_system=None, width=200))([1], 1, f"reading {EVIL}"))
    assert "\x1b]0" not in written.getvalue()
    assert printable(EVIL) in written.getvalue()


def test_echo_escapes_whatever_it_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    echo(f"a\n{EVIL}")
    echo(f"a\n{EVIL}", lines=True, err=True, colour="red", bold=True)
    warn(f"b\n{EVIL}")
    out, err = capsys.readouterr()
    assert out == f"a\\n{printable(EVIL)}\n"
    assert re.sub(r"\x1b\[\d+m", "", err) == f"a\n{printable(EVIL)}\nwarning: b\\n{printable(EVIL)}\n"


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@settings(max_examples=60)
@given(TEXTS)
def test_a_spec_with_any_text_reads_back(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    spec = load_spec("efficientnet-pico").vary({"description": text})
    file = tmp_path_factory.mktemp("specs") / "spec.yaml"
    file.write_bytes(spec.to_yaml().encode())
    assert load_spec(file).description == text


def test_csv_holds_numbers_alone(tmp_path: Path) -> None:
    """A name in a CSV could be a formula of a spreadsheet. None is: spec, classes and files are not columns."""
    file = tmp_path / "=cmd.yaml"
    shutil.copy(write_spec(tmp_path), file)
    said = CliRunner().invoke(scale.app, [str(file), "--phi", "0:1:1", "--format", "csv"])
    assert said.exit_code == 0, said.output
    header, *rows = said.stdout.splitlines()
    assert re.fullmatch(r"[a-z_,]+", header)
    assert len(rows) == 2
    assert all(re.fullmatch(r"(\d[\d.]*|fp32)?", cell) for row in rows for cell in row.split(",")), rows


def write_spec(folder: Path) -> Path:
    """efficientnet-pico, extended by a file of its own."""
    file = folder / "pico.yaml"
    file.write_text("extends: efficientnet-pico\nname: mine\nresolution: 32\n")
    return file


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a hostile name, which holds a spec, data and images with hostile names, and a run on them."""
    folder = tmp_path_factory.mktemp("hostile") / EVIL
    folder.mkdir()
    shutil.copy(write_spec(folder), folder / f"{EVIL}.yaml")
    data = make_folder(folder / f"data {EVIL}")
    for part in ("train", "test"):
        (data / part / "cat").rename(data / part / f"cat {EVIL}\n=cmd")
    weights = folder / f"start {EVIL}.safetensors"
    saved = CliRunner().invoke(
        build.app, ["efficientnet-pico", "--set", "head.num_classes=2", "--save-weights", str(weights)]
    )
    assert saved.exit_code == 0, saved.output
    yield folder
    shutil.rmtree(folder)


def harmless(app: object, *arguments: str | Path, code: int = 0) -> str:
    """The outputs of a command, which hold no control character but line feeds."""
    result = CliRunner().invoke(app, list(map(str, arguments)))  # type: ignore[arg-type]
    assert result.exit_code == code, result.output
    assert printable_lines(result.output) == result.output
    assert "Traceback" not in result.output
    return result.stdout


def test_no_name_commands_the_terminal_through_build_arch(hostile: Path) -> None:
    spec = hostile / f"{EVIL}.yaml"
    for options in (
        [], ["--summary"], ["--explain"], ["--explain", "stages.1"], ["--layers"],
        ["--save", hostile / "saved.yaml"], ["--save-weights", hostile / "saved.safetensors"],
        ["--diagram", hostile / f"d{EVIL}.svg"], ["--weights", hostile / f"start {EVIL}.safetensors", "--num-classes", "2"],
    ):  # fmt: skip
        harmless(build.app, spec, *options)
    harmless(build.app, spec, spec, "--compare")
    harmless(build.app, "--list")
    json.loads(harmless(build.app, spec, "--explain", "--format", "json"))
    for wrong in ([EVIL], [spec, f"--{EVIL}"], [spec, "--theme", EVIL], [spec, "--set", EVIL], [spec, "--explain", EVIL],
                  [spec, "--compare-weights", EVIL], [spec, "--width", EVIL], [spec, "--diagram", hostile / EVIL]):  # fmt: skip
        harmless(build.app, *wrong, code=2)


@pytest.mark.filterwarnings("ignore::effnet_builder.ScalingWarning")
def test_no_name_commands_the_terminal_through_scale_arch(hostile: Path) -> None:
    spec = hostile / f"{EVIL}.yaml"
    harmless(scale.app, spec, "--phi", "0:1:1", "--plot", hostile / f"p{EVIL}.svg")
    harmless(scale.app, spec, "--fit", "macs=50M", "--save", hostile / f"fit{EVIL}.yaml", "--set", "name=mine", code=2)
    harmless(scale.app, spec, "--fit", "macs=50M", "--save", hostile / "fit.yaml")
    harmless(scale.app, spec, "--search", "--step", "0.5", "--out", hostile / f"out{EVIL}")
    for wrong in (["--fit", EVIL], ["--phi", EVIL], ["--sweep", EVIL], ["--phi", "0:1:1", "--rule", EVIL]):
        harmless(scale.app, spec, *wrong, code=2)


def test_no_name_commands_the_terminal_through_trained_networks(hostile: Path) -> None:
    data, run = f"folder:{hostile / f'data {EVIL}'}", hostile / f"run {EVIL}"
    options = ["--data", data, "--epochs", "1", "--set", "batch_size=4", "--recipe", "small-images", "--device", "cpu"]
    start = hostile / f"start {EVIL}.safetensors"
    harmless(train.app, start, *options, "--resolution", "16", "--out", run)
    report = (run / "report.html").read_text()
    assert printable_lines(report) == report
    assert "[red]" in report
    harmless(train.app, start, *options, "--out", run, code=2)
    harmless(train.app, start, *options, "--teacher", EVIL, "--out", hostile / "other", code=2)
    harmless(train.app, "--resume", run, code=2)
    harmless(evaluate.app, run)
    assert json.loads(harmless(evaluate.app, run, "--format", "json"))["data"] == data
    image = hostile / f"{EVIL}.png"
    shutil.copy(next(Path(data.partition(":")[2]).glob("test/dog/*.png")), image)
    harmless(predict.app, run, image)
    assert json.loads(harmless(predict.app, run, image, "--format", "json"))[0]["image"] == str(image)
    for app in (evaluate.app, predict.app):
        harmless(app, hostile / EVIL, image, code=2)
    harmless(predict.app, run, hostile / f"no{EVIL}.png", code=2)
