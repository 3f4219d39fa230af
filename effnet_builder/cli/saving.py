"""A network written as a spec that loads again, whole or not at all."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from .. import __version__
from ..arch.analysis import analyze
from ..arch.resolve import resolve
from ..arch.spec import ArchSpec
from ..arch.summary import counts_line
from ..config import ConfigError, Mark, Problem, node_of
from ..files import write_atomic
from .console import echo
from .outputs import SPEC, check_outputs


def save_spec(spec: ArchSpec, file: Path, description: str | None = None, given: Container[str] = ()) -> None:
    """Write the spec with `extends` worked in. Raises ConfigError where the file is there already.

    A `description` says where a variant comes from: it then gets the name of the file, unless `name` is in `given`.
    """
    mark = Mark(f"--save {file}")
    check_outputs([("--save", file, SPEC)])
    if description is not None:
        own = {"name": node_of(file.stem, mark), "description": description[:2000], "published": None}
        spec = spec.vary({path: value for path, value in own.items() if path not in given})
    plan = resolve(spec)
    header = f"# {spec.name}: {counts_line(plan, analyze(plan))}. Written by effnet_builder {__version__}.\n"
    try:
        write_atomic(file, header + spec.to_yaml())
    except OSError as error:
        raise ConfigError([Problem(f"cannot be written: {error.strerror or error}", mark=mark)]) from None
    echo(f"wrote {file}", err=True)
