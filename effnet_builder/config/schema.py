"""What a model allows, in words: read from its JSON schema, the one plain statement of types, bounds and choices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from .errors import Path


@dataclass(frozen=True)
class Schema:
    """A part of a model's JSON schema: the alternatives for one value, null left out."""

    definitions: dict[str, Any]
    options: tuple[dict[str, Any], ...]

    @classmethod
    def of(cls, model: type[BaseModel]) -> Schema:
        """The schema of a whole model."""
        root = model.model_json_schema()
        return cls(root.get("$defs", {}), (root,))

    def at(self, path: Path) -> Schema:
        """The part for the value at `path`; nothing is allowed where the model has no such place."""
        part = self
        for key in path:
            children = [
                option["items"] if isinstance(key, int) else option["properties"][key]
                for option in part.options
                if (isinstance(key, int) and "items" in option) or key in option.get("properties", {})
            ]
            part = Schema(self.definitions, tuple(option for child in children for option in self._alternatives(child)))
        return part

    def keys(self) -> list[str]:
        """The keys of a mapping, in the order of the model."""
        return [key for option in self.options for key in option.get("properties", {})]

    def words(self) -> list[str]:
        """The texts to choose from, where there is a choice."""
        words = [word for option in self.options for word in _choices(option) if isinstance(word, str)]
        return words if len(words) > 1 else []

    def describe(self) -> str:
        """For an error message: `a whole number from 1 to 1000`, `'symmetric' or 'same'`."""
        return " or ".join(_describe(option) for option in self.options) or "nothing"

    def _alternatives(self, node: dict[str, Any]) -> list[dict[str, Any]]:
        found = []
        for option in node.get("anyOf", [node]):
            if "$ref" in option:
                option = self.definitions[option["$ref"].rpartition("/")[2]]
            if option.get("type") != "null":
                found.append(option)
        return found


def _choices(option: dict[str, Any]) -> list[Any]:
    choices: list[Any] = option.get("enum", [option["const"]] if "const" in option else [])
    return choices


def _describe(option: dict[str, Any]) -> str:
    if choices := [repr(word) for word in _choices(option)]:
        return choices[0] if len(choices) == 1 else ", ".join(choices[:-1]) + f" or {choices[-1]}"
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
