"""Hostile inputs of every kind, each made from one random.Random: the same seed gives the same input.

Half of the texts are changed as texts (characters, lines, words, bytes), half as trees (values, keys, rows), since the
one finds what the reader does not expect and the other what the models and the resolver do not.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any

from effnet_builder.config import Kind, load_document, shipped
from effnet_builder.config.reading import plain

Tree = Any

WORDS = [
    "", "~", "null", "true", "False", "yes", "no", "on", "NO", "=", "<<", "*a", "&a 1", "&a [*a]", "!!int 3.5", "!!float abc",
    "!!binary aGk=", "!!python/object/apply:os.system [id]", "!!set {a}", "!x y", "- a", "? a", "[", "]", "{", "}", "[[[[", "{a: ",
    "[1, 2]", "{a: 1}", "{<<: {b: 1}}", "| \n  text", ">-\n x", "'", '"', "'a", '"\\x00"', '"\\uD800"', '"\\u202e"', '"\\x1b[31m"', "@", "`a", "%YAML 1.1",
    "---", "...", "#", "# x", ": ", ":", "::", "2024-01-01", "2024-01-01 10:00:00", "12:30", "190:20:30", "0x1F", "0o17", "0b1", "010",
    "1_000", "1e3", "1e-3", "1e400", "-1e400", "1e308", "5e-324", ".inf", "-.inf", ".nan", ".5", "5.", "1.", "-0", "-0.0", "+1",
    "0", "1", "2", "3", "4", "7", "8", "31", "32", "33", "64", "100", "101", "200", "201", "999", "1000", "1001", "1024", "65536",
    "65537", "1000000", "1000001", "999999999999999999", "9999999999999999999", "-1", "-2", "1.5", "2.0", "0.1", "0.25", "1e-9", "100.0", "100.00001",
    "silu", "relu", "batch", "group", "layer", "none", "mbconv", "conv", "same", "up", "avg", "ceil", "efficientnet-b0", "digits",
    "../x.yaml", "./x", "/etc/passwd", "a/b.yaml", "x.safetensors", "nan", "inf", "Infinity", "NaN", "True", "None", "٣", "１２", "½",
    "\ufeff", "\u2028", "\x85", "\x00", "\x07", "\x1b]0;x\x07", "\t", "\r", "\u202e", "\ud800", "\U0001f600", "é", "x" * 61, "y" * 2001,
]  # fmt: skip
NUMBERS: list[Any] = [
    0, 1, 2, 3, 4, 5, 7, 8, 16, 24, 31, 32, 33, 64, 100, 101, 200, 201, 1000, 1001, 65536, 65537, 999_999, 1_000_000, 1_000_001,
    10**12, 10**17, 10**18, 10**30, -1, -8, 0.0, -0.0, 0.1, 0.25, 0.5, 0.9, 0.999999999, 1.0, 1.5, 2.0, 6.0, 99.9, 100.0, 100.1,
    1e-9, 5e-324, 1e-300, 1e300, 1.7e308, 3.3333333333333335,
]  # fmt: skip
VALUES: list[Any] = [
    *NUMBERS, *NUMBERS, None, True, False, "", "x", "no", "silu", "gelu", "relu6", "batch", "group", "layer", "none", "same", "symmetric",
    "mbconv", "fused_mbconv", "conv", "depthwise_separable", "universal_inverted_bottleneck", "up", "ceil", "floor", "nearest",
    "conv_pool", "pool", "pool_conv", "pool_conv_norm", "avg", "max", "avgmax", "blur", "sigmoid", "hardsigmoid", "input", "output", "expanded",
    "x" * 101, "y" * 2001, "\x00", "\x1b[2J", "\u202eevil", "\ud800", "\U0001f600", "1e-3", "2.4ep", "500steps", "99999999ep", "1e9steps", "nan",
    [], {}, [[]], [{}], [1], [1, 2, 3], ["a"], {"a": 1}, {"type": "mbconv"}, {"type": "conv", "out_channels": 8},
    {"type": "group", "group_size": 2}, {"0": {"stride": 2}}, {"mode": "ceil", "divisor": 1024}, [[{"type": "conv", "out_channels": 4}]],
]  # fmt: skip
ALPHABET = "abcz019 \t\n:-,[]{}&*!|>'\"%@`#?=.+_e~\r\\/é\x00\x01\x7f\x85\ufeff\u2028\ud800٣"
TOKEN = re.compile(r"[\w.+-]+|[^\w\s]")


@cache
def texts(kind: Kind) -> list[str]:
    """The shipped documents as they were written."""
    return [file.read_text() for file in shipped(kind).values()]


@cache
def trees(kind: Kind) -> list[str]:
    """The shipped documents with what they extend worked in, as JSON, which is YAML too."""
    found = [json.dumps(plain(load_document(name, kind).root)) for name in shipped(kind)]
    short = sorted(found, key=len)
    return short[: len(short) // 4] * 12 + short  # small networks more often: they cost less time


@cache
def tokens(kind: Kind) -> list[str]:
    return sorted({token for text in texts(kind) for token in TOKEN.findall(text) if len(token) < 40})


def document(rng: Random, kind: Kind) -> str | bytes:
    """A document that somebody broke, text or bytes."""
    if rng.random() < 0.55:
        tree = json.loads(rng.choice(trees(kind)))
        if kind == "archspecs" and rng.random() < 0.3:
            tree["scaling"] = scaling(rng)
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5, 8))):
            change_tree(rng, tree)
        text = json.dumps(tree, ensure_ascii=rng.random() < 0.5)
        return change_text(rng, text, kind) if rng.random() < 0.1 else text
    text = rng.choice(texts(kind)) if rng.random() < 0.9 else nested(rng)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 5, 10))):
        text = change_text(rng, text, kind)
    if rng.random() < 0.05:
        return change_bytes(rng, text.encode("utf-8", "surrogatepass"))
    return text


def scaling(rng: Random) -> Tree:
    """A scaling rule of random numbers, most of them within bounds."""
    names = rng.sample(["phi", "alpha", "beta", "gamma", "depth", "width", "resolution"], rng.randint(1, 5))
    return {name: number(rng) for name in names}


def number(rng: Random) -> float:
    """A number as scaling has them, or an absurd one."""
    if rng.random() < 0.6:
        return rng.choice(
            (rng.uniform(0.1, 4), rng.uniform(-2, 8), float(rng.randint(1, 300)), rng.lognormvariate(0, 3))
        )
    found: float = rng.choice(NUMBERS)
    return found


def nested(rng: Random) -> str:
    """Brackets, dashes, aliases and the like, many of them."""
    count = rng.choice((10, 33, 100, 1000, 30_000))
    return rng.choice((
        "[" * count, "- " * count, "{a: " * count, "? " * count, "a: " * count, "[" * (count // 2) + "]" * (count // 2),
        "".join(f"k{i}: 1\n" for i in range(min(count, 12_000))), "name: " + "x" * count, "resolution: " + "9" * count,
        "a: &a [" + "x," * 9 + "]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(min(count, 100))), "!" * count, "&" * count, "\ufeff" * count,
        "'" * count, '"' * count + "\\", "|" + "\n" * count, "#" * count, "%" * count, ": " * count, "\t" * count, "---\n" * count, "1" + ":0" * count,
        "stages: [" + '{"type": "conv", "out_channels": 8}, ' * min(count, 3000) + "]",
    ))  # fmt: skip


def change_text(rng: Random, text: str, kind: Kind) -> str:
    """One change of characters, lines or words."""
    place = rng.randrange(len(text) + 1)
    lines = text.split("\n")
    line = rng.randrange(len(lines))
    match rng.randrange(14):
        case 0:
            return text[:place] + rng.choice(ALPHABET) + text[place:]
        case 1:
            return text[:place] + text[place + rng.randint(1, 3) :]
        case 2:
            return text[:place] + rng.choice(ALPHABET) + text[place + 1 :]
        case 3:
            return text[:place]
        case 4:
            del lines[line]
        case 5:
            lines.insert(line, lines[rng.randrange(len(lines))])
        case 6:
            lines[line] = " " * rng.randrange(6) + lines[line].lstrip()
        case 7:
            lines.insert(line, f"{' ' * rng.randrange(4)}{rng.choice(tokens(kind))}: {rng.choice(WORDS)}")
        case 8 | 9 | 10:  # a value
            key, colon, _ = lines[line].partition(": ")
            lines[line] = f"{key}{colon or ': '}{rng.choice(WORDS)}"
        case 11 | 12:  # a word
            found = list(TOKEN.finditer(text))
            if found:
                token = rng.choice(found)
                word = rng.choice(WORDS) if rng.random() < 0.5 else rng.choice(tokens(kind))
                return text[: token.start()] + word + text[token.end() :]
        case _:
            other = rng.choice(texts(kind))
            return text[:place] + other[rng.randrange(len(other)) :]
    return "\n".join(lines)


def change_bytes(rng: Random, data: bytes) -> bytes:
    """A few bytes flipped, put in, taken out, or a stretch of zeros."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(changed) + 1)
        match rng.randrange(6):
            case 0 | 1 if place < len(changed):
                changed[place] ^= 1 << rng.randrange(8)
            case 2:
                changed[place:place] = rng.randbytes(rng.randint(1, 8))
            case 3:
                del changed[place : place + rng.randint(1, 16)]
            case 4:
                del changed[place:]
            case _:
                size = min(rng.choice((1, 8, 64, 4096)), len(changed) - place)
                changed[place : place + size] = bytes(size)
    return bytes(changed)


