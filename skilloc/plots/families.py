"""What works on which family of models, as a table of colours."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from skilloc.plots.style import Drawing

_FLOOR = -8.0


def family_table(rows: Mapping[str, Mapping[str, Mapping[str, Any]]], columns: Sequence[str]) -> Figure:
    """Draw families down and what was tried across; colour = log10 of the largest difference to plain transformers.

    A dot stands for what works and has no number, a cross for what is refused in words, and "!" for a traceback.

    Args:
        rows: by family, by what was tried: "works", and "apart" where there is a number.
        columns: what was tried, in this order.
    """
    table = np.full((len(rows), len(columns)), np.nan)
    figure = Drawing(figsize=(1.2 + 0.62 * len(columns), 1.6 + 0.19 * len(rows)))
    axes = figure.subplots()
    for y, row in enumerate(rows.values()):
        for x, what in enumerate(columns):
            cell = row.get(what)
            if cell is None:
                continue
            if cell["works"] and "apart" in cell:
                table[y, x] = max(_FLOOR, np.log10(max(cell["apart"], 1e-30)))
            else:
                mark = "·" if cell["works"] else "!" if cell.get("traceback") else "×"
                axes.text(x, y, mark, ha="center", va="center", fontsize=8)
    image = axes.imshow(table, aspect="auto", vmin=_FLOOR, vmax=-2, cmap="viridis_r")
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", fontsize=7)
    axes.set_yticks(range(len(rows)), list(rows), fontsize=6.5)
    figure.colorbar(image, ax=axes, label="log10 of the largest difference (nats, logits)", shrink=0.5)
    return figure
