"""The JSON Schema of what people write, for editors: a whole document, or `extends` with changes to another."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from .models import StrictModel

Json = dict[str, Any]

# The version that yaml-language-server reads. No `$id`: the schema is a file beside the documents, it has no address.
_DIALECT = "http://json-schema.org/draft-07/schema#"
_DEFINITION = "#/definitions/"
_CHANGES = "Changes"
_NULL: Json = {"type": "null"}
_CHANGED_ROOT = (
    "What differs from the document that `extends` names. Null takes a key away; in the place of a list, a mapping of "
    "indices changes its items."
)
_INDEX = "^(0|[1-9][0-9]{0,5})$"
_EXTENDS: Json = {
    "description": "what to start from: a shipped name, or a path inside this file's folder",
    "type": "string",
    "minLength": 1,
}


def document_schema(model: type[StrictModel]) -> Json:
    """The schema of a document of `model`, in draft 7.

    Each mapping is defined twice: whole, and as changes to one that `extends` brings. There nothing is required, null
    takes a key away where it may be missing, and a mapping of indices changes items of a list. Whether a change suits
    what it changes is more than a schema can say.
    """
    root = model.model_json_schema(ref_template=_DEFINITION + "{model}", schema_generator=_InOrderOfTheModel)
    whole: dict[str, Json] = {model.__name__: root, **root.pop("$defs", {})}
    changes = {name + _CHANGES: _changed_mapping(part, whole) for name, part in whole.items()}
    definitions = {name: _draft7(part) for name, part in (whole | changes).items()}
    extends = {"$ref": _DEFINITION + "extends"}
    changed_root = definitions[model.__name__ + _CHANGES]
    changed_root |= {"description": _CHANGED_ROOT, "properties": {"extends": extends, **changed_root["properties"]}}
    return {
        "$schema": _DIALECT,
        "title": model.__name__,
        "description": root["description"],
        "type": "object",
        "properties": {"extends": extends},
        "if": {"required": ["extends"]},
        "then": {"$ref": _DEFINITION + model.__name__ + _CHANGES},
        "else": {"$ref": _DEFINITION + model.__name__},
        "definitions": {"extends": _EXTENDS, **definitions},
    }


class _InOrderOfTheModel(GenerateJsonSchema):
    """pydantic's schema, neither sorted by the alphabet nor with the name of each field repeated as its title."""

    def sort(self, value: JsonSchemaValue, parent_key: str | None = None) -> JsonSchemaValue:
        return value

    def field_title_should_be_set(self, schema: object) -> bool:
        return False


def _changed_mapping(node: Json, whole: dict[str, Json]) -> Json:
    """What may be said of a mapping to change it."""
    changed = {key: value for key, value in node.items() if key != "required"}
    changed["title"] = f"{node['title']} (changes)"
    changed["properties"] = {
        key: _changed_property(child, whole, key in node.get("required", ()))
        for key, child in node["properties"].items()
    }
    return changed


def _changed_property(node: Json, whole: dict[str, Json], required: bool) -> Json:
    """No default, since what is left out stays as it was; null, which takes a key away, unless the key is required."""
    description = {key: node[key] for key in ("description",) if key in node}
    value = _changed_value({key: child for key, child in node.items() if key not in ("default", "description")}, whole)
    if required or _NULL in value.get("anyOf", ()):
        return value | description
    return {"anyOf": [value, _NULL]} | description


def _changed_value(node: Json, whole: dict[str, Json]) -> Json:
    match node:
        case {"$ref": target}:
            return {"$ref": target + _CHANGES}
        case {"discriminator": _, "oneOf": options}:
            return _changed_kind([option["$ref"].removeprefix(_DEFINITION) for option in options], whole)
        case {"type": "array", "items": items}:
            by_index = {"minProperties": 1, "additionalProperties": False, "description": "changes of items, by index"}
            by_index |= {"type": "object", "patternProperties": {_INDEX: _changed_value(items, whole)}}
            return {"anyOf": [node, by_index]}
        case {"anyOf": options} | {"oneOf": options}:
            return {"anyOf": [_changed_value(option, whole) for option in options]}
    return node


def _changed_kind(names: list[str], whole: dict[str, Json]) -> Json:
    """Changes of one of several kinds of mapping: of the `type` that they say, else with the keys of any of them."""
    properties: dict[str, Json] = {}
    for key in dict.fromkeys(key for name in names for key in whole[name]["properties"]):
        distinct: list[Json] = []
        options: list[Json] = []
        for name in names:
            option = _changed_mapping(whole[name], whole)["properties"].get(key)
            if option is not None and option not in distinct:
                distinct.append(option)
                options.append({"$ref": f"{_DEFINITION}{name}{_CHANGES}/properties/{key}"})
        properties[key] = options[0] if len(options) == 1 else {"anyOf": options}
    return {
        "if": {"required": ["type"]},
        "then": {"oneOf": [{"$ref": _DEFINITION + name + _CHANGES} for name in names]},
        "else": {"type": "object", "properties": properties, "additionalProperties": False},
    }


def _draft7(node: Json) -> Json:
    """Without the words of OpenAPI; draft 7 ignores what stands beside a `$ref`, so that goes into an `allOf`."""
    kept: Json = {}
    for key, value in node.items():
        match key:
            case "anyOf" if len(value) == 2 and value[1] == _NULL:
                kept |= _nullable(_draft7(value[0]))
            case "properties" | "patternProperties":
                kept[key] = {name: _draft7(child) for name, child in value.items()}
            case "anyOf" | "oneOf":
                kept[key] = [_draft7(option) for option in value]
            case "items" | "then" | "else":
                kept[key] = _draft7(value)
            case "discriminator":
                pass
            case _:
                kept[key] = value
    if "$ref" in kept and len(kept) > 1:
        return {"allOf": [{"$ref": kept.pop("$ref")}], **kept}
    return kept


def _nullable(node: Json) -> Json:
    """`node` or null, as one schema where that can be said, so that a mistake is told once."""
    if not isinstance(node.get("type"), str) or node.keys() & {"const", "not"}:  # `not` would have to spare the null
        return {"anyOf": [node, _NULL]}
    nullable = node | {"type": [node["type"], "null"]}
    return nullable | {"enum": [*node["enum"], None]} if "enum" in node else nullable
