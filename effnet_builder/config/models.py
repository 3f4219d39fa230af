"""The strict pydantic base of specs and recipes, and its errors turned into located problems."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError
from typing_extensions import Self

from .documents import Kind, load_document, nearest, nodes_of, override
from .errors import ConfigError, Mark, Path, Problem, format_value
from .reading import Document, Node, locate, node_of, plain, read_scalar
from .schema import Schema
from .writing import dump_yaml

# Far more than are shown; to find the nearest of the allowed words takes about a millisecond.
_MAX_DESCRIBED = 100

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", max_length=100, description="a name")]
Text = Annotated[str, Field(max_length=2000)]

Model = TypeVar("Model", bound="StrictModel")


class StrictModel(BaseModel):
    """Immutable data: unknown keys, silent conversions, NaN and infinities are refused."""

    # defer_build: most models are only ever built as a part of another.
    model_config: ClassVar[ConfigDict] = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True, defer_build=True
    )
    _document: Document | None = PrivateAttr(None)

    def __eq__(self, other: object) -> bool:
        # Two specs are equal if they say the same, wherever they were written.
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Fields, by path, that have no meaning beside the others, each with the reason: what a subclass refuses."""
        return iter(())

    @model_validator(mode="after")
    def _refuse_conflicts(self) -> Self:
        if found := list(self.conflicts()):
            raise PydanticCustomError("conflicts", "{conflicts}", {"conflicts": found})
        return self

    def model_copy(self: Model, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Model:
        """As pydantic's; a copy with changes is no longer what the document says."""
        copied = super().model_copy(update=update, deep=deep)
        if update:
            copied._document = None
        return copied

    @property
    def document(self) -> Document | None:
        """What this was loaded from, with the place of every value; None if it was made in Python."""
        return self._document

    def vary(self: Model, overrides: Mapping[str, object]) -> Model:
        """A copy with values replaced, each named by its path (`stages[2].stride`). Raises ConfigError."""
        if not overrides:
            return self
        document = self._document or Document(node_of(self, Mark("")))
        return validate(type(self), override(document, nodes_of(overrides)))

    def to_yaml(self) -> str:
        """The document, with `extends` and overrides worked in, in the order of the fields; loads as an equal model."""
        tree = plain(self._document.root) if self._document else self.model_dump(mode="json", exclude_unset=True)
        assert isinstance(tree, dict)
        return dump_yaml(
            {key: _without_nulls(tree[key]) for key in type(self).model_fields if tree.get(key) is not None}
        )

    def error(self, problems: Iterable[Problem]) -> ConfigError:
        """The problems as an error, each located where this document says it."""
        if self._document is None:
            return ConfigError(problems)
        root = self._document.root
        return ConfigError(
            Problem(found.message, found.path, found.value, found.mark or locate(root, found.path)[1])
            for found in problems
        )


def load(
    model: type[Model], source: str | os.PathLike[str], kind: Kind, overrides: Mapping[str, object] | None
) -> Model:
    """A document by name or path as a `model`, with values replaced by path. Raises ConfigError with every mistake."""
    return validate(model, override(load_document(source, kind), nodes_of(overrides or {})))


def validate(model: type[Model], document: Document) -> Model:
    """The document as a `model`. Raises ConfigError with every mistake of the document."""
    result, errors = _validated(model, plain(document.root))
    if result is None:
        raise ConfigError(_distinct([*document.problems, *_problems(model, document.root, errors)]))
    if document.problems:
        raise ConfigError(document.problems)
    result._document = document
    return result


def _validated(model: type[Model], data: Any) -> tuple[Model | None, list[ErrorDetails]]:
    """The model or its errors; a misspelt type does not hide what else is wrong beside it."""
    try:
        return model.model_validate(data), []
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=True)
    mended = [_mended(error) for error in found]
    if not any(mended):
        return None, found
    _, more = _validated(model, data)
    known = {(error["type"], error["loc"]) for error in found}
    return None, found + [error for error in more if (error["type"], error["loc"]) not in known]


