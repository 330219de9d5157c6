"""The rows of the table on unlearning, from cells and their attacks, and its picture, from the record alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from skilloc import plots, store
from skilloc.locality.intervals import Interval, mean_interval
from skilloc.plots.style import CONTROL
from skilloc.relearning import ORIGINAL, UNSEEN, Relearning, over_seeds, record

LEVEL = 0.05
"""Nats within which losses on what is kept are equal, if the interval of their difference in pairs says so."""

HEAD = ("dropped", "way", "kept", "level", "before", "after", "never saw, after", "removed", "verdict")
ACROSS = (0.0, 0.065, 0.155, 0.275, 0.32, 0.45, 0.58, 0.71, 0.84)
"""Where the columns stand: shares of the width."""


def row_of(arm: tuple[str, float], cells: Mapping[str, Sequence[Any]], why: Mapping[str, str]) -> dict[str, Any]:
    """Return what the table says of one way at one sparsity, from its cells and those that it is compared with.

    Args:
        arm: the way, and the share of the units that it drops.
        cells: results of `attack` by way, one per seed, at that sparsity: its own, and those at equal loss.
        why: why nothing can be compared, by forget set; "" where it can.
    """
    way, share = arm
    own = cells[way]
    kept = {name: np.array([one.metrics["kept"][0] for one in every]) for name, every in cells.items()}
    apart = mean_interval(kept[way] - np.mean(list(kept.values()), axis=0))
    return {
        "way": way,
        "sparsity": share,
        "steps": [one.metrics["step"] for one in own],
        "kept": mean_interval(kept[way]).record(),
        "kept_original": mean_interval(np.array([one.metrics["kept"][1] for one in own])).value,
        "apart": apart.record(),
        "level": bool(apart.low >= -LEVEL and apart.high <= LEVEL) if len(cells) > 1 else None,
        "sets": {name: _attack(way, name, own, said) for name, said in why.items()},
    }


def _attack(way: str, name: str, cells: Sequence[Any], why: str) -> dict[str, Any]:
    """Return the losses on one forget set before and after all that was tried, and what they say."""
    told = record(over_seeds([_relearning(cell, name) for cell in cells]))
    listed = {"own": way, "original": ORIGINAL} | ({} if why else {"never": UNSEEN})
    found: dict[str, Any] = {}
    for called, model in listed.items():
        before = np.array([cell.metrics["sets"][name]["before"][model] for cell in cells])
        loss = told["models"][model]["sizes"][0]["loss"]
        after = {end: loss[end][-1] for end in ("value", "low", "high")}
        found[called] = {"before": mean_interval(before).record(), "after": after}
    verdict = told["verdicts"][way]
    compared = {"removed": told["models"][way]["information_removed"], "sentence": verdict["sentence"]}
    return {
        **found,
        **({"why": why} if why else compared),
        "word": verdict["word"],
        "unit": told["unit"],
        "chance": told["chance"],
        "steps": told["steps"][-1],
        "rates": told["rates"],
    }


def _relearning(cell: Any, name: str) -> Relearning:
    own = {key.removeprefix(f"{name}/"): value for key, value in cell.arrays.items() if key.startswith(f"{name}/")}
    return store.from_parts(Relearning, cell.metrics["sets"][name]["relearning"], own)


def lines_of(found: Mapping[str, Any], name: str) -> list[list[str]]:
    """Return the lines of the table of one forget set, the original's first, as they are written."""
    rows = found["rows"]
    first, kept = rows[0]["sets"][name]["original"], f"{rows[0]['kept_original']:.2f}"
    lines = [["–", ORIGINAL, kept, "–", _said(first["before"]), _said(first["after"]), "–", "–", "–"]]
    for row in rows:
        own = row["sets"][name]
        level = {None: "–", True: "yes", False: "no"}[row["level"]]
        losses = [_said(own["own"][when]) for when in ("before", "after")]
        never = [_said(own["never"]["after"]), _said(own["removed"])] if "never" in own else ["–", "–"]
        lines.append([f"{row['sparsity']:.0%}", row["way"], _said(row["kept"]), level, *losses, *never, own["word"]])
    return lines


