"""What a model allows, in words: read from its JSON schema, the one plain statement of types, bounds and choices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel

from .errors import Mark, Path
from .reading import Node


@dataclass(frozen=True)
class Schema:
    """A part of a model's JSON schema: the alternatives for one value, null left out."""

    definitions: dict[str, Any]
    options: tuple[dict[str, Any], ...]

    @classmethod
    def of(cls, model: type[BaseModel]) -> Schema:
        """The schema of a whole model."""
        return _of(model)

    def at(self, path: Path, root: Node) -> Schema:
        """The part for the value at `path` of a document; nothing is allowed where the model has no such place."""
        part, node = self, root
        for key in path:
            children = [
                option["items"] if isinstance(key, int) else option["properties"][key]
                for option in part._of_type(node)
                if (isinstance(key, int) and "items" in option) or key in option.get("properties", {})
            ]
            part = Schema(self.definitions, tuple(option for child in children for option in self._alternatives(child)))
            node = _child(node, key)
        return Schema(self.definitions, tuple(part._of_type(node)))

    def keys(self) -> list[str]:
        """The keys of a mapping, in the order of the model."""
        return list(dict.fromkeys(key for option in self.options for key in option.get("properties", {})))

    def words(self) -> list[str]:
        """The texts to choose from, where there is a choice."""
        words = [word for word in self._choices() if isinstance(word, str)]
        return words if len(words) > 1 else []

    def describe(self) -> str:
        """For an error message: `a whole number from 1 to 1000`, `'symmetric' or 'same'`."""
        types = [option["properties"]["type"]["const"] for option in self.options if _is_typed(option)]
        texts = [_one_of(self._choices())] if self._choices() else []
        texts += [f"a mapping with type {_one_of(types)}"] if types else []
        texts += [_describe(option) for option in self.options if not _is_typed(option) and not _choices(option)]
        return " or ".join(dict.fromkeys(texts)) or "nothing"

    def _choices(self) -> list[Any]:
        return list(dict.fromkeys(choice for option in self.options for choice in _choices(option)))

    def _of_type(self, node: Node) -> list[dict[str, Any]]:
        """The options that the `type` of this part of the document leaves; all of them if it says none of theirs."""
        stated = _child(node, "type").value
        typed = [option for option in self.options if _is_typed(option)]
        return [option for option in typed if option["properties"]["type"]["const"] == stated] or list(self.options)

    def _alternatives(self, node: dict[str, Any]) -> list[dict[str, Any]]:
        if "$ref" in node:
            return self._alternatives(self.definitions[node["$ref"].rpartition("/")[2]])
        for union in ("anyOf", "oneOf"):
            if union in node:
                return [option for child in node[union] for option in self._alternatives(child)]
        return [] if node.get("type") == "null" else [node]


@cache
def _of(model: type[BaseModel]) -> Schema:
    root = model.model_json_schema()
    return Schema(root.get("$defs", {}), (root,))


def _child(node: Node, key: str | int) -> Node:
    """The part of a document under a key, or nothing."""
    children = node.value
    if isinstance(children, dict) and isinstance(key, str):
        return children.get(key, _NOTHING)
    if isinstance(children, list) and isinstance(key, int) and key < len(children):
        return children[key]
    return _NOTHING


_NOTHING = Node(None, Mark(""))


def _is_typed(option: dict[str, Any]) -> bool:
    """Whether this is one of several kinds of mapping, told apart by their `type`."""
    return "const" in option.get("properties", {}).get("type", {})


def _one_of(choices: list[Any]) -> str:
    words = [repr(choice) for choice in choices]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + f" or {words[-1]}"


def _choices(option: dict[str, Any]) -> list[Any]:
    choices: list[Any] = option.get("enum", [option["const"]] if "const" in option else [])
    return choices


def _describe(option: dict[str, Any]) -> str:
    match option.get("type"):
        case "integer":
            return "a whole number" + _bounds(option)
        case "number":
            return "a number" + _bounds(option)
        case "string" if "pattern" in option:
            return f"{option['description']} of at most {option['maxLength']} characters ({option['pattern']})"
        case "string":
            return f"text of at most {option['maxLength']} characters"
        case "boolean":
            return "true or false"
        case "array":
            return f"a list of {option['minItems']} to {option['maxItems']} items"
    return f"a mapping with {', '.join(option['properties'])}"


def _bounds(option: dict[str, Any]) -> str:
    low, above = option.get("minimum"), option.get("exclusiveMinimum")
    high, below = option.get("maximum"), option.get("exclusiveMaximum")
    lower = f" from {low:,}" if low is not None else f" above {above:,}" if above is not None else ""
    upper = f" to {high:,}" if high is not None else f" below {below:,}" if below is not None else ""
    return lower + upper