def _mended(error: ErrorDetails) -> bool:
    """Put the nearest type in the place of an unknown one, so that the rest of the mapping can be checked."""
    if error["type"] != "union_tag_invalid":
        return False
    allowed = re.findall(r"'(\w+)'", error["ctx"]["expected_tags"])
    close = difflib.get_close_matches(str(error["input"]["type"]), allowed, n=1)
    if close:
        error["input"]["type"] = close[0]
    return bool(close)


def _without_nulls(value: object) -> object:
    """A null says 'not given', which leaving the key out says too."""
    if isinstance(value, dict):
        return {key: _without_nulls(child) for key, child in value.items() if child is not None}
    if isinstance(value, list):
        return [_without_nulls(child) for child in value]
    return value


def _problems(model: type[StrictModel], root: Node, errors: list[ErrorDetails]) -> list[Problem]:
    schema = Schema.of(model)
    located = [(_path(root, error), error) for error in errors]
    located.sort(key=lambda pair: locate(root, pair[0])[1])
    unknown = [path for path, error in located if error["type"] == "extra_forbidden"]
    found: list[Problem] = []
    for path, error in located:
        if len(found) >= _MAX_DESCRIBED:
            found.append(Problem("not allowed", path, mark=locate(root, path)[1]))
            continue
        if error["type"] == "missing":
            misspelt = [str(other[-1]) for other in unknown if other[:-1] == path[:-1]]
            if nearest(str(path[-1]), misspelt):
                continue  # the unknown key beside it says what was meant
        if error["type"] == "too_short" and any(other[: len(path)] == path for other, it in located if it is not error):
            continue  # pydantic counts only the valid items
        if error["type"] == "conflicts":
            found += [_conflict(root, (*path, *key.split(".")), message) for key, message in error["ctx"]["conflicts"]]
        else:
            found.append(_problem(schema, root, path, error))
    return found


def _path(root: Node, error: ErrorDetails) -> Path:
    """Where an error stands: pydantic's location without the tags that it adds where a union has chosen a type."""
    loc = error["loc"]
    path: Path = ()
    node: Node | None = root
    for i, part in enumerate(loc):
        children = None if node is None else node.value
        missing = error["type"] == "missing" and i == len(loc) - 1
        if isinstance(part, int) or missing or (isinstance(children, dict) and part in children):
            path = (*path, part)
            node, _ = locate(root, path)
    return path


def _conflict(root: Node, path: Path, message: str) -> Problem:
    node, mark = locate(root, path)
    return Problem(message, path, None if node is None else format_value(node.value), mark)


def _problem(schema: Schema, root: Node, path: Path, error: ErrorDetails) -> Problem:
    if error["type"] == "union_tag_not_found":
        misspelt = [key for key in error["input"] if nearest(key, ["type"])]
        if misspelt:
            node, mark = locate(root, (*path, misspelt[0]))
            return Problem(f"unknown key{nearest(misspelt[0], ['type'])}", (*path, misspelt[0]), mark=mark)
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        path = (*path, "type")
    node, mark = locate(root, path)
    value = None if node is None else node.value
    shown = None if node is None else format_value(value)
    allowed = schema.at(path, root)
    match error["type"]:
        case "extra_forbidden":
            keys = sorted(schema.at(path[:-1], root).keys())
            hint = nearest(str(path[-1]), keys) or f"; allowed are {', '.join(keys)}"
            return Problem(f"unknown key{hint}", path, mark=(node and node.key_mark) or mark)
        case "missing" | "union_tag_not_found":
            return Problem(f"missing; expected {allowed.describe()}", path, mark=mark)
        case "value_error":
            return Problem(str(error["ctx"]["error"]), path, shown, mark)
    hint = nearest(value, allowed.words()) if isinstance(value, str) else ""
    if error["type"] == "int_type" and isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        hint = f"; write {int(value)}"
    if error["type"] in ("int_type", "float_type") and isinstance(value, str) and read_scalar(value)[0] != value:
        hint = "; write it without quotes"
    return Problem(f"expected {allowed.describe()}{hint}", path, shown, mark)


def _distinct(problems: list[Problem]) -> list[Problem]:
    """One problem a value: what the reader and what the model say of it go into one line."""
    merged: dict[object, Problem] = {}
    for found in problems:
        key = (found.mark, found.path)
        first = merged.get(key)
        merged[key] = found if first is None else replace(found, message=f"{found.message}; {first.message}")
    return list(merged.values())
