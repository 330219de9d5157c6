"""What became of a pruned model, and of a localized one."""

from typing import Any

import numpy as np

from skilloc import plots
from skilloc.locality.intervals import Interval, mean_interval, number
from skilloc.pruning import Curve
from skilloc.pruning.results import Localized, Pruned
from skilloc.report.pictures import PANELS
from skilloc.report.section import Cell, Picture, Section, Table


def pruning_section(found: Pruned, curve: Curve) -> Section:
    """Return sizes, and per subtask the loss before, after, and with random masks."""
    before, after = found.parameters
    zeros = f", and {found.zeros:,} more as zeros" if found.zeros else ""
    sentences = [
        f"{found.kept:,} of {found.units:,} units kept{zeros}.",
        f"{after:,} of {before:,} parameters ({after / before:.1%}), {found.bytes / 1e6:,.1f} MB.",
    ]
    if after == before:
        sentences.append("Nothing got smaller: what was dropped stays as zeros, since it cannot be cut out alone.")
    tables = []
    for measure, title in (("loss", f"loss in {found.unit}"), ("accuracy", "accuracy")):
        rows: list[tuple[Cell, ...]] = [
            (name if name in found.kept_for else f"{name} (not kept)", *found.subtasks[name][measure])
            for name in curve.subtasks
            if measure in found.subtasks[name]
        ]
        if rows:
            caption = f"{title}, with 95 % intervals, on the {found.split} split"
            tables.append(Table(caption, ("subtask", "before", "after", "random units"), tuple(rows)))
    picture = Picture("curve", "losses against kept units, beside random ones", lambda: draw_curve(found, curve))
    return Section("The pruned model", tuple(sentences), tuple(tables), (picture,))


def draw_curve(found: Pruned, curve: Curve) -> Any:
    """Draw the losses against kept units, and those of random masks, a panel for each subtask, or the first of many."""
    names = curve.subtasks[:PANELS]
    across = min(len(names), 4)
    figure, axes = plots.figure(-(-len(names) // across), across, height=2.6 * -(-len(names) // across), squeeze=False)
    for s, (ax, name) in enumerate(zip(axes.flat, names, strict=False)):
        both = np.stack([curve.losses[..., s], curve.random_losses[..., s].mean(axis=0)])
        value, low, high = np.moveaxis(np.array([[mean_interval(one)[:3] for one in row] for row in both]), 2, 0)
        plots.kept_curves(
            ax, curve.kept, Interval(value, low, high), ["by effects", "random units, equal layers"],
            controls=["random units, equal layers"],
        )  # fmt: skip
        ax.set(title=name, ylabel="" if s % across else f"loss ({found.unit})")
        ax.axvline(found.kept, color="black", lw=0.6, ls=":")
    for ax in axes.flat[len(names) :]:
        ax.remove()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def localized_section(found: Localized) -> Section:
    """Return the live units of each layer, and the losses before and after."""
    revived = f", {found.revivals:,} revivals" if found.revivals else ""
    sentence = f"live units: {sum(found.live.values()):,} of {sum(found.units.values()):,}{revived}"
    live = tuple((hook, f"{found.live[hook]:,} of {width:,}") for hook, width in found.units.items())
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (f"{name} (kept)" if one.kept else name, number(one.before, 3), number(one.after, 3), one.change)
        for name, one in found.subtasks.items()
    )
    caption = f"loss in {found.unit}, on the report split, with 95 % intervals"
    tables = Table("", ("hook", "live"), live), Table(caption, ("subtask", "before", "after", "change"), rows)
    return Section("The localized model", (sentence,), tables)
