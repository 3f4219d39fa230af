"""Reading and writing what people write: YAML with positions, `extends`, overrides, strict models, located errors."""

from .documents import Kind, load_document, nearest, override, parse_assignments, shipped
from .errors import ConfigError, Mark, Path, Problem, format_value, printable, shorten
from .models import Name, StrictModel, Text, load, validate
from .reading import Document, Node, locate, node_of
from .writing import shared_mode, write_whole

__all__ = [
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
    "format_value",
    "load",
    "load_document",
    "locate",
    "nearest",
    "node_of",
    "override",
    "parse_assignments",
    "printable",
    "shared_mode",
    "shipped",
    "shorten",
    "validate",
    "write_whole",
]
