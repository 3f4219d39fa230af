"""Reading and writing what people write: YAML with positions, `extends`, overrides, strict models, located errors."""

from ..escaping import printable
from .documents import Kind, load_document, nearest, override, parse_assignments, shipped
from .errors import ConfigError, Mark, Path, Problem, format_value, in_short, of_system, shorten
from .limits import AtMost, at_most, limit, limits, parse_limits
from .models import Name, StrictModel, Text, load, validate
from .reading import Document, Node, locate, node_of

__all__ = [
    "AtMost",
    "ConfigError",
    "Document",
    "Kind",
    "Mark",
    "Name",
    "Node",
    "Path",
    "Problem",
    "StrictModel",
    "Text",
    "at_most",
    "format_value",
    "in_short",
    "limit",
    "limits",
    "load",
    "load_document",
    "locate",
    "nearest",
    "node_of",
    "of_system",
    "override",
    "parse_assignments",
    "parse_limits",
    "printable",
    "shipped",
    "shorten",
    "validate",
]