def change_tree(rng: Random, tree: Tree) -> None:
    """One change in place of a value, a key or a row, anywhere in a tree of lists and mappings."""
    holder, key = rng.choice(list(_places(tree)))
    match rng.randrange(8):
        case 0 | 1 | 2:
            holder[key] = json.loads(json.dumps(rng.choice(VALUES)))
        case 3:
            value = holder[key]
            if isinstance(value, int | float) and not isinstance(value, bool):
                factor = rng.choice((-1, 0.5, 2, 3, 10, 1000, 1.1))
                product = value * factor
                holder[key] = rng.choice((value + 1, value - 1, product, int(product) if math.isfinite(product) else 0))
            else:
                holder[key] = rng.choice(NUMBERS)
        case 4:
            del holder[key]
        case 5:
            other_holder, other_key = rng.choice(list(_places(tree)) or [(holder, key)])
            if key in holder if isinstance(holder, dict) else key < len(holder):
                holder[key] = json.loads(json.dumps(other_holder[other_key]))
        case 6 if isinstance(holder, list):
            holder[key:key] = json.loads(json.dumps([holder[key]] * rng.choice((1, 1, 3, 300))))
        case _:
            if isinstance(holder, dict):
                name = rng.choice(
                    (str(key)[:-1], f"{key}s", "type", "norm", "repeats", "stride", "extends", *WORDS[:40])
                )
                holder[name] = json.loads(json.dumps(rng.choice(VALUES)))
            else:
                holder.append(rng.choice(VALUES))
    if not tree:
        tree["name"] = "x"


