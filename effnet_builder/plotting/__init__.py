"""Pictures of networks, of their costs and of trainings, as SVG or PNG. Needs matplotlib; nothing else does."""

from .defaults import import_matplotlib

import_matplotlib()

# ruff: noqa: E402
from .confusion import plot_confusion
from .curves import Point, plot_accuracy, plot_sweep, published_points
from .diagram import diagram
from .style import ThemeName, save, to_svg
from .training import plot_curves, plot_images, plot_reliability, training_drawings, training_pictures

__all__ = [
    "Point",
    "ThemeName",
    "diagram",
    "plot_accuracy",
    "plot_confusion",
    "plot_curves",
    "plot_images",
    "plot_reliability",
    "plot_sweep",
    "published_points",
    "save",
    "to_svg",
    "training_drawings",
    "training_pictures",
]
