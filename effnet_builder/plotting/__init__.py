"""Pictures of networks and of their costs, as SVG or PNG. Needs matplotlib; nothing else in the package does."""

from .curves import Point, plot_accuracy, plot_sweep, published_points
from .diagram import diagram
from .style import ThemeName, save

__all__ = ["Point", "ThemeName", "diagram", "plot_accuracy", "plot_sweep", "published_points", "save"]
