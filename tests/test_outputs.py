"""Files that exist are not overwritten, by any option of any command, and it is said before the work begins."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from effnet_builder.cli import build, scale, train

FIT = ["efficientnet-b0", "--fit", "macs=1G"]
OPTIONS = [
    (build.app, ["efficientnet-pico", "--save"], "x.yaml"),
    (build.app, ["efficientnet-pico", "--diagram"], "x.svg"),
    (build.app, ["efficientnet-pico", "--save-weights"], "x.safetensors"),
    (build.app, ["--list", "--diagram"], "x.png"),
    (scale.app, [*FIT, "--save"], "x.yaml"),
    (scale.app, [*FIT, "--plot"], "x.svg"),
    (scale.app, ["efficientnet-b0", "--search", "--out"], "x"),
]


@pytest.mark.parametrize(("app", "arguments", "name"), OPTIONS)
@pytest.mark.parametrize("kind", ["file", "link", "dangling link"])
def test_no_option_overwrites_a_file(
    app: object, arguments: list[str], name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("work was begun")

    for where in ("build.varied_spec", "build._list", "scale.fit_budget", "search.candidates"):
        monkeypatch.setattr(f"effnet_builder.cli.{where}", work)
    file, precious = tmp_path / name, tmp_path / "precious"
    if kind != "dangling link":
        precious.write_text("mine")
    if kind == "file":
        precious.rename(file)
    else:
        file.symlink_to(precious)
    before = sorted(path.name for path in tmp_path.iterdir())
    result = CliRunner().invoke(app, [*arguments, str(file)])  # type: ignore[arg-type]
    assert result.exit_code == 2, result.output
    assert f"{arguments[-1]} {file}: exists already, and is not overwritten\n1 problem; nothing was" in result.stderr
    assert result.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert kind == "dangling link" or file.read_text() == "mine"


def test_all_files_that_exist_are_named_at_once(tmp_path: Path) -> None:
    options = []
    for option, name in (("--save", "a.yaml"), ("--diagram", "a.svg"), ("--save-weights", "a.safetensors")):
        (tmp_path / name).touch()
        options += [option, str(tmp_path / name)]
    result = CliRunner().invoke(build.app, ["efficientnet-pico", *options])
    assert result.exit_code == 2
    assert result.stderr.count("exists already, and is not overwritten") == 3


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_no_run_overwrites_a_file(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.touch() if kind == "file" else out.symlink_to(tmp_path / "nothing")
    result = CliRunner().invoke(train.app, ["efficientnet-pico", "--out", str(out)])
    assert result.exit_code == 2
    assert f"{out} exists already, and is not overwritten" in result.stderr
