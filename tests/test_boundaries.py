"""The two borders of the design, and the public names, each seen from a fresh interpreter."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import effnet_builder

PACKAGE = Path(effnet_builder.__file__).parent


def modules_after(code: str) -> set[str]:
    """The top-level packages that are loaded after running `code` in a new process."""
    report = f"{code}\nimport sys; print(); print(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(result.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import effnet_builder as e; e.analyze(e.resolve(e.load_spec('efficientnet-b7'), phi=2))",
        "import effnet_builder.cli.build, effnet_builder.cli.train, effnet_builder.cli.scale",
        "import effnet_builder.cli.evaluate, effnet_builder.cli.predict",
        "import effnet_builder as e; s = e.load_spec('efficientnet-b0'); e.fit_budget(s, 'macs=1G'); e.explain(s)",
        "from effnet_builder.train.recipe import load_recipe; load_recipe('notebook')",
        "import effnet_builder; dir(effnet_builder)",
        "import sys; sys.argv = ['build-arch', 'efficientnet-b7', '--summary']\n"
        "from effnet_builder.cli.build import main\n"
        "try: main()\n"
        "except SystemExit as exit: assert exit.code == 0",
    ],
)
def test_no_torch_until_a_torch_name_is_touched(code: str) -> None:
    loaded = modules_after(code)
    assert "effnet_builder" in loaded
    assert not loaded & {"torch", "torchvision", "numpy", "sklearn", "torchinfo", "matplotlib", "optuna"}


def test_build_model_loads_torch_but_not_torchvision() -> None:
    loaded = modules_after("import effnet_builder; effnet_builder.build_model")
    assert "torch" in loaded
    assert "torchvision" not in loaded


def imports(folder: str) -> set[str]:
    """The project's packages that the files of a folder import, `arch`, `models` and so on."""
    found = set()
    for file in (PACKAGE / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 2 and node.module:
                found.add(node.module.partition(".")[0])
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [name for name in names if name.startswith("effnet_builder")], file
    return found


def test_who_imports_whom() -> None:
    assert imports("config") == {"escaping", "files"}
    shared = {"arithmetic", "config", "failures", "files", "precisions", "tensors"}
    assert imports("arch") == {"config", "precisions"}
    assert imports("models") == {"arch"} | shared
    assert imports("train") == shared


def test_public_names() -> None:
    assert effnet_builder.__all__ == [
        "Analysis", "ArchSpec", "ConfigError", "Cost", "Explanation", "FeatureNetwork", "Fit", "Network", "Plan",
        "ScalingWarning", "Variant", "WeightsWarning", "analyze", "build_model", "explain", "export_weights",
        "fit_budget", "import_weights", "load_spec", "resolve", "sweep",
    ]  # fmt: skip
    for name in effnet_builder.__all__:
        assert getattr(effnet_builder, name).__doc__
        assert name in dir(effnet_builder)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = effnet_builder.nothing


def test_public_signatures() -> None:
    import inspect

    assert str(inspect.signature(effnet_builder.load_spec)) == (
        "(source: 'str | os.PathLike[str]', overrides: 'Mapping[str, object] | None' = None) -> 'ArchSpec'"
    )
    assert list(inspect.signature(effnet_builder.resolve).parameters) == [
        "spec", "phi", "width", "depth", "resolution", "num_classes", "in_channels", "output_stride",
    ]  # fmt: skip
    assert list(inspect.signature(effnet_builder.analyze).parameters) == ["plan"]
    assert list(inspect.signature(effnet_builder.build_model).parameters) == [
        "source", "num_classes", "in_channels", "output_stride", "features_only", "out_indices",
    ]  # fmt: skip


def test_files_fit_a_head() -> None:
    for file in PACKAGE.rglob("*.py"):
        lines = file.read_text().splitlines()
        assert len(lines) <= 300, file
        assert lines[0].startswith('"""'), file