def _places(tree: Tree) -> Any:
    """Every (holder, key) of a tree."""
    items: Any = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


# The kinds


def specs(rng: Random) -> str | bytes:
    return document(rng, "archspecs")


def recipes(rng: Random) -> str | bytes:
    return document(rng, "recipes")


_ACTIVATIONS = ["relu", "relu6", "silu", "hardswish", "gelu"]
_NORMS = [
    {"type": "batch"},
    {"eps": 1e-3},
    {"type": "group", "group_size": 1},
    {"type": "group", "group_size": 2},
    {"type": "layer"},
    {"type": "none"},
]
_OF_A_ROW: dict[str, list[Any]] = {
    "repeats": [1, 2, 3], "stride": [1, 2], "out_channels": [1, 2, 3, 8, 24], "kernel_size": [1, 3, 5, 7, 31], "activation": _ACTIVATIONS, "norm": _NORMS,
    "padding": ["same", "symmetric"], "skip": [True, False], "se_ratio": [0, 0.1, 0.25, 1], "group_size": [1, 2, 8], "expand_ratio": [1, 1.5, 2, 6],
    "expand_channels": [1, 7, 16], "expand_base": ["input", "output"], "always_expand": [True, False], "linear": [True, False], "start_kernel_size": [3, 5],
    "squeeze_excite": [{"base": "expanded"}, {"gate": "hardsigmoid"}, {"activation": "relu"}, {"rounding": {"mode": "ceil", "divisor": 8}}],
    "type": ["mbconv", "fused_mbconv", "conv", "depthwise_separable", "universal_inverted_bottleneck"], "expand_kernel_size": [1, 3], "scale_width": [True, False, "up"],
}  # fmt: skip
_OF_A_NETWORK: dict[str, list[Any]] = {
    "activation": _ACTIVATIONS, "norm": _NORMS, "padding": ["same", "symmetric"], "anti_alias": ["none", "blur", "avg"], "output_stride": [8, 16, 32],
    "in_channels": [1, 2, 5], "squeeze_excite": _OF_A_ROW["squeeze_excite"], "drop_path": [{"rate": 0.3}],
    "head": [{"order": "pool"}, {"out_channels": 8}, {"order": "pool_conv", "out_channels": 8}, {"order": "pool_conv_norm", "out_channels": 8, "pool": "avgmax"}],
    "stem": [{"out_channels": 4}, {"out_channels": 3, "stride": 1, "kernel_size": 5}],
    "rounding": [{"stages": {"mode": "ceil", "divisor": 1}, "expansion": {"mode": "nearest"}}, {"expansion": {"mode": "ceil", "divisor": 4}}],
}  # fmt: skip


