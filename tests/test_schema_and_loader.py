"""The JSON Schemas and the loader are of one mind: what the one refuses, the other refuses, where it can know."""

from __future__ import annotations

import copy
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from editors import DOCUMENTS, MODELS, SCHEMAS, VALIDATORS, models, nodes, read
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator
from pydantic import ValidationError

from effnet_builder import ConfigError, load_spec
from effnet_builder.arch.spec import ArchSpec
from effnet_builder.config import Kind, StrictModel, load_document
from effnet_builder.config.reading import plain
from effnet_builder.config.writing import dump_yaml
from effnet_builder.train.recipe import load_recipe

EDGES = [0, 1, 2, 32, 64, 100, 1000, 1024, 65_536, 100_000, 1_000_000, 2**32 - 1, 10**15, 10**18]
VALUES: list[Any] = [
    *(sign * edge + step for edge in EDGES for sign in (1, -1) for step in (-1, 0, 1)),
    3, 5, 31, 33, 0.5, 2.5, 0.99, 1.01, 1e-9, -1e-9, 99.9, 100.1, 1e300, True, False, None, "", "x", "up", "3", "3.0", "true",
    "a" * 100, "a" * 101, "a" * 2000, "a" * 2001, "-a", [], {}, [1], [0.5, 2], [None], ["x"], [[]], [{}], [0.5] * 65,
    {"x": 1}, {"type": "conv"}, {"0": 1}, {"0": {}},
]  # fmt: skip


@pytest.mark.parametrize("model", models(), ids=lambda model: model.__name__)
def test_each_field_allows_what_its_schema_allows(model: type[StrictModel]) -> None:
    kind: Kind = "archspecs" if model.__name__ in SCHEMAS["archspecs"]["definitions"] else "recipes"
    definitions = SCHEMAS[kind]["definitions"]
    verdicts = set()
    for key, part in definitions[model.__name__]["properties"].items():
        words = [
            word for node in nodes(part) for word in [*node.get("enum", []), node.get("const")] if word is not None
        ]
        for value in [*VALUES, *words, *(f"{word}x" for word in words)]:
            by_schema = Draft7Validator({**part, "definitions": definitions}).is_valid(value)
            by_model = not any(error["loc"][:1] == (key,) for error in errors_of(model, {key: value}))
            assert by_schema == by_model, (key, value)
            changed = definitions[f"{model.__name__}Changes"]["properties"][key]
            if by_schema and not isinstance(value, dict):
                assert Draft7Validator({**changed, "definitions": definitions}).is_valid(value), (key, value)
            verdicts.add(by_schema)
    assert verdicts == {True, False}


# Rules between fields, which a schema does not know: `conflicts()` of a model, and these of recipes.
BETWEEN_FIELDS = ("Value error, nesterov needs a momentum", "Value error, mean has ")


def errors_of(model: type[StrictModel], data: Any) -> list[Any]:
    """What the model says against single fields of the data."""
    try:
        model.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_url=False)
        return [one for one in found if one["type"] != "conflicts" and not one["msg"].startswith(BETWEEN_FIELDS)]
    return []


class Verdicts(NamedTuple):
    by_schema: bool
    by_loader: bool
    certain: bool
    """Whether the loader refuses for what a schema can know."""


def judge(kind: Kind, data: Any, folder: Path) -> Verdicts:
    file = folder / "document.yaml"
    file.write_text(dump_yaml(data), encoding="utf-8")
    data = read(file.read_text(encoding="utf-8"))  # numbers of 19 digits are texts now
    by_schema = VALIDATORS[kind].is_valid(data)
    try:
        (load_spec if kind == "archspecs" else load_recipe)(file)
    except ConfigError:
        pass
    else:
        return Verdicts(by_schema, True, False)
    try:
        document = load_document(file, kind)
    except ConfigError:  # `extends` is no text, or names no document, of which a schema knows nothing
        return Verdicts(by_schema, False, not isinstance(data.get("extends"), str))
    errors = errors_of(MODELS[kind], plain(document.root))
    return Verdicts(by_schema, False, any(is_certain(error, data) for error in errors))


ROW_KEYS = {
    key for part in ArchSpec.model_json_schema()["$defs"].values() if "const" in part["properties"].get("type", {})
    for key in part["properties"]
}  # fmt: skip


