"""Arrays and labels to matplotlib axes. Everything draws into the axes that it is given and returns them.

Nothing here computes a number, saves a file or shows a window; there is no pyplot and no global state:

    with plots.style():
        figure, axes = plots.figure()
        plots.removal_curves(axes, counts, increase, subtasks)
        figure.savefig("curves.svg")
"""

from skilloc.plots.circuits import circuit_diagram, circuit_legend
from skilloc.plots.curves import removal_curves, sorted_curves
from skilloc.plots.diagram import Diagram
from skilloc.plots.dots import calibration_scatter, score_dots, subtask_legend
from skilloc.plots.information import information_dots
from skilloc.plots.kept import kept_curves
from skilloc.plots.matrices import entanglement_matrix, removal_matrix
from skilloc.plots.network import mlp_network
from skilloc.plots.relearning import recovery_curves
from skilloc.plots.retraining import retraining_curves
from skilloc.plots.style import CONTROL, NARROW, WIDE, colour_of, figure, style
from skilloc.plots.units import colour_bar, effect_norm, position_map, unit_map

__all__ = [
    "CONTROL",
    "NARROW",
    "WIDE",
    "Diagram",
    "calibration_scatter",
    "circuit_diagram",
    "circuit_legend",
    "colour_bar",
    "colour_of",
    "effect_norm",
    "entanglement_matrix",
    "figure",
    "information_dots",
    "kept_curves",
    "mlp_network",
    "position_map",
    "recovery_curves",
    "removal_curves",
    "removal_matrix",
    "retraining_curves",
    "score_dots",
    "sorted_curves",
    "style",
    "subtask_legend",
    "unit_map",
]