def networks(rng: Random) -> str:
    """Specs that are likely to be valid, and small: few rows, classes and px, with settings of rows and network changed."""
    tree = json.loads(rng.choice(trees("archspecs")))
    for key in ("published", "normalization", "scaling"):
        tree.pop(key, None)
    rows = tree["stages"][: rng.randint(1, 4)]
    tree["stages"] = rows
    for _ in range(rng.choice((1, 2, 3, 5))):
        row = rng.choice(rows)
        holder, table = (
            (row if isinstance(row, dict) else rng.choice(row), _OF_A_ROW)
            if rng.random() < 0.7
            else (tree, _OF_A_NETWORK)
        )
        key = rng.choice(list(table))
        holder[key] = json.loads(json.dumps(rng.choice(table[key])))
    if rng.random() < 0.1:
        change_tree(rng, tree)
    if isinstance(tree.get("head"), dict):
        tree["head"]["num_classes"] = rng.choice((0, 1, 3, 10))
    widths = (1,) if isinstance(tree.get("norm"), dict) and tree["norm"].get("type") == "group" else (0.25, 0.5, 1)
    tree["scaling"] = {
        "width": rng.choice(widths),
        "depth": rng.choice((0.3, 1)),
        "resolution": rng.choice((1, 8, 17, 32, 48)),
    }
    return json.dumps(tree)


@cache
def _paths(kind: Kind) -> list[str]:
    def walk(tree: Tree, path: str) -> Any:
        items: Any = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
        for key, value in items:
            yield f"{path}.{key}".lstrip(".")
            yield from walk(value, f"{path}.{key}")

    return sorted({path for text in trees(kind) for path in walk(json.loads(text), "")})


def assignments(rng: Random) -> tuple[str, str, list[str]]:
    """A kind of document, a shipped name of it, and arguments of --set."""
    kind: Kind = rng.choice(("archspecs", "archspecs", "recipes"))
    found = []
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        value = rng.choice(WORDS) if rng.random() < 0.5 else json.dumps(rng.choice(VALUES))
        text = f"{rng.choice(_paths(kind))}={value}"
        found.append(change_text(rng, text, kind) if rng.random() < 0.4 else text)
    return kind, rng.choice(list(shipped(kind))), found


def multipliers(rng: Random) -> tuple[str, dict[str, float]]:
    """A shipped network and the numbers of --phi, --width, --depth, --resolution and the like."""
    extreme = [float("inf"), float("-inf"), float("nan"), 1e400, 1e308, -1e308, 5e-324, 100.0, -100.0, 1e15, 99.99]
    names = ("phi", "width", "depth", "resolution", "num_classes", "in_channels", "output_stride")
    flags = {
        name: number(rng) if rng.random() < 0.8 else rng.choice(extreme)
        for name in rng.sample(names, rng.randint(1, 4))
    }
    return rng.choice(list(shipped("archspecs"))), flags


