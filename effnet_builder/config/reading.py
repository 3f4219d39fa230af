"""Bytes of a YAML file to a tree of nodes that know where they were written.

Only the parser of PyYAML is used, not its composer and constructor: those read YAML 1.1 (`no` is false, `1e-3` is
text, `010` is 8), let the last of two equal keys win, recurse without bound, and expand aliases and merge keys. Here
one bounded pass over the parser's events builds the tree; numbers are read as YAML 1.2 reads them, and what the two
versions read differently is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from numbers import Integral, Real

import yaml
from pydantic import BaseModel

from ..files import NotRegularError, open_regular
from .errors import ConfigError, Mark, Path, Problem, format_value, in_short, shorten
from .limits import at_most, limit

Scalar = str | int | float | bool | None

_Loader: type[yaml.CSafeLoader] | type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_CONSTANTS: dict[str, bool | None] = {"": None, "~": None}
for _word, _value in (("null", None), ("true", True), ("false", False)):
    _CONSTANTS |= dict.fromkeys((_word, _word.capitalize(), _word.upper()), _value)
_AMBIGUOUS = (
    (re.compile(r"(?i)yes|no|on|off"), "write true or false, or put the text in quotes"),
    (re.compile(r"(?i)[-+]?\.(inf|nan)"), "expected a finite number"),
    (re.compile(r"[-+]?0[0-9]+"), "write the number without leading zeros, or put the text in quotes"),
    (re.compile(r"(?i)[-+]?0[xob][0-9a-f_]+"), "write the number in decimal digits, or put the text in quotes"),
    (re.compile(r"[-+]?[0-9]+_[0-9_]*(\.[0-9_]*)?"), "write the number without underscores, or put the text in quotes"),
    (re.compile(r"[-+]?[0-9]+(:[0-9]+)+(\.[0-9]*)?"), "read as a number to base 60 by some tools; put it in quotes"),
    (re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?"), "read as a date by some tools; put it in quotes"),
)


@dataclass(frozen=True, slots=True)
class Node:
    """A value with the place where it was written; in a mapping also the place of its key."""

    value: Scalar | dict[str, Node] | list[Node]
    mark: Mark
    key_mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """The tree of a document, and the mistakes found so far that do not keep the rest from being checked."""

    root: Node
    problems: tuple[Problem, ...] = ()


def read_document(path: str | os.PathLike[str], label: str | None = None) -> Document:
    """Read one YAML file, or the spec in the metadata of a .safetensors file; `label` is what mistakes call it.

    Raises ConfigError where it is no readable, small, regular file of YAML text.
    """
    name = os.fspath(path)
    label = name if label is None else label
    return parse_yaml(_read_text(name, label), label)


def parse_yaml(text: str, source: str) -> Document:
    """Parse one YAML document. Raises ConfigError for anything but plain mappings, lists and scalars."""
    reader = _Reader(text, source)
    return Document(reader.read(), tuple(reader.problems))


def locate(root: Node, path: Path) -> tuple[Node | None, Mark]:
    """The node at `path`, or None, and the place of that node or of the nearest mapping around it."""
    node = root
    for part in path:
        child: Node | None = None
        if isinstance(node.value, dict):
            child = node.value.get(str(part))
        elif isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
            child = node.value[part]
        if child is None:
            return None, node.mark
        node = child
    return node, node.mark


def plain(node: Node) -> object:
    """The values of a tree without their places."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def node_of(value: object, mark: Mark) -> Node:
    """A tree of plain values, every one of them written at `mark`. Inverse of `plain`."""
    if isinstance(value, dict):
        return Node({str(key): node_of(child, mark) for key, child in value.items()}, mark, mark)
    if isinstance(value, list | tuple):
        return Node([node_of(child, mark) for child in value], mark, mark)
    if isinstance(value, BaseModel):
        return node_of(value.model_dump(exclude_unset=True), mark)
    if isinstance(value, Integral) and not isinstance(value, bool):  # also numpy's
        value = int(value)
    elif isinstance(value, Real) and not isinstance(value, bool):
        value = float(value)
    if value is None or isinstance(value, str | int | float):
        return Node(value, mark, mark)
    raise TypeError(f"{mark} expected plain data, not {type(value).__name__}")


