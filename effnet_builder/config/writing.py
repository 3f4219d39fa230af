"""Files written whole or not at all, and data as YAML that reads back as the same data."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import yaml

from .reading import read_scalar

_SHOWN = 50  # characters of a name in that of its temporary file, which may have 255 bytes


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file so that other processes, and a crash, see either nothing or all of it. Raises OSError."""
    import tempfile  # half of the standard library behind it, and most commands write nothing

    target = Path(path)
    with writing(target):
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:_SHOWN]}.")
        try:
            with open(handle, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, shared_mode())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


@contextlib.contextmanager
def writing(target: str | os.PathLike[str]) -> Iterator[None]:
    """Let an OSError name this file: that of the system names a temporary one, or none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), os.fspath(target)) from None


def dump_yaml(data: object) -> str:
    """Plain data as YAML in the order given; the innermost mappings and lists stand on one line."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
    return text


def shared_mode() -> int:
    """The permissions that `open` gives a new file; those of a temporary one are narrower."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that our reader, not PyYAML's, would take for something else; never writes aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if read_scalar(text) == (text, None) and text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