SECRET = "the-content-of-a-foreign-file"


def folders(rng: Random) -> dict[str, str]:
    """Files of one folder that extend each other: name to text, or to `link:TARGET`; `top.yaml` is what is read."""
    names = ["top.yaml", "a.yaml", "b.yaml", "c.yaml", "sub/a.yaml", "sub/d.yaml"]
    targets = [
        *names, "./a.yaml", "./sub/d.yaml", "../outside.yaml", "../top.yaml", "sub/../a.yaml", "sub/../../outside.yaml", "link.yaml", "dir/outside.yaml",
        "dir/../top.yaml", "dir/../outside.yaml", "loop/a.yaml", "a\\0.yaml", "/etc/passwd", "efficientnet-b0", "efficientnet-pico", "x", "sub", "./sub", "w.safetensors",
        "./" + "a/" * 2000 + "b.yaml", "./" + "x" * 300 + ".yaml", "~/a.yaml", "$HOME/a.yaml", "file:///etc/passwd", "http://localhost/a.yaml", "C:\\a.yaml",
        "dir/link.yaml", "a.yaml/", "a.yaml/.", ".//a.yaml", "./a.yaml#x", "", ".", "..", "dev/zero.yaml", "\\ud800.yaml",
    ]  # fmt: skip
    files = {}
    for name in names:
        head = f'extends: "{rng.choice(targets)}"\n' if rng.random() < 0.8 else ""
        body = rng.choice(
            (
                "name: x\n",
                "name: y\nstem: {stride: 1}\n",
                "stages: {0: {stride: 1}}\n",
                "stages: null\n",
                "norm: {eps: 1e-3}\n",
                "[1]\n",
                "name: \x01\n",
            )
        )
        base = rng.choice(texts("archspecs")) if not head and rng.random() < 0.7 else ""
        text = head + (base or body)
        files[name] = change_text(rng, text, "archspecs") if rng.random() < 0.1 else text
    links = {"link.yaml": "../outside.yaml", "dir": "../outside", "loop": "loop", "dev": "/dev", "sub/up": "../.."}
    for name in rng.sample(sorted(links), rng.randint(0, len(links))):
        files[name] = f"link:{links[name]}"
    if rng.random() < 0.2:
        files[rng.choice(names)] = f"link:{rng.choice(('a.yaml', '../outside.yaml', 'top.yaml', '/dev/zero', 'sub'))}"
    return files


def safetensors(rng: Random, valid: bytes) -> bytes:
    """A file of weights with its header or its bytes changed."""
    if rng.random() < 0.4:
        return change_bytes(rng, valid)
    size = int.from_bytes(valid[:8], "little")
    header = json.loads(valid[8 : 8 + size])
    body = valid[8 + size :]
    for _ in range(rng.choice((1, 1, 2, 4))):
        change_tensors(rng, header)
    text = json.dumps(header).encode()
    if rng.random() < 0.1:
        text = change_bytes(rng, text)
    length = (
        len(text)
        if rng.random() < 0.9
        else rng.choice((0, 1, len(text) + 1, 100_000_000, 100_000_001, 2**63, 2**64 - 1))
    )
    return struct.pack("<Q", length) + text + body


