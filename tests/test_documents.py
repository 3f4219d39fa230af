"""`extends`, overrides and names: what is merged into what, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from writing import WriteYaml

from effnet_builder import ConfigError, load_spec, resolve
from effnet_builder.config import load_document, node_of, override, parse_assignments, shipped
from effnet_builder.config.errors import Mark
from effnet_builder.config.reading import plain


def message(path: Path | str) -> str:
    with pytest.raises(ConfigError) as error:
        load_spec(path)
    return str(error.value)


def test_extends_merges_deeply_and_changes_single_rows(write_yaml: WriteYaml) -> None:
    path = write_yaml(
        "extends: efficientnet-b0\nname: mine\nnorm: {eps: 1e-3}\nstages:\n  2: {kernel_size: 3}\n  6: {repeats: 2}\n"
    )
    mine, base = load_spec(path), load_spec("efficientnet-b0")
    assert (mine.norm.eps, mine.norm.momentum) == (1e-3, 0.1)
    assert [row.kernel_size for row in mine.stages] == [3, 3, 3, 3, 5, 5, 3]
    assert mine.stages[6].repeats == 2
    assert mine.stages[:2] == base.stages[:2]


def test_a_list_replaces_a_list(write_yaml: WriteYaml) -> None:
    row = "{type: mbconv, expand_ratio: 1, out_channels: 8}"
    spec = load_spec(write_yaml(f"extends: efficientnet-b0\nname: mine\nstages: [{row}]\n"))
    assert len(spec.stages) == 1


def test_what_a_spec_says_of_itself_is_not_inherited(write_yaml: WriteYaml) -> None:
    assert "name: missing" in message(write_yaml("extends: efficientnet-b0\n"))
    spec = load_spec(write_yaml("extends: efficientnet-b0\nname: mine\n"))
    assert (spec.published, spec.source, spec.description) == (None, None, None)


def test_extends_a_file_in_the_same_folder_and_below(write_yaml: WriteYaml) -> None:
    write_yaml("extends: ./deep/base.yaml\nname: middle\nhead: {dropout: 0.3}\n", "middle.yaml")
    write_yaml("extends: efficientnet-b0\nname: base\nhead: {num_classes: 7}\n", "deep/base.yaml")
    spec = load_spec(write_yaml("extends: ./middle.yaml\nname: mine\n"))
    assert (spec.head.num_classes, spec.head.dropout) == (7, 0.3)


def test_a_mistake_is_located_in_the_file_that_makes_it(write_yaml: WriteYaml) -> None:
    base = write_yaml("extends: efficientnet-b0\nname: base\nhead: {dropout: 2}\n", "base.yaml")
    path = write_yaml("extends: ./base.yaml\nname: mine\nstem: {strid: 1}\n")
    assert message(path).splitlines() == [
        f"{base}:3:17 head.dropout = 2: expected a number from 0 below 1",
        f"{path}:3:8 stem.strid: unknown key; did you mean 'stride'?",
    ]


def test_cycles_are_named(write_yaml: WriteYaml) -> None:
    one = write_yaml("extends: ./two.yaml\nname: one\n", "one.yaml")
    write_yaml("extends: ./one.yaml\nname: two\n", "two.yaml")
    assert "a cycle: one.yaml -> two.yaml -> one.yaml" in message(one)
    itself = write_yaml("extends: ./self.yaml\nname: x\n", "self.yaml")
    assert "a cycle: self.yaml -> self.yaml" in message(itself)


def test_a_base_that_is_not_there_is_located_where_it_is_asked_for(write_yaml: WriteYaml) -> None:
    path = write_yaml("extends: ./gone.yaml\nname: mine\n")
    assert message(path) == f"{path}:1:10 extends = ./gone.yaml: no such file"


@pytest.mark.parametrize("key", ["9" * 5000, "02", "-1", "1.0", "½"])
def test_keys_that_are_no_index(write_yaml: WriteYaml, key: str) -> None:
    text = f'extends: efficientnet-b0\nname: mine\nstages: {{? "{key}" : {{stride: 1}}}}\n'
    assert "stages = a mapping: expected a list of 1 to 200 items" in message(write_yaml(text))


def test_long_chains_are_refused(write_yaml: WriteYaml) -> None:
    for i in range(12):
        last = write_yaml(f"extends: ./s{i - 1}.yaml\nname: s{i}\n" if i else "name: s0\n", f"s{i}.yaml")
    assert "a chain of too many files; at most 8 are allowed (--limit files=N raises it)" in message(last)


@pytest.mark.parametrize(
    "target", ["../outside.yaml", "/etc/passwd", "sub/../../outside.yaml", "link.yaml", "a\\0.yaml"]
)
def test_extends_stays_inside_the_folder(write_yaml: WriteYaml, tmp_path: Path, target: str) -> None:
    outside = tmp_path / "outside.yaml"
    outside.write_text("name: secret\n")
    spec = write_yaml(f'extends: "{target}"\nname: mine\n', "inside/spec.yaml")
    os.symlink(outside, tmp_path / "inside" / "link.yaml")
    found = message(spec)
    assert found.startswith(f"{spec}:1:10 extends = ")
    assert "inside the folder of the spec" in found
    assert "secret" not in found


@pytest.mark.parametrize("value", ["3", "[efficientnet-b0]", "{a: b}", "true"])
def test_extends_is_one_name(write_yaml: WriteYaml, value: str) -> None:
    assert "expected the name or path of one spec" in message(write_yaml(f"extends: {value}\nname: x\n"))


def test_unknown_names_suggest_near_ones(write_yaml: WriteYaml) -> None:
    assert message("eficientnet-b4") == ("eficientnet-b4: no archspec has this name; did you mean 'efficientnet-b4'?")
    assert "there are efficientnet-b0, " in message("qqqqqqq")
    assert message("").startswith("'': no archspec has this name; there are ")
    write_yaml("name: base\n", "base.yaml")
    assert "did you mean './base.yaml'?" in message(write_yaml("extends: base\nname: x\n"))
    assert "did you mean 'efficientnet-b4'?" in message(write_yaml("extends: efficientnetb4\nname: x\n"))


def test_roots_that_are_no_mapping(write_yaml: WriteYaml) -> None:
    for text in ("[1, 2]", "just text", "3"):
        assert "expected a mapping of keys to values" in message(write_yaml(text))


def test_every_shipped_document_loads_by_name_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(shipped("archspecs")) >= 19
    for name, file in shipped("archspecs").items():
        spec = load_spec(name)
        assert spec.name == name == file.stem
        resolve(spec)


def test_assignments_are_read_like_the_files() -> None:
    values, problems = parse_assignments(
        ["norm.eps=1e-3", "stages[2].se_ratio=0", "name=x", "stem={stride: 1}", "published="]
    )
    assert {path: plain(node) for path, node in values.items()} == {
        "norm.eps": 1e-3, "stages.2.se_ratio": 0, "name": "x", "stem": {"stride": 1}, "published": None,
    }  # fmt: skip
    assert not problems
    _, problems = parse_assignments(
        ["norm", "=3", "x=[1", "padding=no", "a.0=1", "a[0]=2", "scaling.phi=1"], ["scaling.phi"]
    )
    assert len(problems) == 6
    assert all(str(problem).startswith("--set ") for problem in problems)
    assert [problem.message for problem in problems[-2:]] == ["set twice by the arguments"] * 2


@pytest.mark.parametrize("path", ["", "a..b", "a[b]", "a[-1]", "a b", "[0]", "a."])
def test_paths_that_are_none(path: str) -> None:
    document = override(load_document("efficientnet-b0", "archspecs"), {path: node_of(1, Mark("here"))})
    assert "expected a path such as stages.2.stride" in str(document.problems[0])


def test_an_index_outside_the_list() -> None:
    with pytest.raises(ConfigError, match=r"stages\[7\]: expected an index from 0 to 6"):
        load_spec("efficientnet-b0", {"stages[7].stride": 1})
