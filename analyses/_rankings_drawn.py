"""The figure of `circuit_rankings`, from its record."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from _rankings_parity import GATES
from skilloc import plots
from skilloc.plots.style import CONTROL

SHUFFLED, RANDOM = "shuffled labels", "random units"
SHOWN = (*GATES, "exact effects", "with curvature", "attribution", "curvature of KL", "integrated gradients")


def draw(found: dict[str, Any]) -> Any:
    """One panel per corpus with the share kept by the number of units; and the sizes that parity networks need."""
    corpora = found["corpora"]
    figure = Figure(figsize=(3.1 * (len(corpora) + 1), 3.6), layout="constrained")
    *panels, small = np.atleast_1d(figure.subplots(1, len(corpora) + 1))
    for ax, (source, one) in zip(panels, corpora.items(), strict=True):
        _curves(ax, source, one)
    panels[0].set_ylabel("share of the skill kept, held-out text")
    panels[0].legend(loc="upper left", fontsize=6)
    _sizes(small, found["parity"])
    settings, seeds = found["settings"], found["seeds"]
    figure.suptitle(
        f"embedded model, {next(iter(corpora.values()))['units']:,} heads and neurons, others at their mean per "
        f"position; mean of {seeds} seeds, 95 % over {settings['folds']} folds of {settings['stated_on']} × "
        f"{settings['length']} tokens; random: {settings['draws']} draws with the layers of the proximal circuits",
        fontsize=8,
    )
    return figure


def _curves(ax: Any, source: str, one: dict[str, Any]) -> None:
    sizes = np.array(one["sizes"], dtype=float)
    random = one["ways"][RANDOM]
    ax.fill_between(sizes, *random["range"], color=CONTROL, alpha=0.25, lw=0)
    ax.plot(sizes, random["kept"], color=CONTROL, ls=":", lw=1, label=RANDOM)
    ax.plot(
        sizes, [k["value"] for k in one["ways"][SHUFFLED]["kept"]], color=CONTROL, ls="--", lw=1,
        label=f"gates on {SHUFFLED}",
    )  # fmt: skip
    blind = one["ways"]["proximal gates"]["blind"]
    ax.plot(sizes, [k["value"] for k in blind], color="black", ls="-.", lw=1, label="proximal gates, blind")
    for place, way in enumerate(SHOWN):
        kept = one["ways"][way]["kept"]
        value, low, high = (np.array([k[end] for k in kept]) for end in ("value", "low", "high"))
        ax.errorbar(
            sizes * 1.03 ** (place - 3), value, [value - low, high - value], fmt="o-", ms=2.5, lw=1.2 if way in GATES
            else 0.8, color=plots.colour_of(place), label=way,
        )  # fmt: skip
    ax.set(xscale="log", xlabel="units kept", title=source)
    ax.set_xticks(sizes, [f"{size:,.0f}" for size in sizes], rotation=60, fontsize=6)
    ax.xaxis.minorticks_off()
    ax.axhline(1, color=CONTROL, lw=0.5)
    ax.set_ylim(min(0.0, ax.get_ylim()[0]), 1.05)


def _sizes(ax: Any, parity: dict[str, Any]) -> None:
    for place, (way, table) in enumerate(parity["ways"].items()):
        size = np.array(table["size"], dtype=float)
        for j in range(size.shape[1]):
            x = np.full(len(size), j + 0.18 * (place - 1.5))
            colour = plots.colour_of(SHOWN.index(way)) if way in SHOWN else "black"
            ax.scatter(x, size[:, j], s=10, color=colour, alpha=0.7, lw=0, label=None if j else way)
    labels = [name.partition("_")[2] for name in parity["names"]]
    ax.set_xticks(range(len(labels)), labels)
    ax.set(xlabel="parity", title=f"units that keep 0.95, {parity['learned']} networks", ylim=(0, None))
    ax.legend(fontsize=6)
