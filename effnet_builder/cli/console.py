"""What the commands share: how mistakes and warnings reach the person, and colour only where it is wanted."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from .. import __version__
from ..config import ConfigError, Kind, shipped

EXIT_MISTAKE = 2


def echo(text: str, *, err: bool = False, bold: bool = False, colour: str | None = None) -> None:
    """Print text; styles only on a terminal, and never where NO_COLOR is set."""
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    styled = text if plain or not (bold or colour) else typer.style(text, bold=bold, fg=colour)
    typer.echo(styled, err=err)


def fail(message: str, code: int = EXIT_MISTAKE) -> typer.Exit:
    """Print one sentence to stderr; raise what this returns."""
    echo(message, err=True, colour="red")
    return typer.Exit(code)


@contextmanager
def reporting(nothing_done: str) -> Iterator[None]:
    """Mistakes of the user as located lines on stderr and exit code 2, warnings as lines, never a traceback."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: echo(f"warning: {message}", err=True, colour="yellow")
        try:
            yield
        except ConfigError as error:
            count = len(error.problems)
            echo(str(error), err=True, colour="red")
            echo(f"{count} problem{'s' if count > 1 else ''}; {nothing_done}", err=True)
            raise typer.Exit(EXIT_MISTAKE) from None


def names(kind: Kind, incomplete: str) -> list[str]:
    """The shipped documents that start with what was typed, for shell completion."""
    return [name for name in shipped(kind) if name.startswith(incomplete)]


def print_version(wanted: bool) -> None:
    """Callback of --version."""
    if wanted:
        echo(f"effnet_builder {__version__} (Python {sys.version.split()[0]})")
        raise typer.Exit
