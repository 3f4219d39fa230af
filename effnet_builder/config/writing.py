"""Write data as YAML that reads back as the same data."""

from __future__ import annotations

import yaml

from .reading import read_scalar


def dump_yaml(data: object) -> str:
    """Plain data as YAML in the order given; the innermost mappings and lists stand on one line."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
    return text


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that our reader, not PyYAML's, would take for something else; never writes aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if read_scalar(text) == (text, None) and text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
