"""Pictures through the command line: a network to scale, costs over phi, published accuracies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..arch.analysis import analyze
from ..arch.plan import Plan
from ..arch.quantities import Budget
from ..arch.rules import rule_overrides
from ..arch.spec import ArchSpec
from ..arch.variants import Costing, OutOfRangeError, Variant
from ..config import ConfigError, Mark, Problem, in_short
from .console import EXIT_FAILURE, echo, fail

_SINGLE = ("depth", "width", "resolution")


class ThemeOption(str, Enum):
    """The colours of a picture."""

    light = "light"
    dark = "dark"


THEME_OPTION = Annotated[ThemeOption, typer.Option("--theme", help="The colours of a picture.")]


def draw_diagram(plan: Plan, file: Path, theme: ThemeOption) -> None:
    """The network, a box for each block. Raises ConfigError."""
    with _drawing("--diagram", file):
        from ..plotting import diagram, save

        save(diagram(plan, analyze(plan), theme.value), file)


def draw_accuracies(file: Path, theme: ThemeOption) -> None:
    """The published accuracies of the archspecs over their MACs. Raises ConfigError."""
    with _drawing("--diagram", file):
        from ..plotting import plot_accuracy, published_points, save

        save(plot_accuracy(published_points(), theme.value), file)


def draw_sweep(
    base: ArchSpec,
    rule: str,
    variants: Sequence[Variant],
    file: Path,
    theme: ThemeOption,
    budgets: Sequence[Budget] = (),
    chosen: Variant | None = None,
) -> None:
    """Costs over phi along the rule, and along one dimension alone, with the first budget. Raises ConfigError."""
    with _drawing("--plot", file):
        from ..plotting import plot_sweep, save

        series = {rule: variants}
        phis = [variant.phi for variant in variants if variant.phi is not None]
        for single in _SINGLE:
            if single != rule:
                series[single] = list(_buildable(base.vary(rule_overrides(single)), phis))
        plotted = [budget for budget in budgets if budget.quantity in ("params", "macs", "activations")]
        quantity: Any = plotted[0].quantity if plotted else "macs"
        limits: dict[str, float] = {budget.quantity: budget.limit for budget in plotted}
        save(plot_sweep(series, quantity, limits, theme.value, chosen, base.name), file)


def _buildable(spec: ArchSpec, phis: Sequence[float]) -> Iterator[Variant]:
    """The variants as far as the rule reaches: depth alone soon has too many blocks."""
    costing = Costing(spec)
    for phi in phis:
        with suppress(OutOfRangeError):
            yield costing.variant(phi=phi)


@contextmanager
def _drawing(option: Literal["--diagram", "--plot"], file: Path) -> Iterator[None]:
    mark = Mark(f"{option} {file}")
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        message = f"{package} is not installed; pip install 'effnet_builder[plot]'"
        raise ConfigError([Problem(message, mark=mark)]) from None
    except ValueError as error:
        raise ConfigError([Problem(str(error), mark=mark)]) from None
    except OSError as error:
        raise ConfigError([Problem(f"cannot be written: {error.strerror or error}", mark=mark)]) from None
    except ConfigError:
        raise
    except Exception as error:  # of any kind: drawing is another library's
        raise fail(f"{mark}: cannot be drawn: {type(error).__name__}: {in_short(error)}", EXIT_FAILURE) from None
    echo(f"wrote {file}", err=True)
