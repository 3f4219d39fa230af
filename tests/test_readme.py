"""README, CI and the code say the same."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from effnet_builder import ArchSpec, __version__
from effnet_builder.cli.build import app as build_app
from effnet_builder.cli.evaluate import app as eval_app
from effnet_builder.cli.predict import app as predict_app
from effnet_builder.cli.scale import app as scale_app
from effnet_builder.cli.train import app as train_app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


def test_ci_runs_the_readmes_test_command() -> None:
    install, test = [line for line in BLOCKS[0][1].splitlines() if line]
    assert install.endswith("build-arch efficientnet-b0 --summary")
    assert test in (ROOT / ".ci" / "run").read_text()


def commands() -> list[tuple[str, str]]:
    """Every `$ command` of the README with the output printed below it."""
    found = []
    for language, block in BLOCKS:
        if language == "console":
            for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                found.append((command, output.strip()))
    return found


APPS = {"build-arch": build_app, "scale-arch": scale_app}
ALL = (*APPS.values(), train_app, eval_app, predict_app)


@pytest.mark.parametrize(("command", "output"), [pair for pair in commands() if pair[0].split()[0] in APPS])
def test_build_commands_print_what_the_readme_says(
    command: str, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for language, block in BLOCKS:  # the specs that the README shows, under the names in their first lines
        if language == "yaml" and block.startswith("# ") and block.split()[1].endswith(".yaml"):
            Path(block.split()[1]).write_text(block)
    program, *arguments = shlex.split(command)
    result = CliRunner().invoke(APPS[program], arguments)
    assert result.exit_code == (2 if "nothing was built" in output else 0)
    found = result.output.strip()
    printed = iter(line.rstrip() for line in found.splitlines())
    for line in output.splitlines():  # "..." stands for lines left out
        assert line == "..." or line in printed, line


def test_python_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = [block for language, block in BLOCKS if language == "python"]
    assert blocks
    for block in blocks:
        names: dict[str, object] = {}
        for line in block.splitlines():
            expression, _, comment = line.partition("  # ")
            if comment and not re.match(r"\w+\s*=|from |import ", expression):
                assert repr(eval(expression, names)) == comment.strip(), line
            else:
                exec(line, names)


def test_every_option_of_the_readme_exists() -> None:
    help_text = "".join(CliRunner().invoke(app, ["--help"]).stdout for app in ALL)
    torchruns = {"--nproc-per-node", "--no-python", "--max-restarts"}
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", "\n".join(block for _, block in BLOCKS[1:]))) - torchruns:
        assert option in help_text, option


def test_every_key_of_a_spec_is_in_the_page_that_the_readme_names() -> None:
    assert "(docs/spec.md)" in README
    page = (ROOT / "docs" / "spec.md").read_text()
    definitions = ArchSpec.model_json_schema()
    keys = {*definitions["properties"], "extends"}
    for part in definitions["$defs"].values():
        keys |= set(part["properties"])
    assert not [key for key in keys if not re.search(rf"\b{key}\b", page)]


def test_the_changelog_knows_this_version() -> None:
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
