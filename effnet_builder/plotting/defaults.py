"""matplotlib as it comes: loaded and used without the configuration of the user or of the working directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Of these, matplotlib says itself that they are no matter of style. They decide about windows, which we do not open.
_NOT_STYLE = ("backend", "interactive", "toolbar", "timezone", "tk.", "webagg.", "keymap.", "docstring.")

# DejaVu Sans comes with matplotlib, so that widths measured here hold wherever the picture is made. Under a name of
# ours no font of the system is taken for it.
FONT = "DejaVu Sans of effnet_builder"
_FILES = {"DejaVuSans.ttf": 400, "DejaVuSans-Bold.ttf": 700}  # and their weights


def import_matplotlib() -> None:
    """Import matplotlib, which then reads its own `matplotlibrc` and no other. Every import of it comes after this.

    matplotlib reads the first of: `matplotlibrc` in the working directory, MATPLOTLIBRC, the folder of the user. A bad
    one makes the import print, fail, or (a pipe) wait without end; so does a bad MPLBACKEND. A program that wants its
    own settings in its own pictures imports matplotlib before effnet_builder.plotting; ours are not changed by that.

    Of the folder of the user (MPLCONFIGDIR, ~/.cache/matplotlib) the list of fonts is read, and written if there is
    none. It is data, no code, and pictures do not depend on it: a damaged one is made again, and the files of our
    fonts are added to it here. Where the folder cannot be written, matplotlib uses a temporary one, says so, and takes
    a few seconds more.
    """
    found = find_spec("matplotlib")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
    own = Path(found.submodule_search_locations[0]) / "mpl-data" / "matplotlibrc"
    with _environment(MATPLOTLIBRC=str(own), MPLBACKEND=None) as before, _no_file_of_the_working_directory():
        import matplotlib
        import matplotlib.axes
        import matplotlib.figure
        import matplotlib.font_manager
    if before["MPLBACKEND"]:  # notebooks show pictures by it
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = before["MPLBACKEND"]
    fonts = matplotlib.font_manager
    for name, weight in _FILES.items():
        entry = fonts.FontEntry(
            fname=str(own.parent / "fonts" / "ttf" / name), name=FONT, weight=weight, size="scalable"
        )
        fonts.fontManager.ttflist.append(entry)


@contextmanager
def default_settings() -> Iterator[None]:
    """Draw with matplotlib's defaults, whatever a program has set; its settings come back at the end.

    `matplotlib.rcdefaults` does not do: it reads the style files of the user.
    """
    from matplotlib import rc_context, rcParamsDefault

    settings: Any = {name: rcParamsDefault[name] for name in rcParamsDefault if not name.startswith(_NOT_STYLE)}
    # As text, letters would come in whichever font the viewer has, wider than was measured: labels would overlap.
    ours = {"font.family": [FONT], "svg.fonttype": "path", "svg.hashsalt": "effnet_builder"}
    with rc_context(settings | ours):
        yield


@contextmanager
def _environment(**changes: str | None) -> Iterator[dict[str, str | None]]:
    """Set variables, or remove those that are None, and yield what they were; they come back at the end."""
    before = {name: os.environ.get(name) for name in changes}
    try:
        _set(changes)
        yield before
    finally:
        _set(before)


def _set(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def _no_file_of_the_working_directory() -> Iterator[None]:
    """Let `matplotlibrc`, which is the first name that matplotlib looks for, not be there.

    The working directory is not changed instead: other threads may open files by relative paths.
    """
    exists = os.path.exists
    os.path.exists = lambda path: path != "matplotlibrc" and exists(path)
    try:
        yield
    finally:
        os.path.exists = exists
