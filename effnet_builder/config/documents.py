"""A document by name or path, with what it `extends` and what the caller overrides merged in."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path as File
from typing import Literal

from .errors import ConfigError, Mark, Path, Problem, format_value, shorten
from .limits import at_most, limit
from .reading import Document, Node, node_of, parse_yaml, plain, read_document

Kind = Literal["archspecs", "recipes"]

_SUFFIXES = (".yaml", ".yml", ".safetensors")
_INDEX = re.compile(r"0|[1-9][0-9]{0,5}")
# What a document says of itself is not true of one that extends it.
_NOT_INHERITED = ("name", "description", "source", "published")


@cache
def shipped(kind: Kind) -> dict[str, File]:
    """The documents that come with the package, by name, in reading order."""
    package = File(__file__).parent.parent
    # In a wheel the folders lie inside the package, in a checkout beside it.
    folder = next(place for place in (package / kind, package.parent / kind) if place.is_dir())
    return {file.stem: file for file in sorted(folder.rglob("*.yaml"), key=_natural)}


def load_document(source: str | os.PathLike[str], kind: Kind) -> Document:
    """Read a shipped document by name, or a file by path (it has a folder or ends in .yaml), through its `extends`.

    A .safetensors file stands for the spec that it carries.

    Raises ConfigError for an unknown name, an unreadable file, a cycle, or a path that leaves the file's folder.
    """
    name = os.fspath(source)
    if not _is_path(name):
        file = _shipped_file(name, kind)
        return _load(file, str(file), file.parent, kind, ())
    return _load(File(name), name, File(name).parent, kind, ())


def override(document: Document, changes: Mapping[str, Node]) -> Document:
    """The document with values replaced, each named by its path (`scaling.phi`, `stages[2].stride`)."""
    problems = list(document.problems)
    root = document.root
    for path, value in changes.items():
        if not re.fullmatch(r"\w+(\.\w+|\[\d+\])*", path, re.ASCII):
            problems.append(
                Problem(f"expected a path such as stages.2.stride, found '{shorten(path)}'", mark=value.mark)
            )
            continue
        nested = value
        for part in reversed(re.findall(r"\w+", path)):
            nested = Node({part: nested}, value.mark, value.mark)
        root = _merge(root, nested, (), problems)
    return Document(root, tuple(problems))


def parse_assignments(texts: Iterable[str], taken: Iterable[str] = ()) -> tuple[dict[str, Node], list[Problem]]:
    """`--set` arguments, `path=value`, to values by path, read by the rules of the YAML files, and their mistakes.

    `taken` are paths that other arguments set already.
    """
    values: dict[str, Node] = {}
    problems: list[Problem] = []
    for text in texts:
        mark = Mark(f"--set {shorten(text)}")
        path, equals, value = text.partition("=")
        path = re.sub(r"\[(\d+)\]", r".\1", path.strip())
        if not equals or not path:
            problems.append(Problem("expected path=value, such as stages.2.stride=1", mark=mark))
            continue
        if path in values or path in taken:
            problems.append(Problem("set twice by the arguments", mark=mark))
        try:
            document = parse_yaml(value, mark.source) if value.strip() else Document(node_of(None, mark))
        except ConfigError as error:
            problems += [replace(found, mark=mark) for found in error.problems]
            continue
        if document.problems:
            problems += [replace(found, path=(), mark=mark) for found in document.problems]
        else:
            values[path] = node_of(plain(document.root), mark)
    return values, problems


def nodes_of(overrides: Mapping[str, object]) -> dict[str, Node]:
    """Overrides given in Python as changes of a document; nodes stay as they are."""
    return {
        path: value if isinstance(value, Node) else node_of(value, Mark(f"{path}={value}"))
        for path, value in overrides.items()
    }


def nearest(word: str, allowed: list[str]) -> str:
    """`"; did you mean 'x'?"` for the allowed word that is most like `word`, or nothing."""
    close = difflib.get_close_matches(word.lower(), allowed, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _load(file: File, label: str, root: File, kind: Kind, chain: tuple[File, ...]) -> Document:
    document = read_document(file, label)
    node = document.root
    if not isinstance(node.value, dict):
        raise ConfigError([Problem("expected a mapping of keys to values", mark=node.mark)])
    parent = node.value.pop("extends", None)
    if parent is None:
        return document
    mark = parent.mark
    if not isinstance(parent.value, str):
        raise ConfigError([Problem("expected the name or path of one spec", ("extends",), mark=mark)])
    chain = (*chain, file.resolve())
    target, target_root = _extended_file(parent.value, file, root, kind, mark)
    if target in chain:
        names = " -> ".join(link.name for link in (*chain, target))
        raise ConfigError([Problem(f"a cycle: {names}", ("extends",), format_value(parent.value), mark)])
    if len(chain) > limit("files"):
        raise ConfigError([Problem(f"a chain of too many files; {at_most('files')}", ("extends",), mark=mark)])
    there = os.path.join(os.path.dirname(label), os.path.relpath(target, file.parent.resolve()))
    shown = os.path.normpath(there) if _is_path(parent.value) else str(target)
    base = _load(target, shown, target_root, kind, chain)
    assert isinstance(base.root.value, dict)
    for key in _NOT_INHERITED:
        base.root.value.pop(key, None)
    problems = [*base.problems, *document.problems]
    return Document(_merge(base.root, node, (), problems), tuple(problems))


def _extended_file(name: str, file: File, root: File, kind: Kind, mark: Mark) -> tuple[File, File]:
    """The file that `extends: name` means, without links, and the folder that its own `extends` may not leave."""
    if not _is_path(name):
        target = _shipped_file(name, kind, mark, file.parent).resolve()
        return target, target.parent
    try:
        # What is checked is what is read: in a path with links, `..` may lead elsewhere than it seems.
        target = (file.parent / name).resolve()
        inside = target.is_relative_to(root.resolve()) and not os.path.isabs(name)
        there = inside and target.is_file()
    except (OSError, ValueError, RuntimeError):  # a NUL byte, a loop of links, a name that no disk has
        inside = there = False
    if not inside:
        allowed = "expected a shipped name or a relative path that stays inside the folder of the spec"
        raise ConfigError([Problem(allowed, ("extends",), format_value(name), mark)])
    if not there:
        raise ConfigError([Problem("no such file", ("extends",), format_value(name), mark)])
    return target, root


def _shipped_file(name: str, kind: Kind, extends: Mark | None = None, folder: File = File()) -> File:
    """The shipped document of this name; a file of this name in `folder` is only a hint."""
    files = shipped(kind)
    if name in files:
        return files[name]
    what = {"archspecs": "archspec", "recipes": "recipe"}[kind]
    near = [path for path in (f"./{name}.yaml", f"./{name}") if name and os.path.isfile(folder / path)]
    some = ", ".join(list(files)[:6]) + (", ..." if len(files) > 6 else "")
    hint = f"; did you mean {near[0]!r}?" if near else nearest(name, list(files)) or f"; there are {some}"
    message = f"no {what} has this name{hint}"
    if extends is not None:
        raise ConfigError([Problem(message, ("extends",), format_value(name), extends)])
    raise ConfigError([Problem(message, mark=Mark(shorten(name) or "''"))])


def _is_path(name: str) -> bool:
    return name.endswith(_SUFFIXES) or "/" in name or os.sep in name


def _merge(base: Node, over: Node, path: Path, problems: list[Problem]) -> Node:
    """`over` on top of `base`: mappings merge, a mapping of indices changes items of a list, all else replaces.

    In a mapping, null takes a key of the base away, and another `type` starts afresh: its keys are others.
    """
    if not isinstance(over.value, dict):
        return over
    if isinstance(base.value, list) and over.value and all(_INDEX.fullmatch(key) for key in over.value):
        items = list(base.value)
        for key, child in over.value.items():
            index = int(key)
            if index < len(items):
                items[index] = _merge(items[index], child, (*path, index), problems)
            else:
                allowed = f"expected an index from 0 to {len(items) - 1}" if items else "the list is empty"
                problems.append(Problem(allowed, (*path, index), mark=child.key_mark))
        return Node(items, base.mark, base.key_mark)
    if isinstance(base.value, dict) and not _is_another_type(base.value, over.value):
        merged = dict(base.value)
        for key, child in over.value.items():
            if key in merged and child.value is None:
                del merged[key]
            else:
                merged[key] = _merge(merged[key], child, (*path, key), problems) if key in merged else child
        return Node(merged, over.mark, over.key_mark)
    return over


def _is_another_type(base: dict[str, Node], over: dict[str, Node]) -> bool:
    return "type" in base and "type" in over and base["type"].value != over["type"].value


def _natural(file: File) -> list[int | str]:
    """Sort key that puts folder by folder, and b2 before b10."""
    parts = [*file.parts[:-1], file.stem]
    return [int(piece) if piece.isdigit() else piece for part in parts for piece in re.split(r"(\d+)", part)]
