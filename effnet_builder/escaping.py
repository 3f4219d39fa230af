"""Text from outside, escaped for where it goes: a terminal, a shell, markup of rich. Imports no torch.

The other targets escape by themselves: HTML in `report.html`, YAML in `config.dump_yaml`, JSON in `json.dumps`.
Pictures draw each text with `parse_math=False`. The CSV files and tables hold numbers alone.
"""

from __future__ import annotations

import os
import shlex


def printable(text: str) -> str:
    """Return the text as one line, with everything escaped that a terminal could obey."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def printable_lines(text: str) -> str:
    """Return a text of several lines, with everything but its line feeds escaped."""
    return "\n".join(map(printable, text.split("\n")))


def shell_command(*arguments: str | os.PathLike[str]) -> str:
    """Return a command line that bash and zsh read as these arguments. It is printable, whatever is in them."""
    return " ".join(_quoted(os.fspath(argument)) for argument in arguments)


def path_argument(path: str | os.PathLike[str]) -> str:
    """Return a path as an argument that no command takes for an option."""
    text = os.fspath(path)
    return f"./{text}" if text.startswith("-") else text


def rich_text(text: str) -> str:
    """Return the text as markup of rich that shows it as it is."""
    from rich.markup import escape

    return escape(printable(text))


def _escaped(letter: str) -> str:
    return letter if letter.isprintable() else ascii(letter)[1:-1]


def _quoted(argument: str) -> str:
    if argument.isprintable():
        return shlex.quote(argument)
    return "$'" + "".join(map(_quoted_letter, argument)) + "'"


def _quoted_letter(letter: str) -> str:
    """Return what stands for a letter between $' and '."""
    if letter in "'\\":
        return f"\\{letter}"
    return letter if letter.isprintable() else "".join(f"\\x{byte:02x}" for byte in _bytes(letter))


def _bytes(letter: str) -> bytes:
    """Return the bytes that the system is given for a letter of a name."""
    try:
        return os.fsencode(letter)
    except UnicodeEncodeError:  # a half of a character, which no name on a disk holds
        return letter.encode("utf-8", "surrogatepass")
