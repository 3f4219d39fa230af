"""What the commands share: how results, mistakes and warnings reach the person, and the flags that vary a spec."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer

from .. import __version__
from ..arch.spec import ArchSpec, load_spec, variant_overrides
from ..config import (
    ConfigError,
    Kind,
    Mark,
    Node,
    limits,
    node_of,
    parse_assignments,
    parse_limits,
    printable,
    shipped,
)

EXIT_FAILURE = 1
EXIT_MISTAKE = 2

_lost_output: list[str] = []
_muted = False


def run(app: typer.Typer, name: str) -> None:
    """Run a command; exit with 1 where its output could not be written, unless the reader had enough of it."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character is no reason to stop
    try:
        app(prog_name=name)
    except SystemExit as done:
        if _lost_output and done.code in (0, None):
            raise SystemExit(EXIT_FAILURE) from None
        raise


def echo(text: str, *, err: bool = False, bold: bool = False, colour: str | None = None) -> None:
    """Print text; styles only on a terminal, and never where NO_COLOR is set. A closed or full output stops nothing."""
    if _muted:
        return
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    styled = text if plain or not (bold or colour) else typer.style(text, bold=bold, fg=colour)
    try:
        typer.echo(styled, err=err)
    except OSError as error:
        # Nobody reads on, or the disk is full: what follows goes nowhere, also what Python flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), (sys.stderr if err else sys.stdout).fileno())
        if error.errno != errno.EPIPE and not err:
            _lost_output.append(text)
            echo(f"standard output: {error.strerror}", err=True, colour="red")


def mute() -> None:
    """Print nothing more: of several processes that say the same, one speaks. Tracebacks are not silenced."""
    global _muted
    _muted = True
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (for the rest of the process)


def fail(message: str, code: int = EXIT_MISTAKE) -> typer.Exit:
    """Print one sentence to stderr; raise what this returns."""
    echo("\n".join(map(printable, message.splitlines())), err=True, colour="red")
    return typer.Exit(code)


@contextmanager
def reporting(nothing_done: str, raised: Sequence[str] = ()) -> Iterator[None]:
    """Mistakes of the user as located lines on stderr and exit code 2, warnings as lines, never a traceback.

    `raised` are the arguments of --limit, which hold inside.
    """
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: echo(f"warning: {message}", err=True, colour="yellow")
        try:
            with limits(**parse_limits(raised)):
                yield
        except ConfigError as error:
            count = len(error.problems)
            echo(str(error), err=True, colour="red")
            echo(f"{count} problem{'s' if count > 1 else ''}; {nothing_done}", err=True)
            raise typer.Exit(EXIT_MISTAKE) from None


def varied_spec(
    source: str, assignments: Sequence[str] = (), **flags: float | None
) -> tuple[ArchSpec, dict[str, Node]]:
    """The spec with the flags of `variant_overrides` and `--set` worked in, and the changes, marked as arguments.

    Raises ConfigError with the mistakes of the file and of the arguments.
    """
    changes = {}
    for path, value in variant_overrides(**flags).items():
        flag = path.rpartition(".")[2].replace("_", "-")
        changes[path] = node_of(value, Mark(f"--{flag} {value}"))
    given = [path for path, node in changes.items() if node.value is not None]
    settings, problems = parse_assignments(assignments, given)
    changes |= settings
    try:
        spec = load_spec(source, changes)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    if problems:
        raise ConfigError(problems)
    return spec, changes


def application() -> typer.Typer:
    """A command: completion installs, help is plain text, a bug shows Python's own traceback."""
    return typer.Typer(add_completion=True, pretty_exceptions_enable=False, rich_markup_mode=None)


def names(kind: Kind, incomplete: str) -> list[str]:
    """The shipped documents that start with what was typed, for shell completion."""
    return [name for name in shipped(kind) if name.startswith(incomplete)]


def print_version(wanted: bool) -> None:
    """Callback of --version."""
    if wanted:
        echo(f"effnet_builder {__version__} (Python {sys.version.split()[0]})")
        raise typer.Exit


_SPEC_HELP = "A shipped archspec by name (see build-arch --list), a YAML file, or a .safetensors file with its spec."


def _complete_spec(incomplete: str) -> list[str]:
    return names("archspecs", incomplete)


SPEC_ARGUMENT = typer.Argument(metavar="SPEC", help=_SPEC_HELP, autocompletion=_complete_spec, show_default=False)
SPECS_ARGUMENT = typer.Argument(metavar="SPEC", help=_SPEC_HELP, autocompletion=_complete_spec, show_default=False)
LIMIT_OPTION = typer.Option(
    "--limit",
    metavar="NAME=NUMBER",
    help="Raise a limit that a refusal names, as in blocks=5000. May be repeated.",
    show_default=False,
)
VERSION_OPTION = typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