def is_certain(error: Any, data: Any) -> bool:
    """Whether a schema can know of this error.

    It cannot know that 3.0 is no whole number (JSON has one kind of number), and where the document `extends` another,
    which keys, lists and types of rows are there to be changed.
    """
    value = error["input"]
    if error["type"] in ("int_type", "value_error") and isinstance(value, float) and value.is_integer():
        return False
    if "extends" not in data:
        return True
    if error["type"] == "extra_forbidden":
        return error["loc"][-1] not in ROW_KEYS and not error["loc"][-1].isdigit()
    if error["type"] == "tuple_type" and isinstance(value, dict) and value:
        return not all(key.isdigit() for key in value)
    return value is not None and error["type"] not in ("missing", "union_tag_not_found")


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    children = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def parent_of(data: Any, path: tuple[Any, ...]) -> Any:
    for part in path[:-1]:
        data = data[part]
    return data


def keys_of(kind: Kind) -> list[str]:
    """Every key that some mapping of these documents has: a typo that is another key is no typo."""
    return sorted({key for node in nodes(SCHEMAS[kind]) for key in node.get("properties", {})})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("documents")


@given(document=st.sampled_from(DOCUMENTS), draw=st.data())
@settings(max_examples=200)
def test_a_misspelt_key_is_refused_by_both(folder: Path, document: tuple[Kind, Any], draw: st.DataObject) -> None:
    kind, data = document
    data = copy.deepcopy(data)
    place = draw.draw(st.sampled_from([path for path in places(data) if isinstance(path[-1], str)]))
    parent, key = parent_of(data, place), place[-1]
    at = draw.draw(st.integers(0, len(key) - 1))
    typo = key[:at] + draw.draw(st.sampled_from(string.ascii_lowercase)) + key[at + draw.draw(st.integers(0, 1)) :]
    assume(typo not in keys_of(kind))
    parent[typo] = parent.pop(key)
    verdicts = judge(kind, data, folder)
    assert not verdicts.by_schema
    assert not verdicts.by_loader


TEXT = st.text(string.ascii_letters + string.digits + " .:-_", max_size=12)
JUNK = st.one_of(
    st.sampled_from(VALUES), st.integers(-10, 100), st.floats(-2, 2), TEXT, st.lists(st.integers(-1, 2), max_size=3),
    st.dictionaries(TEXT, st.integers(0, 3), max_size=2),
)  # fmt: skip
SAID: dict[str, list[Any]] = {}  # by key, what the shipped documents say
for _, _data in DOCUMENTS:
    for _path in places(_data):
        SAID.setdefault(str(_path[-1]), []).append(parent_of(_data, _path)[_path[-1]])


def values(key: Any) -> st.SearchStrategy[Any]:
    """Any junk, or what some document says in such a place."""
    return JUNK | st.sampled_from(SAID.get(str(key), VALUES)) | st.sampled_from(VALUES)


@given(document=st.sampled_from(DOCUMENTS), draw=st.data())
@settings(max_examples=400)
def test_any_value_anywhere(folder: Path, document: tuple[Kind, Any], draw: st.DataObject) -> None:
    kind, data = document
    data = copy.deepcopy(data)
    place = draw.draw(st.sampled_from(list(places(data))))
    parent, key = parent_of(data, place), place[-1]
    if isinstance(parent, dict) and draw.draw(st.booleans()):
        key = draw.draw(st.sampled_from([key for key in keys_of(kind) if key != "extends"]))
    parent[key] = draw.draw(values(key))
    agree(judge(kind, data, folder))


BASES = [(kind, data) for kind, data in DOCUMENTS if "extends" not in data]


@given(base=st.sampled_from(BASES), draw=st.data())
@settings(max_examples=400)
def test_any_change_anywhere(folder: Path, base: tuple[Kind, Any], draw: st.DataObject) -> None:
    kind, whole = base
    place = draw.draw(st.sampled_from([path for path in places(whole) if path[0] != "name"]))
    if isinstance(place[-1], str) and len(place) > 1 and draw.draw(st.booleans()):
        place = (*place[:-1], draw.draw(st.sampled_from(keys_of(kind))))
    change = draw.draw(values(place[-1]))
    for part in reversed(place):
        change = {str(part): change}
    agree(judge(kind, {"extends": whole["name"], "name": "x", **change}, folder))


def agree(verdicts: Verdicts) -> None:
    if not verdicts.by_schema:
        assert not verdicts.by_loader, "the schema refuses what the loader takes"
    if verdicts.certain:
        assert not verdicts.by_schema, "the schema takes what the loader refuses"
