"""What the commands share: how results, mistakes and warnings reach the person, and the flags that vary a spec."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, TextIO

import typer
from typer.core import TyperCommand

from .. import __version__
from ..arch.spec import ArchSpec, load_spec, variant_overrides
from ..config import (
    ConfigError,
    Kind,
    Mark,
    Node,
    limits,
    node_of,
    of_system,
    parse_assignments,
    parse_limits,
    shipped,
)
from ..escaping import printable, printable_lines

EXIT_FAILURE = 1
EXIT_MISTAKE = 2

_lost_output: list[str] = []
_muted = False
_process = ""  # how this one of several processes begins what it alone has to say
_first_here = True  # whether it is the first one of its machine


def run(app: typer.Typer, name: str) -> None:
    """Run a command; exit with 1 where its output could not be written, unless the reader had enough of it."""
    _open_closed()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    try:
        os.getcwd()
    except OSError as error:  # libraries of torch end the process for it
        raise SystemExit(fail(f"the working directory cannot be used: {error.strerror}").exit_code) from None
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character is no reason to stop
    try:
        app(prog_name=name)
    except SystemExit as done:
        if _lost_output and done.code in (0, None):
            raise SystemExit(EXIT_FAILURE) from None
        raise
    except OSError as error:  # also of what typer prints by itself: help, usage
        echo(of_system(error), err=True, colour="red")
        _discard(sys.stdout)
        raise SystemExit(EXIT_FAILURE) from None


def _end(number: int, _: FrameType | None) -> NoReturn:
    """Ctrl-C, also while libraries are loaded: the exit code that a shell gives, and no traceback."""
    raise SystemExit(128 + number)


def echo(
    text: str, *, err: bool = False, bold: bool = False, colour: str | None = None, own: bool = False,
    lines: bool = False,
) -> None:  # fmt: skip
    """Print a line, or `lines`; what a terminal could obey is escaped, a line feed too unless there are `lines`.

    Styles are printed on a terminal only, and never where NO_COLOR is set. A closed or full output stops nothing.
    Of several processes the first speaks; what is its `own`, each says with its number.
    """
    if _muted and not own:
        return
    text = (printable_lines if lines else printable)(_process + text if own else text)
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    styled = text if plain or not (bold or colour) else typer.style(text, bold=bold, fg=colour)
    try:
        typer.echo(styled, err=err)
    except OSError as error:
        # Nobody reads on, or the disk is full: what follows goes nowhere, also what Python flushes at its end.
        _discard(sys.stderr if err else sys.stdout)
        if error.errno != errno.EPIPE and not err:
            _lost_output.append(text)
            echo(f"standard output: {error.strerror}", err=True, colour="red")


def _discard(stream: TextIO | None) -> None:
    if stream is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _open_closed() -> None:
    """Input, output and errors where they are closed: files that are opened later would get their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def warn(message: str) -> None:
    """Print one line to stderr about what costs a part of the result, and stops nothing."""
    echo(f"warning: {message}", err=True, colour="yellow")


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    """A thread of a library that the system refused something, as a line; the library says it to its callers too."""
    if isinstance(failed.exc_value, OSError):
        warn(of_system(failed.exc_value))
    else:
        threading.__excepthook__(failed)


def one_of_many() -> None:
    """Find out whether torchrun has started this process as one of several: of those that say the same, one speaks.

    Tracebacks are not silenced.
    """
    global _muted, _process, _first_here
    rank, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1:
        _process, _first_here = f"process {rank} of {count}: ", os.environ.get("LOCAL_RANK", "0") == "0"
    if rank > 0:
        _muted = True
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (for the rest of the process)


def fail(message: str, code: int = EXIT_MISTAKE, *, own: bool = False) -> typer.Exit:
    """Print one sentence to stderr, from every process whose `own` it is; raise what this returns."""
    echo(message.rstrip("\n"), err=True, colour="red", own=own, lines=True)
    return typer.Exit(code)


def leave(message: str) -> NoReturn:
    """Print one sentence to stderr, and end the process at once: its threads wait for processes that are gone."""
    fail(message, own=True)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(EXIT_FAILURE)


@contextmanager
def reporting(nothing_done: str, raised: Sequence[str] = ()) -> Iterator[None]:
    """Mistakes of the user as located lines on stderr and exit code 2, warnings as lines, never a traceback.

    `raised` are the arguments of --limit, which hold inside.
    """
    threading.excepthook = _thread_failed
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: warn(_first_line(message))
        try:
            with limits(**parse_limits(raised)):
                yield
        except ConfigError as error:
            count = len(error.problems)
            # Once on each machine: all processes make the same mistake, but each machine has a disk of its own.
            own = _muted and _first_here
            echo(str(error), err=True, colour="red", own=own, lines=True)
            echo(f"{count} problem{'s' if count > 1 else ''}; {nothing_done}", err=True, own=own)
            raise typer.Exit(EXIT_MISTAKE) from None
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, typer.Exit) or "torch" not in sys.modules:
                raise
            _explain(error)
            raise


def _explain(error: RuntimeError | MemoryError) -> None:
    """End with one line for what a device cannot help: memory that ran out, a failure. Any other error is a bug."""
    from ..failures import first_line, is_device_failure, is_out_of_memory

    if is_device_failure(error):
        leave(f"the device failed: {first_line(error)}")
    if is_out_of_memory(error):
        raise fail(f"out of memory: {first_line(error)}", EXIT_FAILURE, own=True) from None


def _first_line(message: Warning | str) -> str:
    """Return the line that says something: below it, PyTorch lists the frames of its own code."""
    return str(message).partition("\n")[0]


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


class _Command(TyperCommand):
    """Escapes arguments in what typer says of them: patterns of a shell make names of files into options."""

    def make_context(self, *arguments: Any, **settings: Any) -> Any:
        """Read the arguments. Raises the errors of typer."""
        try:
            return super().make_context(*arguments, **settings)
        except Exception as error:  # typer brings its own click, or takes that which is installed
            message = getattr(error, "message", None)
            if isinstance(message, str):
                error.message = printable_lines(message)  # type: ignore[attr-defined]
            raise


class _Application(typer.Typer):
    def command(self, *arguments: Any, **settings: Any) -> Any:
        """Register a command."""
        return super().command(*arguments, cls=_Command, **settings)


def application() -> typer.Typer:
    """A command: completion installs, help is plain text, a bug shows Python's own traceback."""
    return _Application(add_completion=True, pretty_exceptions_enable=False, rich_markup_mode=None)


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
