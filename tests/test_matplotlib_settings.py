"""Pictures are the same whatever matplotlib is configured to do, and one that fails costs only itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
from folders import make_folder
from typer.testing import CliRunner

from effnet_builder.cli.train import app as train_app

ABSURD = (
    "text.usetex: True\nfont.family: cursive\nfigure.dpi: 7\nsavefig.dpi: 7\nsavefig.bbox: tight\nlines.linewidth: 9\n"
    "axes.linewidth: 9\nsvg.fonttype: none\nsvg.hashsalt: mine\npath.sketch: 5, 100, 2\naxes.titlesize: 40\nimage.cmap: hot\n"
    "axes.formatter.use_locale: True\nxtick.direction: in\nfont.size: 30\ntext.parse_math: True\naxes.unicode_minus: False\n"
    "savefig.transparent: True\nsavefig.pad_inches: 3\nfigure.hooks: evil:main\nbackend: module://evil\naxes.grid: True\n"
)
DRAW = """
import sys
from effnet_builder.cli import build, scale
from typer.testing import CliRunner
def run(app, *arguments):
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0, said.output
run(build.app, "efficientnet-pico", "--diagram", f"{sys.argv[1]}/a.svg")
run(build.app, "efficientnet-pico", "--diagram", f"{sys.argv[1]}/a.png")
run(scale.app, "efficientnet-pico", "--fit", "macs=30M", "--plot", f"{sys.argv[1]}/b.svg")
assert "matplotlib.style" not in sys.modules and "evil" not in sys.modules
"""


def drawn(folder: Path, name: str, **variables: str) -> dict[str, bytes]:
    """The pictures that a process makes with `folder` as its working directory; it prints nothing."""
    out = folder / name
    out.mkdir()
    environment = os.environ | {"PYTHONWARNINGS": "ignore", "PYTHONPATH": os.pathsep.join(sys.path)} | variables
    ended = subprocess.run(
        [sys.executable, "-c", DRAW, str(out)], cwd=folder, env=environment, capture_output=True, text=True, timeout=100
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    return {file.name: file.read_bytes() for file in out.iterdir()}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The pictures without any configuration."""
    return drawn(tmp_path_factory.mktemp("plain"), "out")


def pipe(file: Path) -> None:
    """A pipe, which is waited for by whoever opens it."""
    os.mkfifo(file)


@pytest.mark.parametrize("kind", ["absurd", "no text", "no syntax", "pipe"])
def test_no_configuration_changes_a_picture(tmp_path: Path, plain: dict[str, bytes], kind: str) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('evil')")
    home = tmp_path / "home" / "matplotlib"
    (home / "stylelib").mkdir(parents=True)
    pipe(home / "stylelib" / "evil.mplstyle")
    for file in (tmp_path / "matplotlibrc", home / "matplotlibrc", tmp_path / "mine.rc"):
        if kind == "pipe":
            pipe(file)
        else:
            file.write_bytes({"absurd": ABSURD.encode(), "no text": b"\xff\xfe\0", "no syntax": b"{{\nx\ny: z\n"}[kind])
    variables = {"MATPLOTLIBRC": str(tmp_path / "mine.rc"), "MPLBACKEND": "module://evil", "MPLCONFIGDIR": str(home)}
    assert drawn(tmp_path, "out", **variables) == plain
    assert drawn(tmp_path, "no-backend", MPLBACKEND="there is none") == plain


def test_the_environment_and_the_backend_are_as_before() -> None:
    code = (
        "import os, matplotlib.rcsetup if False else os\nimport os\nbefore, exists = dict(os.environ), os.path.exists\n"
        "import effnet_builder.plotting, matplotlib\n"
        "assert dict(os.environ) == before and os.path.exists is exists\n"
        "assert dict.__getitem__(matplotlib.rcParams, 'backend') == 'svg'\n"
    ).replace("import os, matplotlib.rcsetup if False else os\n", "")
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"MPLBACKEND": "svg"})


def test_settings_of_the_program_change_no_picture(tmp_path: Path) -> None:
    from effnet_builder import analyze, load_spec, resolve
    from effnet_builder.plotting import diagram, plot_curves, to_svg

    plan = resolve(load_spec("efficientnet-pico"))
    rows = [{"epoch": 1.0, "lr": 0.1, "train_loss": 1.0}, {"epoch": 2.0, "lr": 0.2, "train_loss": 0.5}]

    def pictures() -> list[str]:
        return [to_svg(diagram(plan, analyze(plan))), to_svg(plot_curves(rows))]

    before = pictures()
    with matplotlib.rc_context({"text.usetex": True, "font.size": 40, "lines.linewidth": 9, "axes.linewidth": 7}):
        assert pictures() == before
        assert matplotlib.rcParams["font.size"] == 40


def train(folder: Path, out: Path) -> str:
    """Train for an epoch, with a report; what is said on stderr."""
    options = [
        "--epochs",
        "1",
        "--set",
        "batch_size=4",
        "--recipe",
        "small-images",
        "--resolution",
        "16",
        "--device",
        "cpu",
    ]
    said = CliRunner().invoke(
        train_app, ["efficientnet-pico", "--data", f"folder:{folder}", *options, "--out", str(out)]
    )
    assert said.exit_code == 0, said.output
    assert (out / "result.json").exists()
    return said.stderr


def test_a_picture_that_fails_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no\x1b font\nat all")

    monkeypatch.setattr("effnet_builder.plotting.plot_confusion", fail)
    monkeypatch.setattr("effnet_builder.plotting.training.plot_reliability", fail)
    said = train(make_folder(tmp_path / "data"), tmp_path / "run")
    assert said.count("warning: ") == 2
    assert "warning: no confusion.svg: RuntimeError: no\\x1b font\n" in said
    assert "warning: no picture reliability in the report: RuntimeError: no\\x1b font\n" in said
    assert {"curves.svg", "curves.png"} <= {file.name for file in (tmp_path / "run").iterdir()}
    report = (tmp_path / "run" / "report.html").read_text()
    assert "Loss, accuracy and learning rate over epochs" in report
    assert "Confusion matrix: true classes" in report
    assert "Accuracy over the probability" not in report


def test_a_report_that_fails_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of the report")

    monkeypatch.setattr("effnet_builder.cli.finish.write_report", fail)
    said = train(make_folder(tmp_path / "data"), tmp_path / "run")
    assert said == "warning: no report: ZeroDivisionError: of the report\n"


def test_training_under_a_hostile_matplotlibrc_ends_with_a_report(tmp_path: Path) -> None:
    make_folder(tmp_path / "data")
    (tmp_path / "matplotlibrc").write_text(ABSURD)
    code = "from effnet_builder.cli.train import main; main()"
    options = "efficientnet-pico --data folder:data --epochs 1 --set batch_size=4 --recipe small-images --resolution 16 --out run"
    ended = subprocess.run(
        [sys.executable, "-c", code, *options.split()], cwd=tmp_path, capture_output=True, text=True, timeout=200,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "run" / "report.html").read_text().count('class="drawing') == 8
