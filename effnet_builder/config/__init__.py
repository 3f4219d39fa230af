"""Reading and writing what people write: YAML with positions, `extends`, overrides, strict models, located errors."""

from .documents import Kind, load_document, nodes_of, override, parse_assignments, shipped
from .errors import ConfigError, Mark, Path, Problem, format_value, printable
from .models import StrictModel, validate
from .reading import Document, Node, node_of
from .writing import write_whole

__all__ = [
    "ConfigError",
    "Document",
    "Kind",
    "Mark",
    "Node",
    "Path",
    "Problem",
    "StrictModel",
    "format_value",
    "load_document",
    "node_of",
    "nodes_of",
    "override",
    "parse_assignments",
    "printable",
    "shipped",
    "validate",
    "write_whole",
]
