"""Pictures through the commands: files that are there and whole, and mistakes in one sentence."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from effnet_builder.cli.build import app as build_app
from effnet_builder.cli.scale import app as scale_app

pytestmark = pytest.mark.filterwarnings("ignore::effnet_builder.ScalingWarning")


@pytest.mark.parametrize(
    ("app", "arguments"),
    [
        (build_app, ["efficientnet-b0", "--summary", "--diagram"]),
        (build_app, ["--list", "--diagram"]),
        (scale_app, ["efficientnet-b0", "--phi", "0:7:1", "--plot"]),  # depth alone has too many blocks at 7
        (scale_app, ["efficientnet-b0", "--fit", "params=10M", "--plot"]),
        (scale_app, ["efficientnet-b0", "--fit", "macs=300M", "--theme", "dark", "--rule", "fast", "--plot"]),
    ],
)
def test_a_picture_is_written(app: object, arguments: list[str], tmp_path: Path) -> None:
    file = tmp_path / "picture.svg"
    result = CliRunner().invoke(app, [*arguments, str(file)])  # type: ignore[arg-type]
    assert result.exit_code == 0, result.output
    assert f"wrote {file}" in result.stderr
    assert ElementTree.parse(file).getroot().tag.endswith("svg")
    assert [path.name for path in tmp_path.iterdir()] == ["picture.svg"]


@pytest.mark.parametrize(("app", "option"), [(build_app, "--diagram"), (scale_app, "--plot")])
def test_mistakes_exit_with_2(app: object, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["efficientnet-b0", *(["--phi", "0:1:1"] if option == "--plot" else []), option]

    def printed(file: str) -> str:
        result = CliRunner().invoke(app, [*arguments, file])  # type: ignore[arg-type]
        assert result.exit_code == 2
        return result.stderr

    assert f"{option} x.pdf: expected a name that ends in .svg or .png\n" in printed("x.pdf")
    assert "cannot be written: No such file or directory" in printed(str(tmp_path / "no" / "x.svg"))
    for name in [name for name in sys.modules if name.startswith(("matplotlib", "effnet_builder.plotting"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "matplotlib is not installed; pip install 'effnet_builder[plot]'" in printed("x.svg")


def test_a_grid_has_no_curve() -> None:
    result = CliRunner().invoke(scale_app, ["efficientnet-b0", "--sweep", "depth=1:2:1", "--plot", "x.svg"])
    assert result.exit_code == 2
    assert "which --phi and --fit give" in result.stderr