def change_tensors(rng: Random, header: dict[str, Any]) -> None:
    """One change of a safetensors header."""
    names = [name for name in header if name != "__metadata__"]
    if not names or rng.random() < 0.3:
        said = header.setdefault("__metadata__", {})
        if not isinstance(said, dict):
            return
        key = rng.choice(["spec", "classes", "norm", "eps", "format", *said])
        spec = document(rng, "archspecs")
        text = spec if isinstance(spec, str) else spec.decode("latin-1")
        if rng.random() < 0.5 and isinstance(said.get("spec"), str):
            text = change_text(rng, said["spec"], "archspecs")
        classes = json.dumps(
            [rng.choice(("\x1b[31mred", "a\nb", "<b>", "x" * 10_000, "\ud800", 3, None)) for _ in range(3)]
        )
        said[key] = rng.choice((text, text, text, "", rng.choice(WORDS), classes, "[" * 2000, 3))
        return
    name = rng.choice(names)
    entry = header[name]
    if not isinstance(entry, dict):
        return
    match rng.randrange(8):
        case 0:
            entry["shape"] = rng.choice(
                ([2**62], [2**32, 2**32], [0], [], [-1], [1.5], [2**64], ["a"], None, [1] * 100, [10**12, 0])
            )
        case 1:
            start, end = rng.choice(((0, 2**62), (5, 1), (-1, 3), (2**63, 2**63 + 4), (0, 4), (0, 0)))
            entry["data_offsets"] = [start, end]
        case 2:
            entry["dtype"] = rng.choice(("F64", "BF16", "F8_E4M3", "BOOL", "I64", "U8", "F4", "C64", "X", "", None, 3))
        case 3:
            header[rng.choice(WORDS)] = header.pop(name)
        case 4:
            del header[name]
        case 5:
            header[f"{name}2"] = dict(entry)
        case 6 if entry:
            del entry[rng.choice(list(entry))]
        case _:
            header[name] = rng.choice((None, [], 3, {}, "x", {"dtype": "F32"}))


class _Call:
    """A pickle that calls a function when it is loaded."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def pth(rng: Random, zipped: bytes, legacy: bytes, canary: str) -> bytes:
    """A PyTorch file with its bytes, its pickle or its archive changed."""
    match rng.randrange(8):
        case 0 | 1 | 2:
            return change_bytes(rng, zipped)
        case 3:
            return change_bytes(rng, legacy)
        case 4:
            return _rezipped(rng, zipped)
        case 5:
            import os

            evil = rng.choice(
                (_Call(os.system, f"touch {canary}"), _Call(eval, f"open({canary!r}, 'w')"), _Call(open, canary, "w"))
            )
            data = pickle.dumps({"a": evil} if rng.random() < 0.5 else evil, rng.randint(0, 5))
            return _with_pickle(zipped, data) if rng.random() < 0.7 else data
        case 6:
            return _with_pickle(zipped, _opcodes(rng))
        case _:
            return _opcodes(rng)


def _opcodes(rng: Random) -> bytes:
    """Pickles that are deep, endless, empty, or nonsense."""
    count = rng.choice((1, 10, 1000, 50_000))
    made = [
        b"\x80\x02" + b"(" * count + b".", b"\x80\x02" + b"]" * count + b"a" * (count - 1) + b".", b"\x80\x02" + b"}" * count + b".",
        b"\x80\x02N" + b"\x85" * count + b".", b"\x80\x02" + b"0" * count, b"\x80\x02(" + b"K\x01" * count + b"t.", b"\x80\x02X\xff\xff\xff\x7fabc.",
        b"\x80\x02\x8a\xff" + b"\x01" * 10 + b".", b"\x80\x02ctorch\nTensor\n)\x81.", b"\x80\x02ccollections\nOrderedDict\n)R.", b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + b"(K\x01t" * 3 + b"R.", b"\x80\x02K\x01Q.", b"\x80\x02N.", b"\x80\x02}.", b"\x80\x02K\x05.", b"\x80\x02]q\x00h\x00a.",
        b"\x80\x02ctorch\nfloat32\nN}b.", b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
    ]  # fmt: skip
    data = rng.choice(made)
    return change_bytes(rng, data) if rng.random() < 0.3 else data


def _with_pickle(zipped: bytes, data: bytes) -> bytes:
    """The archive with another pickle in it."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(zipped)) as source, zipfile.ZipFile(out, "w") as target:
        for member in source.infolist():
            target.writestr(member.filename, data if member.filename.endswith("data.pkl") else source.read(member))
    return out.getvalue()


