"""Write what is made from the models: the JSON Schemas that editors use, and the reference of the spec language.

    python docs/generate.py

The prose and the examples of the reference stand in `spec.template.md`. There `<!-- fields: Stem -->` becomes what the
model `Stem` says of itself and the table of its fields, and `<!-- shared: MBConv, Conv -->` the table of the fields
that these models have in common, which their own tables then leave out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from effnet_builder.cli.schema import MODELS, schema_text
from effnet_builder.config import Mark, Node
from effnet_builder.config.schema import Schema

ROOT = Path(__file__).parent.parent
TEMPLATE = ROOT / "docs" / "spec.template.md"
MARKER = re.compile(r"^<!-- (fields|shared): (.+) -->$", re.MULTILINE)
HEADER = "<!-- Made by docs/generate.py from docs/spec.template.md and the models; change those. -->\n\n"

Json = dict[str, Any]


def generated() -> dict[Path, str]:
    """Every file that is made from the models, and its text."""
    return {
        ROOT / "archspecs" / "schema.json": schema_text("archspec"),
        ROOT / "recipes" / "schema.json": schema_text("recipe"),
        ROOT / "docs" / "spec.md": HEADER + Reference(TEMPLATE.read_text(encoding="utf-8")).text(),
    }


class Reference:
    """The reference page: the template, with a table for each mapping of the models in the place of its marker."""

    def __init__(self, template: str) -> None:
        self.template = template
        self.definitions: dict[str, Json] = {}
        for model in MODELS.values():
            root = model.model_json_schema()
            self.definitions |= {model.__name__: root, **root.get("$defs", {})}
        markers = list(MARKER.finditer(template))
        self.shared = [marker[2].split(", ") for marker in markers if marker[1] == "shared"]
        self.links = {marker[2]: _link(template, marker) for marker in markers}
        marked = {marker[2] for marker in markers if marker[1] == "fields"}
        if marked != self.definitions.keys():
            raise SystemExit(f"a marker too many or too few: {marked ^ self.definitions.keys()}")

    def text(self) -> str:
        """The page."""
        return MARKER.sub(self._section, self.template)

    def _section(self, marker: re.Match[str]) -> str:
        names = marker[2].split(", ")
        common = self._common(names)
        if marker[1] == "shared":
            return self._table(names[0], common)
        [name] = names
        elsewhere = {key for names in self.shared if name in names for key in self._common(names)}
        own = [key for key in self.definitions[name]["properties"] if key not in elsewhere]
        return f"{self.definitions[name]['description']}\n\n{self._table(name, own)}"

    def _common(self, names: list[str]) -> list[str]:
        """The fields that all of these mappings have, with one and the same meaning."""
        first, *others = (self.definitions[name]["properties"] for name in names)
        return [key for key, part in first.items() if all(other.get(key) == part for other in others)]

    def _table(self, name: str, keys: list[str]) -> str:
        rows = ["| field | allowed | default | meaning |", "|---|---|---|---|"]
        for key in sorted(keys, key=lambda key: key != "type"):
            part = self.definitions[name]["properties"][key]
            allowed = " or ".join(self._allowed(Schema(self.definitions, (self.definitions[name],)).at((key,), _ROOT)))
            cells = (f"`{key}`", allowed, self._default(part), part["description"])
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        return "\n".join(rows)

    def _allowed(self, schema: Schema) -> Iterator[str]:
        """What a value may be, in the words of the error messages, with links to the mappings."""
        mappings = [option["title"] for option in schema.options if "properties" in option]
        if mappings:
            yield self.links.get(", ".join(mappings)) or " or ".join(self.links[mapping] for mapping in mappings)
        for option in schema.options:
            if option.get("type") == "array":
                items = Schema(self.definitions, ({"properties": {"item": option["items"]}},)).at(("item",), _ROOT)
                each = " or ".join(self._allowed(items))
                yield f"a list of {option['minItems']} to {option['maxItems']:,} items, each {each}"
        others = tuple(o for o in schema.options if "properties" not in o and o.get("type") != "array")
        if others:
            odd = ", odd" if any("not" in option for option in others) else ""
            words = Schema(self.definitions, others).describe() + odd
            yield re.sub(r"'(\w+)'", r"`\1`", re.sub(r"\((\^.*\$)\)", r"(`\1`)", words))

    def _default(self, part: Json) -> str:
        if "default" not in part:
            return "required"
        default = part["default"]
        if not isinstance(default, dict):
            return "none" if default is None else f"`{_yaml(default)}`"
        target = part["$ref"] if "$ref" in part else part["discriminator"]["mapping"][default["type"]]
        fields = self.definitions[target.rpartition("/")[2]]["properties"]
        said = {key: value for key, value in default.items() if value != fields[key].get("default")}
        return f"`{_yaml(said)}`" if said else "its defaults"


_ROOT = Node({}, Mark(""))


def _link(template: str, marker: re.Match[str]) -> str:
    """A link to the heading above a marker, by the fragment that GitHub makes of it."""
    heading = re.findall(r"^##+ (.+)$", template[: marker.start()], re.MULTILINE)[-1]
    fragment = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
    return f"[{heading}](#{fragment})"


def _yaml(value: object) -> str:
    """A value as a person writes it: `true`, `1e-5`, `{mode: floor}`."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(child)}" for key, child in value.items()) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    return re.sub(r"e-0+", "e-", f"{value:g}") if isinstance(value, float) else str(value)


def main() -> None:
    """Write the files."""
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
