"""Checkpoints: one safetensors file each, written whole or not at all, with a digest of all that is in it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..tensors import write_tensors

_FORMAT = 1
_NAME = re.compile(r"step-([0-9]{9})\.safetensors")


class Damaged(Exception):  # noqa: N818
    """A checkpoint is not what was written."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and facts as JSON has them."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start so, by the rest of their names."""
        return {name.removeprefix(prefix): one for name, one in self.tensors.items() if name.startswith(prefix)}


class Checkpoints:
    """The checkpoints of a run by their step: the newest two, and those of the best epochs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def steps(self) -> list[int]:
        """The steps that have one, newest first. What a killed process left unfinished is not among them."""
        try:
            found = [_NAME.fullmatch(name) for name in os.listdir(self.folder)]
        except FileNotFoundError:
            return []
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def path(self, step: int) -> Path:
        """The file of a step."""
        return self.folder / f"step-{step:09d}.safetensors"

    def save(self, step: int, checkpoint: Checkpoint, keep: Iterable[int] = ()) -> Path:
        """Write one, then remove all but the newest two and those of the steps in `keep`. Raises OSError.

        Also removes those of later steps, which a run has that went back, or on from an older one: they are no part of
        it any more, and one that is damaged would stay the newest.
        """
        self.folder.mkdir(exist_ok=True)
        path = self.path(step)
        write(path, checkpoint)
        there = self.steps()
        kept = {*[one for one in there if one <= step][:2], *(one for one in keep if one <= step)}
        for old in there:
            if old not in kept:
                self.path(old).unlink(missing_ok=True)
        return path

    def newest(self) -> Iterator[tuple[int, Checkpoint | Damaged]]:
        """Each step and its checkpoint, newest first; one that is damaged comes as the error that says how."""
        for step in self.steps():
            try:
                found = read(self.path(step))
                if found.facts.get("step") != step:
                    raise Damaged(f"{self.path(step)}: is of step {found.facts.get('step')}, whatever its name says")
                yield step, found
            except Damaged as error:
                yield step, error


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a file that is never seen half written, also after a power cut. Raises OSError."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    facts = json.dumps({"format": _FORMAT, **checkpoint.facts}, sort_keys=True)
    write_tensors(path, tensors, {"format": "pt", "facts": facts, "digest": _digest(tensors, facts)})


def read(path: Path) -> Checkpoint:
    """The checkpoint in a file. Raises Damaged where anything in it is not as it was written."""
    try:
        with safe_open(path, "pt") as opened:  # once: the first process may replace the file while others read it
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (it is no mapping)
            header = opened.metadata() or {}
        facts, digest = header["facts"], header["digest"]
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise Damaged(f"{path}: not a whole checkpoint ({reason})") from None
    if _digest(tensors, facts) != digest:
        raise Damaged(f"{path}: its contents are not those that were written (the digest differs)")
    found = json.loads(facts)
    if found["format"] != _FORMAT:
        raise Damaged(f"{path}: of format {found['format']}; this version reads format {_FORMAT}")
    return Checkpoint(tensors, found)


def _digest(tensors: Mapping[str, Tensor], facts: str) -> str:
    """Of the facts, and of each tensor's name, type, shape and bytes: safetensors itself notices no flipped bit."""
    digest = hashlib.blake2b(facts.encode(), digest_size=32)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
