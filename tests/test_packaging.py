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
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


def test_an_installed_wheel_works_by_name_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False, system_site_packages=False)
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(site)
    # The dependencies are those of this interpreter; the package itself must come from the wheel.
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(dependencies))
    code = (
        "import effnet_builder; print(effnet_builder.__file__);"
        "from effnet_builder.cli.build import main; import sys; sys.argv = ['build-arch', *sys.argv[1:]]; main()"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [tmp_path / "venv" / "bin" / "python", "-c", code, "efficientnet-b4", "--summary"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, *_, last = result.stdout.splitlines()
    assert Path(first).is_relative_to(site)
    assert last == "efficientnet-b4: 19,341,616 params, 4,393,771,024 MACs at 380 px"


def test_this_installation_has_both_commands(tmp_path: Path) -> None:
    for command in ("build-arch", "train-arch"):
        script = Path(sys.executable).parent / command
        if not script.exists():
            pytest.skip("not installed with its scripts")
        result = subprocess.run([script, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert result.stdout.startswith("effnet_builder 0.")
