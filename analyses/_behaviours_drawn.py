"""The figure of `smollm2_behaviours`, from its record alone."""

from typing import Any

import numpy as np
from jaxtyping import Float

from skilloc import plots

MARKS = ("o", "s", "^", "D", "v")
FAINT = 0.3
"""Reliability below which a number is drawn faintly."""


def draw(found: dict[str, Any]) -> Any:
    """Locality, overlap and joint removal; below, induction's heads, restored heads, neurons and residual."""
    names = found["subtasks"]
    figure, axes = plots.figure(2, 3, height=9.0, width=plots.WIDE * 1.9)
    dots(axes[0, 0], found["locality"]["head"], names, "heads, by reference")
    between = found["between"]["overlap"]
    matrix(axes[0, 1], numbers(between["value"]), names, "overlap of the heads of two subtasks")
    excess, draws = found["removal"]["zero"]["excess"], found["removal"]["zero"]["draws"]
    matrix(
        axes[0, 2],
        numbers(excess["value"]),
        names,
        f"nats lost without the {found['scale']['removed']} heads of (row),\nbeyond {draws} random ones of like layers",
        bold=numbers(excess["low"]) > 0,
    )
    if "induction" in found:
        _induction(axes[1, 0], found["induction"], found["units"])
    if "restored" in found:
        _restored(axes[1, 1], found["restored"])
    kinds = {kind: one["zero"] for kind, one in found["locality"].items() if kind != "head"}
    if kinds:
        dots(axes[1, 2], kinds, names, f"{' and '.join(f'{kind}s' for kind in kinds)}, zero")
    for ax in axes.ravel():
        if not ax.has_data():
            ax.axis("off")
    refused, risen = _refused(found["known"]), map(_risen, found["removal"], found["removal"].values())
    scale = found["scale"]
    figure.supxlabel(
        f"{scale['model']}; {scale['examples']} held-out examples of each subtask, one a fold (of induction below, "
        f"{scale['induction']}); every head exactly at zero. Bars: 95 % over folds (of what one head restores, of the\n"
        f"best); dotted: chance; faint: reliability below {FAINT}; a row without a point: all noise; bold: "
        f"interval above 0.\nOf facts those that the model says, the shortest; left out, with so many: {refused}\n"
        "How many losses rise without the heads of a subtask, beyond random ones of like layers, interval above 0:\n"
        + "\n".join(risen),
        fontsize=7,
    )
    return figure


def _risen(reference: str, removal: dict[str, Any]) -> str:
    """Say how many losses rise beyond random masks, by how much in the median, and whose own removal is the worst."""
    excess, low = numbers(removal["excess"]["value"]), numbers(removal["excess"]["low"])
    own = np.eye(len(excess), dtype=bool)
    worst = int((excess.argmax(axis=0) == np.arange(len(excess))).sum())
    return (
        f"{reference} ({removal['draws']} masks): {int((low > 0).sum())} of {low.size}, of own losses "
        f"{int((low[own] > 0).sum())} of {len(excess)}; {worst} lose most by their own heads; median of own losses "
        f"{np.median(excess[own]):.2g} nats, of others {np.median(excess[~own]):.2g}"
    )


def numbers(values: Any) -> Float[np.ndarray, "..."]:
    return np.array(values, dtype=float)


def _refused(known: dict[str, Any]) -> str:
    facts = [f"{n} {len(o['right'])} of {o['count']}" for n, o in known["facts"].items() if len(o["right"]) < 16]
    made = [
        f"{n} {o['accuracy']:.2f}" if o["count"] else f"{n} (words)" for n, o in known["made"].items() if not o["able"]
    ]
    told = facts + made
    lines = [", ".join(told[i : i + 7]) for i in range(0, len(told), 7)]
    return ",\n".join(lines) or "none"


