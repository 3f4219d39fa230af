"""The wheel: everything that is shipped works by name, far from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from this checkout by its own build backend, which the test extra brings along."""
    out = tmp_path_factory.mktemp("wheel")
    code = f"import hatchling.build; print(hatchling.build.build_wheel({str(out)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_every_archspec_and_recipe(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for kind in ("archspecs", "recipes"):
        for file in (ROOT / kind).rglob("*.yaml"):
            assert f"effnet_builder/{file.relative_to(ROOT).as_posix()}" in names
    assert "effnet_builder/py.typed" in names
    assert "effnet_builder/report/report.html.j2" in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


def summary_of_b4(script: Path, folder: Path) -> str:
    """What `build-arch efficientnet-b4 --summary` prints last, run as a command in some other folder."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [script, "efficientnet-b4", "--summary"]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return result.stdout.splitlines()[-1]


B4 = "efficientnet-b4: 19,341,616 params, 4,393,771,024 MACs at 380 px"


def test_an_installed_wheel_works_by_name_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv" / "bin"
    # The dependencies are those of this interpreter; the package itself must come from the wheel.
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    install = [
        programs / "python",
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--ignore-installed",
        wheel,
    ]
    subprocess.run(install, check=True, capture_output=True)
    where = [programs / "python", "-c", "import effnet_builder; print(effnet_builder.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert Path(found).is_relative_to(site)
    assert summary_of_b4(programs / "build-arch", tmp_path) == B4


def test_this_installation_works_by_name_from_any_folder(tmp_path: Path) -> None:
    """In CI and after the README's commands this is the editable one."""
    programs = Path(sys.executable).parent
    assert summary_of_b4(programs / "build-arch", tmp_path) == B4
    version = subprocess.run([programs / "train-arch", "--version"], capture_output=True, text=True, check=True).stdout
    assert version.startswith("effnet_builder 0.")