def _rezipped(rng: Random, zipped: bytes) -> bytes:
    """The archive with members compressed, renamed, missing, doubled, or huge."""
    out = io.BytesIO()
    import warnings

    with warnings.catch_warnings(), zipfile.ZipFile(io.BytesIO(zipped)) as source, zipfile.ZipFile(out, "w") as target:
        warnings.simplefilter("ignore")
        for member in source.infolist():
            name, content = member.filename, source.read(member)
            match rng.randrange(12):
                case 0:
                    continue
                case 1:
                    name = rng.choice(("../" + name, "/" + name, name + "x", "data.pkl", "archive/../data.pkl"))
                case 2:
                    content = change_bytes(rng, content) if content else b"x"
                case 3:
                    target.writestr(name, content)
                case 4:
                    content = bytes(1_000_000)
            target.writestr(name, content, rng.choice((zipfile.ZIP_STORED,) * 5 + (zipfile.ZIP_DEFLATED,)))
    return out.getvalue()


def run(rng: Random, contents: dict[str, bytes]) -> dict[str, bytes | None]:
    """The files of a run, some of them changed, missing, empty, swapped, or with other values in their JSON and YAML."""
    files: dict[str, bytes | None] = dict(contents)
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice(list(contents))
        content = files[name]
        match rng.randrange(6):
            case 0:
                files[name] = None
            case 1:
                files[name] = b""
            case 2:
                files[name] = contents[rng.choice(list(contents))]
            case 3 if content and name.endswith((".json", ".yaml")):
                files[name] = change_text(rng, content.decode(errors="replace"), "recipes").encode(
                    "utf-8", "surrogatepass"
                )
            case 4 if content and name.endswith(".json"):
                try:
                    tree = json.loads(content)
                    change_tree(rng, tree)
                except (ValueError, TypeError, IndexError):
                    continue
                files[name] = json.dumps(tree).encode()
            case 5 if content and name.startswith("checkpoints/") and rng.random() < 0.5:
                files[name] = signed(rng, contents[name])
            case 5 if content and name.endswith(".safetensors") and rng.random() < 0.5:
                try:
                    files[name] = safetensors(rng, content)
                except (ValueError, TypeError, AttributeError):
                    continue
            case _ if content:
                files[name] = change_bytes(rng, content)
    return files


def signed(rng: Random, content: bytes) -> bytes:
    """A checkpoint with other facts or tensors and a digest that is right, as a forger would make it."""
    import tempfile
    from pathlib import Path

    from effnet_builder.train.checkpoint import Checkpoint, read, write

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.safetensors"
        path.write_bytes(content)
        found = read(path)
        facts, tensors = json.loads(json.dumps(dict(found.facts))), dict(found.tensors)
        if rng.random() < 0.7:
            change_tree(rng, facts)
        else:
            name = rng.choice(list(tensors))
            tensors[rng.choice((name, f"{name}x", "counters"))] = tensors.pop(name).flatten()[
                : rng.choice((0, 1, 1000))
            ]
        write(path, Checkpoint(tensors, facts))
        return path.read_bytes()