def dots(ax: Any, tables: dict[str, Any], names: list[str], title: str) -> None:
    places = np.arange(len(names))[::-1]
    ax.set_ylim(-0.7, len(names) - 0.3)
    for r, (reference, table) in enumerate(tables.items()):
        scores = [table["scores"][name]["locality"] for name in names]
        value, low, high = (numbers([one[end] for one in scores]) for end in ("value", "low", "high"))
        sure = numbers(table["reliability"]["value"])
        colour = plots.colour_of(r)
        for s, place in enumerate(places + 0.22 - 0.22 * r):
            if not np.isfinite(value[s]):
                continue
            alpha = 1.0 if sure[s] >= FAINT else 0.3
            ax.plot([low[s], high[s]], [place, place], color=colour, linewidth=1, alpha=alpha)
            ax.plot(value[s], place, MARKS[r % len(MARKS)], color=colour, markersize=3.5, alpha=alpha)
        ax.plot([], [], MARKS[r % len(MARKS)], color=colour, markersize=3.5, label=reference)
        ax.axvline(float(scores[0]["chance"]), linestyle=":", linewidth=1, color=colour)
    ax.set(yticks=places, yticklabels=names, xlabel="locality", xlim=(0, 1), title=title)
    ax.legend(loc="lower right", fontsize=6)


def matrix(
    ax: Any, values: Float[np.ndarray, "row column"], names: list[str], title: str, bold: np.ndarray | None = None
) -> None:
    shown = np.ma.masked_invalid(values)
    ax.imshow(shown, cmap="Blues", aspect="auto", vmin=0, vmax=max(1e-9, 1.2 * float(np.nanmax(values))))
    for row, column in np.ndindex(values.shape):
        if np.isfinite(values[row, column]):
            weight = "bold" if bold is not None and bold[row, column] else "normal"
            said = f"{values[row, column]:.2f}" if abs(values[row, column]) < 9.95 else f"{values[row, column]:.0f}"
            ax.text(column, row, said, ha="center", va="center", fontsize=4.5, fontweight=weight)
    places = np.arange(len(names))
    for place in places[~np.isfinite(values).any(axis=1)]:
        ax.text(len(names) / 2 - 0.5, place, "noise", ha="center", va="center", fontsize=5, color="grey")
    ax.set(xticks=places, yticks=places)
    ax.set_title(title, fontsize=8)
    ax.set_xticklabels(names, rotation=60, fontsize=6, ha="right")
    ax.set_yticklabels(names, fontsize=6)


def _induction(ax: Any, told: dict[str, Any], units: list[str]) -> None:
    lines = [f"of the top {told['top']} heads by effect and by pattern (chance: {told['chance']:.2f} the same)"]
    for r, (reference, one) in enumerate(told["by reference"].items()):
        effects = numbers(one["effects"])
        ax.plot(told["scores"], effects, MARKS[r], markersize=2.5, color=plots.colour_of(r), label=reference)
        for place in np.argsort(-effects)[:3]:
            ax.annotate(units[place], (told["scores"][place], effects[place]), fontsize=5)
        likely, again = one["likely"], one["again"]
        lines.append(f"{reference}: {one['shared']} the same (p {likely:.1g}); two halves agree on {again}")
    ax.set(xlabel="prefix-matching score (from patterns alone)", ylabel="effect on induction (nats)")
    ax.set_yscale("symlog", linthresh=0.1)
    ax.set_title("\n".join(lines), fontsize=6)
    ax.legend(fontsize=6, loc="lower right")


def _restored(ax: Any, told: dict[str, Any]) -> None:
    for r, (name, one) in enumerate(told.items()):
        ranks = np.arange(1, len(one["heads"]) + 1)
        share, low, high = (numbers([head[i] for head in one["heads"]]) for i in (1, 2, 3))
        ax.plot(
            ranks, share, f"{MARKS[r % len(MARKS)]}-", markersize=3, linewidth=1, label=name, color=plots.colour_of(r)
        )
        ax.plot([1, 1], [np.minimum(low, high)[0], np.maximum(low, high)[0]], linewidth=1, color=plots.colour_of(r))
    ax.axhline(0, linewidth=0.8, color="grey")
    ax.set(xlabel="head, by what it restores", ylabel="share of the gap to the twin")
    ax.set_title("one head's activation put into the corrupted run", fontsize=8)
    ax.legend(fontsize=6)
