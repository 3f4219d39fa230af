"""YAML text to located values: read as YAML 1.2 reads it, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from effnet_builder.config import ConfigError, reading
from effnet_builder.config.reading import Document, parse_yaml, plain, read_document
from effnet_builder.config.writing import dump_yaml


@pytest.fixture(params=["CSafeLoader", "SafeLoader"], autouse=True)
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of PyYAML's parsers: a source build of PyYAML may lack the one in C."""
    monkeypatch.setattr(reading, "_Loader", getattr(yaml, request.param))


def read(text: str) -> object:
    document = parse_yaml(text, "f.yaml")
    assert not document.problems, document.problems
    return plain(document.root)


def problems(text: str) -> list[str]:
    try:
        return [str(problem) for problem in parse_yaml(text, "f.yaml").problems]
    except ConfigError as error:
        return str(error).splitlines()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-7", -7), ("+3", 3), ("0", 0), ("1e-3", 1e-3), ("1e3", 1000.0), ("-1.5E+2", -150.0), (".5", 0.5),
        ("5.", 5.0), ("0.25", 0.25), ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("silu", "silu"), ("'no'", "no"), ('"1e-3"', "1e-3"), ("y", "y"), ("1.2.3", "1.2.3"), ("[1, a]", [1, "a"]),
        ("3x3", "3x3"), ("arXiv 1905.11946", "arXiv 1905.11946"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = read(f"key: {text}")
    assert found == {"key": value}
    assert type(found["key"]) is type(value)  # type: ignore[index]


@pytest.mark.parametrize(
    "text",
    ["no", "Yes", "on", "OFF", "010", "08", "0o10", "0x1F", "0b11", "1_000", "1:30", "190:20:30", "2024-01-01",
     "2024-01-01 10:00:00", ".nan", "-.inf", ".INF", "1e400", "-1e999", "1234567890123456789"],
)  # fmt: skip
def test_what_yaml_versions_read_differently_is_refused(text: str) -> None:
    [line] = problems(f"a: 1\nkey: {text}\n")
    assert line.startswith(f"f.yaml:2:6 key = {text}: ")


@pytest.mark.parametrize(
    ("text", "place", "word"),
    [
        ("a: &x 1\nb: *x", "1:4", "aliases"),
        ("a: *x", "1:4", "aliases"),
        ("a: {<<: {b: 1}}", "1:5", "merge keys"),
        ("a: !!int 3.5", "1:4", "tags"),
        ("a: !!python/object/apply:os.system [id]", "1:4", "tags"),
        ("? [1]\n: 2", "1:3", "plain word as key"),
        ("a: 1\n---\nb: 2", "2:1", "second"),
        ("a: 1\na: 2", "2:1", "set twice, first in line 1"),
        ("a: 'x", None, "not valid YAML"),
        ("a: b: c", None, "not valid YAML"),
        ("a: [1, 2", None, "not valid YAML"),
        ("a: \x00", None, "not allowed"),
        ("a: \x07", None, "not allowed"),
        ("", None, "empty"),
        ("# only a comment\n", None, "empty"),
        ("[" * 1000, None, "at most 32 are allowed (--limit nesting=N raises it)"),
        ("- " * 100_000 + "x", None, "at most 32 are allowed (--limit nesting=N raises it)"),
        ("{a: " * 1000, None, "at most 32 are allowed (--limit nesting=N raises it)"),
        ("[" + "1," * 20_000 + "]", None, "at most 10,000 are allowed (--limit values=N raises it)"),
    ],
)
def test_everything_else_is_refused_in_one_located_line(text: str, place: str | None, word: str) -> None:
    [line] = problems(text)
    assert line.startswith(f"f.yaml:{place or ''}")
    assert word in line
    assert len(line) < 200


def test_nodes_know_where_they_and_their_keys_were_written() -> None:
    root = parse_yaml("stem:\n  stride: 2\nstages: [{repeats: 3}]\n", "f.yaml").root
    assert isinstance(root.value, dict)
    stem, stages = root.value["stem"], root.value["stages"]
    assert isinstance(stem.value, dict)
    assert isinstance(stages.value, list)
    stride = stem.value["stride"]
    row = stages.value[0]
    assert isinstance(row.value, dict)
    assert (str(stride.key_mark), str(stride.mark)) == ("f.yaml:2:3", "f.yaml:2:11")
    assert str(row.value["repeats"].mark) == "f.yaml:3:20"


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        document = parse_yaml(text, "f.yaml")
    except ConfigError as error:
        assert str(error)
    else:
        assert isinstance(document, Document)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(data)
    try:
        read_document(path)
    except ConfigError as error:
        assert str(error).startswith(str(path))


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**17), 10**17), st.floats(allow_nan=False, allow_infinity=False),
    st.text(), st.sampled_from(["no", "010", "1e3", "~", "null", "1:30", "2024-01-01", ".nan", "=", "<<", "- a", "#"]),
)  # fmt: skip


@given(
    st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(min_size=1), inner), max_leaves=20)
)
def test_what_is_dumped_reads_back_the_same(data: object) -> None:
    assert read(dump_yaml({"data": data})) == {"data": data}


def test_files_that_are_no_spec(tmp_path: Path) -> None:
    (tmp_path / "big.yaml").write_bytes(b"a" * 300_000)
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    (tmp_path / "utf16.yaml").write_bytes("name: x".encode("utf-16"))
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfname: x")
    expected = {
        "big.yaml": "too many KiB; at most 256 are allowed (--limit kib=N raises it)",
        "latin.yaml": "not UTF-8 text (byte 9 is 0xe9)",
        "utf16.yaml": "not UTF-8 text",
        "missing.yaml": "no such file",
        "a\0b.yaml": "null",
        "x" * 300: "cannot be read",
        ".": "is a directory",
    }
    for name, message in expected.items():
        with pytest.raises(ConfigError, match=r".") as error:
            read_document(f"{tmp_path}/{name}")
        assert message in str(error.value)
    assert plain(read_document(tmp_path / "bom.yaml").root) == {"name": "x"}


def test_a_device_and_a_pipe_are_refused_without_waiting(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.yaml")
    for path in ("/dev/zero", tmp_path / "pipe.yaml"):
        with pytest.raises(ConfigError, match="expected a regular file"):
            read_document(path)