def archive(rng: Random, image: bytes, form: int) -> bytes:
    """A good archive of a few samples, with other files, folders and links between them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for number in range(rng.randint(1, 4)):
            folder = rng.choice(("", "", "a/", "./", "ä" * 30 + "/", "l" * 60 + "/" + "m" * 60 + "/"))
            members = [(f"{folder}{number}.png", image), (f"{folder}{number}.cls", b"%d" % (number % 2))]
            if rng.random() < 0.3:
                members.insert(1, (f"{folder}{number}.json", b"{}" * rng.randint(0, 600)))
            for name, content in members:
                member = tarfile.TarInfo(name)
                member.size, member.mtime = len(content), rng.choice((0, 1.5, 10**9))
                member.pax_headers = {"comment": "x" * rng.randint(1, 600)} if rng.random() < 0.2 else {}
                tar.addfile(member, io.BytesIO(content))
            if rng.random() < 0.2:
                other = tarfile.TarInfo(f"other{number}")
                other.type = rng.choice((b"1", b"2", b"3", b"4", b"5", b"6"))
                other.linkname = rng.choice(("a", "/etc/passwd", "n" * 150 if form else "n"))
                tar.addfile(other)
    return out.getvalue()


_SIZES = (
    b"\xff" * 10 + b"\xfe\0", b"\x80" + b"\0" * 11, b"\x80" + b"\xff" * 11, b"\x80\0\0\0\0\0\0\0\0\0\2\0", b"00000000000\0", b"77777777777\0",
    b"00000001000\0", b"-0000000010\0", b"+0000000010\0", b"0o000000010\0", b"0_000000010\0", b"           \0", b"\0" * 12, b"zzzzzzzzzzz\0", b"00000000001 ",
)  # fmt: skip
_RECORDS = (
    b"size=0", b"size=512", b"size=-512", b"size=99999999999999999999", b"size=zzz", b"size= 5", b"path=a.png", b"path=a.cls", b"path=", b"path=a/",
    b"path=" + b"x" * 5000 + b".png", b"path=\x1b[2J.png", b"path=\xff.png", b"path=a\0b.png", b"GNU.sparse.major=1", b"GNU.sparse.minor=0",
    b"GNU.sparse.size=10", b"GNU.sparse.map=0,1", b"GNU.sparse.name=a.png", b"GNU.sparse.realsize=9", b"hdrcharset=BINARY", b"comment=" + b"c" * 2000, b"=", b"a",
)  # fmt: skip


def tar(rng: Random, image: bytes) -> bytes:
    """An archive with its headers changed and their sums made good, or cut, joined, or of random bytes."""
    data = bytearray(archive(rng, image, rng.randrange(3)))
    for _ in range(rng.choice((0, 1, 1, 1, 2, 4))):
        places = [place for place in range(0, len(data), 512) if data[place + 257 : place + 262] == b"ustar"]
        if not places:
            break
        place = rng.choice(places)
        match rng.randrange(12):
            case 0 | 1:
                data[place + 124 : place + 136] = rng.choice(_SIZES)
            case 2 | 3:
                data[place + 156] = rng.choice(b"\x000123456789LKSxXgNMVDAZ\xff")
            case 4:
                first, last = rng.choice(
                    ((0, 100), (100, 108), (136, 148), (157, 257), (329, 337), (345, 500), (482, 483))
                )
                data[place + first : place + last] = rng.randbytes(last - first)
            case 5:
                name = rng.choice((b"a.png", b"a.cls", b"d/", b"\x1b[2J.png", b"\xff.png", b"", b"/", b"x" * 100))
                data[place : place + 100] = name.ljust(100, b"\0")
            case 6 | 7:
                data[place:place] = _records(rng)
            case 8:
                del data[place : place + 512 * rng.choice((1, 1, 2, 3))]
            case 9:
                data[place:place] = data[place : place + 512 * rng.choice((1, 2, 40))]
            case 10:
                data[rng.randrange(place, min(place + 512, len(data)))] ^= 1 << rng.randrange(8)
                continue  # with a wrong sum
            case _:
                del data[rng.randrange(len(data)) :]
        for start in range(0, len(data) - 511, 512):
            if data[start + 257 : start + 262] == b"ustar":
                data[start + 148 : start + 156] = b" " * 8
                data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    match rng.randrange(12):
        case 0:
            return bytes(data) + archive(rng, image, rng.randrange(3))
        case 1:
            return change_bytes(rng, bytes(data)) if data else b""
        case 2:
            return bytes(data).rstrip(b"\0") + bytes(rng.choice((0, 1, 512, 1024, 5000)))
        case 3:
            return rng.randbytes(rng.choice((0, 1, 511, 512, 2000)))
    return bytes(data)


def _records(rng: Random) -> bytes:
    """Headers that stand before a member: of pax, or of a long name, some of them false, some of them many."""
    kind = rng.choice((b"x", b"x", b"x", b"g", b"X", b"L", b"K"))
    if kind in b"LK":
        content = rng.choice((b"long/" * 40 + b".png\0", b"a.png", b"", b"a\0b", b"y" * 100_000, b"d/"))
    else:
        content = b""
        for text in rng.sample(_RECORDS, rng.randint(1, 3)):
            length = len(text) + 2
            length += len(str(length + len(str(length))))
            content += b"%d %s\n" % (length + rng.choice((0,) * 12 + (-1, 1, 1000)), text)
    member = tarfile.TarInfo("record")
    member.type, member.size = kind, max(0, len(content) + rng.choice((0,) * 12 + (-1, 1, 512, 2**21)))
    record = member.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)
    return record * rng.choice((1,) * 10 + (2, 3, 100))
