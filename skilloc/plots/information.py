"""Information removed: a row per model, with its interval and its verdict."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from skilloc.plots.style import CONTROL, colour_of


def information_dots(ax: Axes, probe: Mapping[str, Any], shown: Sequence[str], *, candidates: Sequence[str]) -> Axes:
    """Draw information removed as a dot with its interval, or a word where there is no number.

    Args:
        ax: where to draw.
        probe: as of `relearning.record`.
        shown: names of models, from the top.
        candidates: those of them that are no controls, in the order of their colours; controls are grey.
    """
    for place, name in enumerate(shown):
        removed = probe["models"][name]["information_removed"]
        colour = colour_of(candidates.index(name)) if name in candidates else CONTROL
        word = probe["verdicts"].get(name, {}).get("word", "undecidable" if removed["why"] else "")
        if removed["value"] is not None:
            ax.plot([removed["low"], removed["high"]], [place] * 2, color=colour, lw=1.4)
            ax.plot([removed["value"]], [place], "o", color=colour)
        ax.annotate(word, (0.5, place), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=6)
    ax.set_yticks(range(len(shown)), list(shown))
    ax.set(xlim=(-0.05, 1.05), ylim=(len(shown) - 0.5, -0.7), xlabel="information removed")
    ax.set_title("0 = all back, 1 = gone", weight="normal", fontsize=7)
    ax.grid(axis="x", color="#dddddd", lw=0.5)
    return ax
