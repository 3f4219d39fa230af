"""`build-arch` as a process and in process: output, exit codes, files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result
from writing import WriteYaml

from effnet_builder import load_spec, resolve
from effnet_builder.cli.build import app
from effnet_builder.config import shipped

BROKEN = """\
name: broken
resolution: 1e3
stem: {out_channels: 16, kernal_size: 3}
stages:
  - {type: mbconv, expand_ratio: 1, out_channels: 8, stride: 3}
  - {type: mbconv, expand_ratio: 6, out_channels: 16, se_ratio: -1}
head: {out_channels: 64, dropout: 1.5}
"""


def build_arch(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


COMMAND = [sys.executable, "-c", "from effnet_builder.cli.build import main; main()"]


def process(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, env=os.environ | environment, check=False
    )


def test_without_options_plan_and_module_are_compared() -> None:
    result = build_arch("efficientnet-b0")
    assert result.exit_code == 0
    assert result.stdout == (
        "efficientnet-b0: 5,288,548 params, 385,814,752 MACs at 224 px; 16 blocks; plan and module agree\n"
    )


def test_a_module_that_differs_from_its_plan_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effnet_builder.models.verify.differences", lambda *_: ["params: plan 1, module 2"])
    result = build_arch("efficientnet-b0")
    assert result.exit_code == 1
    assert "params: plan 1, module 2" in result.stderr


def test_summary_of_the_notebook_as_json() -> None:
    result = build_arch("notebook-b0", "--num-classes", 10, "--format", "json")
    data = json.loads(result.stdout)
    assert (data["name"], data["resolution"], data["params"]) == ("notebook-b0", 224, 14047366)
    assert set(data["stages"][0]["rows"][0]) >= {
        "name", "type", "blocks", "in_resolution", "out_resolution", "in_channels", "out_channels", "params", "macs",
    }  # fmt: skip


def test_flags_change_the_network() -> None:
    result = build_arch(
        "efficientnet-b4", "--phi", 1, "--resolution", 200, "--in-channels", 1, "--num-classes", 7,
        "--set", "stages[2].kernel_size=3", "--set", "norm.eps=1e-3", "--format", "json",
    )  # fmt: skip
    data = json.loads(result.stdout)
    assert (data["depth"], data["width"], data["resolution"]) == (1.2, 1.1, 200)
    assert (data["in_channels"], data["num_classes"]) == (1, 7)
    plain = json.loads(build_arch("efficientnet-b4", "--phi", 1, "--format", "json").stdout)
    assert data["stages"][2]["params"] < plain["stages"][2]["params"]
    explicit = json.loads(build_arch("efficientnet-b0", "--width", 1.4, "--depth", 1.8, "--format", "json").stdout)
    assert explicit["params"] == 19341616  # B4


def test_layers_is_torchinfos_table_of_the_real_module() -> None:
    result = build_arch("efficientnet-b0", "--layers")
    assert result.exit_code == 0
    assert "Total params: 5,288,548" in result.stdout
    assert "depthwise" in result.stdout
    assert "[1, 1280, 7, 7]" in result.stdout


def test_list_shows_every_archspec() -> None:
    result = build_arch("--list")
    names = [line.split()[0] for line in result.stdout.splitlines()[2:-2]]
    assert set(names) == set(shipped("archspecs"))
    assert {"efficientnet-b0", "efficientnet-l2", "efficientnet-pico", "notebook-b7"} <= set(names)
    assert names.index("efficientnet-b8") < names.index("notebook-b0")
    assert "5,288,548  385.8 M" in result.stdout
    data = json.loads(build_arch("--list", "--format", "json").stdout)
    assert [entry["name"] for entry in data] == names


def test_saved_variant_loads_again_as_the_same_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("efficientnet-b4", "--phi", 1.5, "--set", "stages[3].se_ratio=0.5", "--in-channels", 1)
    saved = build_arch(*arguments, "--save", "mine.yaml", "--summary")
    assert saved.exit_code == 0
    assert "wrote mine.yaml" in saved.stderr
    again = build_arch("mine.yaml", "--summary")
    assert again.stdout.replace("mine", "efficientnet-b4") == saved.stdout
    spec = load_spec("mine.yaml")
    assert spec.name == "mine"
    assert spec.description == "efficientnet-b4 with --phi 1.5 --in-channels 1 --set stages[3].se_ratio=0.5"
    assert spec.published is None
    varied = resolve(load_spec("efficientnet-b4"), phi=3, in_channels=1)
    assert resolve(spec, phi=3).stages[2] == varied.stages[2]  # its rule is kept
    # the whole text, so that a change of its style is seen
    assert Path("mine.yaml").read_text().startswith("# mine: ")


def test_every_archspec_survives_saving(tmp_path: Path) -> None:
    for name in ("efficientnet-b0", "efficientnet-b7", "notebook-b3", "efficientnet-pico"):
        file = tmp_path / f"{name}.yaml"
        assert build_arch(name, "--save", file, "--summary").exit_code == 0
        assert load_spec(file) == load_spec(name)


def test_save_overwrites_nothing_and_leaves_no_rests(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("precious")
    link = tmp_path / "link.yaml"
    link.symlink_to(tmp_path / "nothing")
    for target, message in {
        file: "exists already",
        tmp_path / "mine.txt": "expected a name that ends in .yaml",
        tmp_path / "no" / "folder.yaml": "No such file or directory",
        tmp_path / f"{'x' * 300}.yaml": "expected a name of at most 100 characters",
        tmp_path / "my net.yaml": "expected a name",
        link: "exists already",
    }.items():
        result = build_arch("efficientnet-b0", "--num-classes", 5, "--save", target, "--summary")
        assert result.exit_code == 2
        assert message in result.stderr
    assert file.read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["link.yaml", "mine.yaml"]


def test_a_name_given_by_hand_is_kept(tmp_path: Path) -> None:
    assert (
        build_arch("efficientnet-b0", "--set", "name=foo", "--save", tmp_path / "bar.yaml", "--summary").exit_code == 0
    )
    assert load_spec(tmp_path / "bar.yaml").name == "foo"


def test_five_mistakes_give_five_lines_and_exit_code_2(write_yaml: WriteYaml) -> None:
    file = write_yaml(BROKEN, "broken.yaml")
    result = process(file)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        f"{file}:2:13 resolution = 1000.0: expected a whole number from 1 to 65,536; write 1000",
        f"{file}:3:26 stem.kernal_size: unknown key; did you mean 'kernel_size'?",
        f"{file}:5:62 stages[0].stride = 3: expected 1 or 2",
        f"{file}:6:65 stages[1].se_ratio = -1: expected a number from 0 to 1",
        f"{file}:7:35 head.dropout = 1.5: expected a number from 0 below 1",
        "5 problems; nothing was built.",
    ]


def test_mistakes_in_arguments_name_the_argument() -> None:
    result = build_arch("efficientnet-b0", "--phi", 400, "--width", -1, "--set", "stages[9].stride=1", "--set", "x=1")
    assert result.exit_code == 2
    assert "--phi 400: scaling.phi = 400: expected a number from -100 to 100" in result.stderr
    assert "--width -1: scaling.width = -1: expected a number above 0 to 100" in result.stderr
    assert "--set stages[9].stride=1: stages[9]: expected an index from 0 to 6" in result.stderr
    assert "--set x=1: x: unknown key; allowed are " in result.stderr
    assert "4 problems; nothing was built." in result.stderr


def test_mistakes_in_arguments_and_file_come_together(write_yaml: WriteYaml) -> None:
    result = build_arch(write_yaml(BROKEN), "--set", "a-b=1", "--set", "padding=no", "--set", "stem.stride")
    assert result.exit_code == 2
    assert "8 problems; nothing was built." in result.stderr


def test_what_phi_takes_the_place_of_is_said(write_yaml: WriteYaml) -> None:
    result = build_arch("efficientnet-b4", "--phi", 3, "--width", 1.2, "--summary")
    assert result.stderr == "note: --phi 3 takes the place of the spec's depth 1.8, resolution 380\n"
    assert build_arch("efficientnet-b0", "--phi", 3, "--summary").stderr == ""
    mended = build_arch(
        write_yaml("extends: efficientnet-b0\nname: x\nscaling: {depth: deep}\n"), "--phi", 3, "--summary"
    )
    assert mended.stderr == "note: --phi 3 takes the place of the spec's depth deep\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing SPEC"),
        (["--list", "efficientnet-b0"], "--list goes with --format only"),
        (["--list", "--phi", "3"], "--list goes with --format only"),
        (
            ["efficientnet-b0", "--phi", "1", "--set", "scaling.phi=2"],
            "--set scaling.phi=2: set twice by the arguments",
        ),
        (["efficientnet-b0", "--resolution", "16"], "--resolution 16: scaling.resolution = 16.0: too small: stages[5]"),
        (["x"], "no archspec has this name"),
        (["efficientnet-b0", "--layers", "--summary"], "--summary and --layers print different things"),
        (["efficientnet-b0", "--layers", "--format", "json"], "--layers prints torchinfo's table only"),
        (["efficientnet-b0", "efficientnet-b1"], "2 SPECs; several go with --compare only"),
        (["efficientnet-b0", "--compare"], "--compare takes two SPECs or more"),
        (["efficientnet-b0", "--explain", "stages.9"], "--explain stages.9: no such part; did you mean 'stages.6'?"),
        (["efficientnet-b0", "--fromat", "json"], "--format"),
        (["efficientnet-b0", "--format", "xml"], "json"),
        (["efficientnet-b0", "--phi", "big"], "--phi"),
        (["efficientnet-b44"], "did you mean 'efficientnet-b4'?"),
        (["nowhere.yaml"], "nowhere.yaml: no such file"),
        (["/"], "is a directory"),
    ],
)
def test_mistakes_exit_with_2(arguments: list[str], message: str) -> None:
    result = build_arch(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_warnings_go_to_stderr(write_yaml: WriteYaml) -> None:
    file = write_yaml("extends: efficientnet-b0\nname: wide\nscaling: {beta: 1.5}\n")
    result = process(file, "--format", "json")
    assert result.returncode == 0
    assert json.loads(result.stdout)["name"] == "wide"
    assert result.stderr.startswith("warning: wide: alpha * beta^2 * gamma^2 = 3.571, not about 2")


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_colour_only_on_a_terminal_that_wants_it(environment: dict[str, str], coloured: bool) -> None:
    assert "\x1b" not in process("efficientnet-b99", **environment).stderr
    clean = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    terminal, slave = os.openpty()
    subprocess.run([*COMMAND, "efficientnet-b99"], stdout=slave, stderr=slave, env=clean | environment, check=False)
    os.close(slave)
    assert ("\x1b[31m" in os.read(terminal, 10_000).decode()) == coloured


def test_a_reader_that_has_enough_is_no_error() -> None:
    with subprocess.Popen([*COMMAND, "--list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()  # before anything is printed
        assert running.stderr.read() == ""
    assert running.returncode == 0


def test_a_full_disk_is_one_sentence() -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run([*COMMAND, "--list"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, "standard output: No space left on device\n")


def test_a_terminal_without_unicode_shows_what_it_can() -> None:
    result = process("efficientnet-pico", "--layers", PYTHONIOENCODING="latin-1")
    assert (result.returncode, "Total params: 335,594" in result.stdout) == (0, True)


def test_help_version_and_completion() -> None:
    text = process("--help").stdout
    for option in ("--summary", "--layers", "--list", "--phi", "--width", "--depth", "--resolution", "--num-classes",
                   "--in-channels", "--set", "--format", "--save", "--schema", "--weights", "--layout",
                   "--save-weights", "--version", "--install-completion"):  # fmt: skip
        assert option in text
    assert "\n  build-arch efficientnet-b0 --phi 3 --save mine.yaml\n" in text  # each example on a line of its own
    assert process("--version").stdout.startswith("effnet_builder 0.")
    found = process(_BUILD_ARCH_COMPLETE="complete_bash", COMP_WORDS="build-arch efficientnet-l2", COMP_CWORD="1")
    assert found.stdout.split() == ["efficientnet-l2"]
