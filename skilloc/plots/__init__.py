"""Arrays and labels to matplotlib axes. Everything draws into the axes that it is given and returns them.

Nothing here computes a number, saves a file or shows a window; there is no pyplot and no global state:

    with plots.style():
        figure, axes = plots.figure()
        plots.removal_curves(axes, counts, values, low, high, subtasks)
        figure.savefig("curves.svg")
"""

from skilloc.plots.curves import removal_curves, sorted_curves
from skilloc.plots.dots import calibration_scatter, score_dots, subtask_legend
from skilloc.plots.matrices import entanglement_matrix, removal_matrix
from skilloc.plots.style import NARROW, WIDE, colour_of, figure, style
from skilloc.plots.units import colour_bar, effect_norm, unit_map

__all__ = [
    "NARROW",
    "WIDE",
    "calibration_scatter",
    "colour_bar",
    "colour_of",
    "effect_norm",
    "entanglement_matrix",
    "figure",
    "removal_curves",
    "removal_matrix",
    "score_dots",
    "sorted_curves",
    "style",
    "subtask_legend",
    "unit_map",
]
