"""docs/spec.md: every field, and examples that do what the page says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from editors import MODELS, ROOT, VALIDATORS, read
from typer.testing import CliRunner

from effnet_builder import load_spec, resolve
from effnet_builder.cli.build import app as build_app
from effnet_builder.config import Kind
from effnet_builder.train.recipe import load_recipe

PAGE = (ROOT / "docs" / "spec.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(yaml|console)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
EXAMPLES = {text.split()[1]: text for language, text in BLOCKS if language == "yaml"}
CONSOLES = [text for language, text in BLOCKS if language == "console"]
RECIPES = [
    text.split()[1]
    for text in re.findall(r"^```yaml\n(.*?)^```", PAGE.partition("\n## Recipes\n")[2], re.DOTALL | re.MULTILINE)
]


def test_every_group_of_fields_has_its_example() -> None:
    assert len(EXAMPLES) == len([language for language, _ in BLOCKS if language == "yaml"]), "two of one name"
    sections = re.split(
        r"^##+ ",
        re.sub(r"```.*?```", lambda block: block[0].replace("\n#", "\n%"), PAGE, flags=re.DOTALL),
        flags=re.MULTILINE,
    )[1:]
    for section in sections:
        assert "```yaml" in section, section.partition("\n")[0]
    commands = [console.splitlines()[0] for console in CONSOLES]
    assert commands == [f"$ build-arch {name}" for name in EXAMPLES if name not in RECIPES]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_valid_for_both(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(EXAMPLES[name])
    kind: Kind = "recipes" if name in RECIPES else "archspecs"
    assert VALIDATORS[kind].is_valid(read(EXAMPLES[name]))
    if kind == "recipes":
        assert load_recipe(file).name == file.stem
    else:
        assert resolve(load_spec(file)).name == file.stem


@pytest.mark.parametrize("console", CONSOLES)
def test_an_example_prints_what_stands_below_it(console: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command, _, output = console.partition("\n")
    name = command.split()[-1]
    Path(name).write_text(EXAMPLES[name])
    result = CliRunner().invoke(build_app, shlex.split(command)[2:])
    assert result.output == output
    assert result.exit_code == 0


def test_links_of_the_page_lead_somewhere() -> None:
    text = re.sub(r"^```.*?^```", "", PAGE, flags=re.DOTALL | re.MULTILINE)
    headings = {heading.lower() for heading in re.findall(r"^#+ (\S+)$", text, re.MULTILINE)}
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 20
    for link in links:
        if link.startswith("#"):
            assert link[1:] in headings
        elif not link.startswith("https:"):
            assert (ROOT / "docs" / link).exists()


def test_the_page_has_every_field_of_every_model() -> None:
    for kind, model in MODELS.items():
        schema = model.model_json_schema()
        for definition in (schema, *schema["$defs"].values()):
            for key, part in definition["properties"].items():
                assert re.search(rf"^\| `{key}` \| .* \| {re.escape(part['description'])} \|$", PAGE, re.MULTILINE), (
                    kind,
                    key,
                )