def _said(found: Mapping[str, Any]) -> str:
    value, low, high = (np.nan if found[end] is None else found[end] for end in ("value", "low", "high"))
    if not np.isfinite(value):
        return "–"
    if not np.isfinite([low, high]).all():  # of one seed
        return f"{value:.2f}"
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def draw(found: dict[str, Any]) -> Any:
    """By forget set: the table, and beside it the loss before and after the attack, on the same lines."""
    sets, rows = found["sets"], found["rows"]
    lines = len(rows) + 3
    size = {"width": 9.5, "height": 0.155 * lines * len(sets) + 0.9}
    figure, axes = plots.figure(len(sets), 2, **size, squeeze=False, width_ratios=[3.4, 1])
    for (table, dots), name in zip(axes, sets, strict=True):
        _table(table, found, name)
        _dots(dots, rows, name)
        for ax in (table, dots):
            ax.set_ylim(len(rows) + 0.9, -1.4)
    axes[-1, 1].set_xlabel("loss (nats)")
    handles, labels = axes[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=5)
    figure.supxlabel(caption(found), fontsize=6)
    return figure


def _table(ax: Any, found: Mapping[str, Any], name: str) -> None:
    ax.set_axis_off()
    why = found["rows"][0]["sets"][name].get("why")
    ax.set_title(f"{name}, to be forgotten" + (f" (not comparable: {why})" if why else ""), fontsize=7)
    for place, line in enumerate([list(HEAD), *lines_of(found, name)]):
        for x, text in zip(ACROSS, line, strict=True):
            weight = "bold" if place == 0 else "normal"
            ax.text(x, place - 1, text, fontsize=5.5, va="center", ha="left", weight=weight, clip_on=False)


def _dots(ax: Any, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    ways = list(dict.fromkeys(row["way"] for row in rows))
    first = rows[0]["sets"][name]["original"]
    ax.axvline(first["after"]["value"], color="black", lw=0.6, ls=":", label="original, after")
    for place, row in enumerate(rows, start=1):
        own = row["sets"][name]
        colour = plots.colour_of(ways.index(row["way"]))
        told = {"before": own["own"]["before"]["value"], "after": own["own"]["after"]["value"]}
        ax.plot([told["before"]], [place], "o", mfc="none", color=colour, label="before" if place == 1 else None)
        ax.plot([told["after"]], [place], "o", color=colour, label="after" if place == 1 else None)
        ends = Interval(*(own["own"]["after"][end] for end in ("value", "low", "high")))
        if None not in ends:
            ax.plot([ends.low, ends.high], [place] * 2, color=colour, lw=1)
        if "never" in own:
            ax.plot([own["never"]["after"]["value"]], [place], "|", color=CONTROL, ms=6, label=_once(ax, "never saw"))
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)


def _once(ax: Any, label: str) -> str | None:
    return None if label in ax.get_legend_handles_labels()[1] else label


def caption(found: Mapping[str, Any]) -> str:
    """Return what the picture must say: scale, seeds, what is compared at which loss, reference and controls."""
    settings, attack = found["settings"], found["settings"]["attack"]
    text, first = settings["finetuned"]["text"], found["rows"][0]["sets"][found["sets"][0]]
    tried = "gradient descent alone" if attack["plain"] else "all ways of attack"
    rates = ", ".join(f"{rate:g}" for rate in attack["rates"])
    recovery = ", ".join(f"{float(share):.0%}: {rate:g}" for share, rate in found["rates"].items())
    return (
        f"scale {found['scale']}: {text['model']} keeps {found['keeps']}; {found['seeds']} seeds, intervals 95 % over "
        f"seeds; dropped {' and '.join(text['kinds'])}s are held at zero, then cut out. Nats on the report split.\n"
        f"Finetuned for {settings['finetuned']['steps']} steps (group lasso: with the penalty), recovered for up to "
        f"{settings['training']['steps']} at one rate for each share ({recovery}),\n"
        "taken where the loss on what is kept first comes below that at which the worst of the three ways ends. "
        f"Level: within {LEVEL} nats of the ways' mean, interval and all.\n"
        f"Base: nothing dropped, the whole recovery. After: the best of {tried}, rates {rates}, up to {first['steps']} "
        f"steps of {attack['examples']} examples.\n"
        "Controls: the original, finetuning alone (base), random units, and, where there is one, a model that never "
        "saw the set, cut to its size.\n"
        "Removed: 1 = no more comes back than from that one, 0 = all."
    )