def _read_text(name: str, label: str) -> str:
    def refuse(reason: str) -> ConfigError:
        return ConfigError([Problem(reason, mark=Mark(label))])

    try:
        with open_regular(name) as file:
            data = _embedded(name, refuse) if name.endswith(".safetensors") else file.read(1024 * limit("kib") + 1)
    except IsADirectoryError:
        raise refuse("is a directory; expected a YAML file") from None
    except FileNotFoundError:
        raise refuse("no such file") from None
    except NotRegularError as error:
        raise refuse(f"{error.strerror}") from None
    except (OSError, ValueError) as error:
        raise refuse(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > 1024 * limit("kib"):
        raise refuse(f"too many KiB; {at_most('kib')}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refuse(f"not UTF-8 text (byte {error.start} is 0x{data[error.start]:02x})") from None


def _embedded(name: str, refuse: Callable[[str], ConfigError]) -> bytes:
    """The spec that effnet_builder writes into the metadata of a file of weights."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(name, "np") as file:
            said = file.metadata() or {}
    except SafetensorError as error:
        raise refuse(f"is no safetensors file, or not whole: {in_short(error)}") from None
    if "spec" not in said:
        raise refuse("carries no spec, as the files of effnet_builder do: name the network, and give this as --weights")
    return str(said["spec"]).encode()


def read_scalar(text: str) -> tuple[Scalar, str | None]:
    """The value of an unquoted scalar by the core schema of YAML 1.2, and what is wrong with it, if anything."""
    if text in _CONSTANTS:
        return _CONSTANTS[text], None
    if _INT.fullmatch(text):
        return (int(text), None) if len(text.lstrip("+-")) <= 18 else (text, "expected at most 18 digits")
    for pattern, complaint in _AMBIGUOUS:
        if pattern.fullmatch(text):
            return text, complaint
    if _FLOAT.fullmatch(text):
        number = float(text)
        return (number, None) if abs(number) < float("inf") else (text, "expected a finite number")
    return text, None


@dataclass
class _Reader:
    """Recursive descent over the parser's events; the depth bound keeps the recursion shallow."""

    text: str
    source: str
    problems: list[Problem] = field(default_factory=list)
    _nodes: int = 0
    _max_nodes: int = field(default_factory=lambda: limit("values"))
    _max_depth: int = field(default_factory=lambda: limit("nesting"))

    def read(self) -> Node:
        try:
            # The stream check (NUL and other control characters) runs in the parser's constructor.
            return self._read_document(yaml.parse(self.text, Loader=_Loader))
        except UnicodeEncodeError as error:  # half a character, as bytes of the command line that are no UTF-8 become
            raise ConfigError([Problem("character not allowed in YAML", mark=self._mark_at(error.start))]) from None
        except yaml.reader.ReaderError as error:
            raise ConfigError([Problem("character not allowed in YAML", mark=self._mark_at(error.position))]) from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = self._at(mark.line + 1, mark.column + 1) if mark else Mark(self.source)
            reason = ", ".join(part for part in (error.context, error.problem) if part)
            raise ConfigError([Problem(f"not valid YAML: {reason}", mark=where)]) from None
        except yaml.YAMLError as error:
            raise ConfigError([Problem(f"not valid YAML: {shorten(str(error))}", mark=Mark(self.source))]) from None

    def _read_document(self, events: Iterator[yaml.Event]) -> Node:
        next(events)  # StreamStart
        if isinstance(next(events), yaml.StreamEndEvent):
            raise ConfigError([Problem("the file is empty", mark=Mark(self.source))])
        root = self._node(events, next(events), 0, ())
        next(events)  # DocumentEnd
        extra = next(events)
        if not isinstance(extra, yaml.StreamEndEvent):
            raise self._refuse(extra, "expected one YAML document, found a second")
        return root

    def _node(
        self, events: Iterator[yaml.Event], event: yaml.Event, depth: int, path: Path, key_mark: Mark | None = None
    ) -> Node:
        self._nodes += 1
        if depth > self._max_depth:
            raise self._refuse(event, f"nested too deep; {at_most('nesting')}")
        if self._nodes > self._max_nodes:
            raise self._refuse(event, f"too many values; {at_most('values')}")
        if not isinstance(event, yaml.CollectionStartEvent | yaml.ScalarEvent) or event.anchor is not None:
            raise self._refuse(event, "anchors and aliases are not used here; share values through `extends`")
        if event.tag is not None:
            raise self._refuse(event, "tags are not used here")
        mark = self._mark(event)
        if isinstance(event, yaml.MappingStartEvent):
            return Node(self._mapping(events, depth, path), mark, key_mark)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Node] = []
            while not isinstance(item := next(events), yaml.SequenceEndEvent):
                items.append(self._node(events, item, depth + 1, (*path, len(items))))
            return Node(items, mark, key_mark)
        assert isinstance(event, yaml.ScalarEvent)
        return Node(self._scalar(event, path), mark, key_mark)

    def _mapping(self, events: Iterator[yaml.Event], depth: int, path: Path) -> dict[str, Node]:
        mapping: dict[str, Node] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent) or event.anchor is not None or event.tag is not None:
                raise self._refuse(event, "expected a plain word as key")
            if event.value == "<<" and event.implicit[0]:
                raise self._refuse(event, "merge keys are not used here; share values through `extends`")
            key, key_mark = event.value, self._mark(event)
            child = self._node(events, next(events), depth + 1, (*path, key), key_mark)
            if key in mapping:
                first = mapping[key].key_mark
                line = first.line if first else 0
                self.problems.append(Problem(f"set twice, first in line {line}", (*path, key), mark=key_mark))
            else:
                mapping[key] = child
        return mapping

    def _scalar(self, event: yaml.ScalarEvent, path: Path) -> Scalar:
        text: str = event.value
        if not event.implicit[0]:  # quoted or a block scalar
            return text
        value, complaint = read_scalar(text)
        if complaint is not None:
            self.problems.append(Problem(complaint, path, format_value(text), self._mark(event)))
        return value

    def _refuse(self, event: yaml.Event, message: str) -> ConfigError:
        return ConfigError([*self.problems, Problem(message, mark=self._mark(event))])

    def _mark(self, event: yaml.Event) -> Mark:
        assert event.start_mark is not None
        return self._at(event.start_mark.line + 1, event.start_mark.column + 1)

    def _mark_at(self, position: int) -> Mark:
        line = self.text.count("\n", 0, position) + 1
        return self._at(line, position - self.text.rfind("\n", 0, position))

    def _at(self, line: int, column: int) -> Mark:
        return Mark(self.source, line, column)
