"""One look for all figures: sizes for a paper's page, colours that colour-blind readers can tell apart."""

import re
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.textpath import text_to_path
from matplotlib.ticker import Formatter, FuncFormatter, LogFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from skilloc.locality.intervals import number

WIDE, NARROW = 6.8, 3.3
"""Widths in inches of a figure over two columns, and over one."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#4d4d4d", "#8c6d31")
"""Okabe & Ito's colours but for the yellow, which is too light for lines."""

PLACES = 6
"""Digits of a place in a picture, as a share of its width or height."""

GAP = 1.0
"""Points beside the label of a tick that stay free, at least."""

CONTROL = "#8a8a8a"
"""Controls and chance levels are always this grey."""

RAISED = str.maketrans("0123456789-−", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁻")

RC: dict[str, Any] = {
    "figure.dpi": 150,
    "savefig.dpi": 200,
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
    # Text stays text, so that an SVG can be searched and edited; and the same picture is the same file.
    "svg.fonttype": "none",
    "svg.hashsalt": "skilloc",
    # Names are text, whatever signs they have.
    "text.parse_math": False,
}


class Settled(ConstrainedLayoutEngine):
    """The usual layout, rounded: its solver's last digits hang on addresses in memory, and bytes on those."""

    def execute(self, fig: Figure) -> Any:
        """Place the axes."""
        grids = super().execute(fig)
        for ax in fig.axes:
            ax._set_position(Bbox(ax.get_position(original=True).get_points().round(PLACES)))  # type: ignore[attr-defined]
        return grids


class Drawing(Figure):
    """A figure whose numbers are written without markup, since nothing in it is read as markup."""

    def __init__(self, *, figsize: tuple[float, float]) -> None:
        super().__init__(figsize=figsize, layout=Settled())

    def draw(self, renderer: Any) -> None:
        """Draw it, powers of ten as 10⁻³."""
        for ax in self.axes:
            for axis in (ax.xaxis, ax.yaxis):
                if isinstance(axis.get_major_formatter(), LogFormatter):
                    axis.set_major_formatter(Powers(axis.get_major_formatter()))
                if isinstance(axis.get_minor_formatter(), LogFormatter):
                    axis.set_minor_formatter(Powers(axis.get_minor_formatter()))
        super().draw(renderer)


class Powers(Formatter):
    """What another formatter writes, its mathematical markup turned into plain signs; between powers, what has room."""

    def __init__(self, marked: Formatter) -> None:
        self.marked = marked

    def set_axis(self, axis: Any) -> None:
        """Pass it on."""
        super().set_axis(axis)
        self.marked.set_axis(axis)

    def set_locs(self, locs: Any) -> None:
        """Pass them on."""
        self.marked.set_locs(locs)

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Return the label of a tick."""
        return unmarked(self.marked(x, pos))

    def format_ticks(self, values: Any) -> list[str]:
        """Return the labels of ticks; of minor ones, those that would lie on others are empty."""
        labels: list[str] = super().format_ticks(values)
        axis: Any = self.axis
        if axis.get_minor_formatter() is not self:
            return labels
        majors = axis.get_majorticklocs()
        taken = _stretches(axis, majors, axis.get_major_formatter().format_ticks(majors))
        own = _stretches(axis, values, labels)
        # Of the numbers between two powers, 2 and 5 are read best.
        for place in sorted(own, key=lambda i: (labels[i][:1] not in "25", i)):
            low, high = own[place]
            if any(low < end and begin < high for begin, end in taken.values()):
                labels[place] = ""
            else:
                taken[-1 - place] = own[place]
        return labels


def _stretches(axis: Any, values: Any, labels: list[str]) -> dict[int, tuple[float, float]]:
    """Return from where to where each label in view lies along an axis, in pixels, by its place in the list."""
    font = axis.get_major_ticks(1)[0].label1.get_fontproperties()
    ends = sorted(axis.get_view_interval())
    along = int(axis is axis.axes.yaxis)
    found = {}
    for place, (value, label) in enumerate(zip(values, labels, strict=True)):
        if label and ends[0] <= value <= ends[1]:
            size = text_to_path.get_text_width_height_descent(label, font, ismath=False)[along]
            reach = (size / 2 + GAP) * axis.axes.figure.dpi / 72
            middle = axis.axes.transData.transform((value, value))[along]
            found[place] = (middle - reach, middle + reach)
    return found


def unmarked(text: str) -> str:
    """Return what matplotlib's own formatters write as plain text: `$\\mathdefault{2\\times10^{-3}}$` is 2×10⁻³."""
    found = re.fullmatch(r"\$\\mathdefault\{(.*)\}\$", text)
    if found is None:
        return text
    plain = found[1].replace(r"\times", "×")
    return re.sub(r"\^\{([^}]*)\}", lambda power: power[1].translate(RAISED), plain)


def style() -> AbstractContextManager[None]:
    """Return a context in which figures are made, drawn into and saved."""
    return rc_context(RC)  # type: ignore[arg-type]


def figure(
    rows: int = 1, columns: int = 1, *, width: float = WIDE, height: float = 3.0, **subplots: Any
) -> tuple[Figure, Any]:
    """Return a figure that no window and no global list knows, and its axes (an array if there are several).

    Args:
        rows: number of axes below each other.
        columns: number of axes beside each other.
        width: in inches; `WIDE` or `NARROW`.
        height: in inches.
        subplots: passed on to `Figure.subplots`.
    """
    made = Drawing(figsize=(width, height))
    return made, made.subplots(rows, columns, **subplots)


def colour_of(position: int) -> str:
    """Return the colour of the subtask at a position of the subtask axis; the same in every picture."""
    return COLOURS[position % len(COLOURS)]


def counts_axis(ax: Axes, largest: float) -> None:
    """Make the x axis one of numbers of units: logarithmic, and written as 1, 2, 5 where there are few.

    Args:
        ax: whose axis it is.
        largest: the largest number.
    """
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0) if largest < 100 else (1.0,)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def short(value: float) -> str:
    """Return a number with two figures, as `intervals.number`; a dash for one that is not finite."""
    return number(value) if np.isfinite(value) else "–"


def signed_ticks(linear: float, largest: float, *, most: int) -> tuple[list[float], list[str]]:
    """Return ticks for a symmetric logarithmic scale, 0 and powers of ten on both sides, with their labels.

    Args:
        linear: where the logarithmic parts begin.
        largest: where they end.
        most: number of powers on each side, at most; the largest are kept.
    """
    decades = 10.0 ** np.arange(np.ceil(np.log10(linear)), np.floor(np.log10(largest)) + 1)
    step = -(-len(decades) // most)
    decades = decades[::-1][:: max(step, 1)][::-1]
    ticks = [*(-decades[::-1]).tolist(), 0.0, *decades.tolist()]
    return ticks, [_power(tick) for tick in ticks]


def _power(value: float) -> str:
    if value == 0:
        return "0"
    power = f"10{str(round(np.log10(abs(value)))).translate(RAISED)}"
    size = f"{abs(value):g}" if 0.001 <= abs(value) < 10_000 else power
    return ("−" if value < 0 else "+") + size
