"""The pictures of results, of any number of subtasks and layers: where panels would be too many, fewer are drawn."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from skilloc import plots, store
from skilloc.attribution.measured import Compared
from skilloc.effects import Effects
from skilloc.locality.intervals import Interval, said
from skilloc.report.about import noise_of, sorted_effects
from skilloc.report.labels import label
from skilloc.report.scored import ByPosition, Locality, Removed
from skilloc.report.section import Picture
from skilloc.units import HEAD, KINDS, Units

SHARES = ("locality", "hoyer", "gini", "top_share", "negative_share")
COUNTS = ("effective_number", "entropy_number", "k50", "k90")

COLOURED = 8
"""Subtasks that colours can tell apart; with more, rows have names instead."""

PANELS = 9
"""Panels of one picture, at most: the first subtasks; the tables have all."""

TALL = 7.0
"""Inches that the rows of a map of units take, at most."""

DATES: Mapping[str, Any] = {
    "svg": {"Date": None, "Creator": store.MARK},
    "pdf": {"CreationDate": None, "Creator": store.MARK},
    "png": {"Software": store.MARK},
}
"""What a file says about who made it; nothing of when, so that the same input gives the same bytes."""


def save_pictures(pictures: Sequence[Picture], folder: Path) -> list[Path]:
    """Draw pictures into a folder; return the PNG files. An SVG lies beside each."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with plots.style():
        for picture in pictures:
            paths.append(save_figure(picture.draw(), folder / picture.name, ("svg", "png")))
    return paths


def save_figure(figure: Any, path: Path, kinds: Sequence[str]) -> Path:
    """Save a figure as files of some kinds beside each other; return where the PNG is."""
    for kind in kinds:
        file = path.parent / f"{path.name}.{kind}"
        store.check_ours(file)
        with store.placed(file) as aside:
            figure.savefig(aside, format=kind, metadata=DATES[kind])
    return path.parent / f"{path.name}.png"


def units(effects: Effects) -> Any:
    """Draw the effects of all units, as `unit_maps`."""
    noise = float(np.max(noise_of(effects))) if len(effects.values) > 1 else 0.0
    mean = effects.values.mean(axis=0)
    return unit_maps(mean, effects.units, effects.subtasks, noise=noise, what="effect", unit=effects.unit)


def unit_maps(
    mean: Float[np.ndarray, "subtask unit"],
    axis: Units,
    subtasks: Sequence[str],
    *,
    noise: float,
    what: str,
    unit: str,
) -> Any:
    """Draw a number of all units, a block of rows per layer; of very many rows, one row per layer.

    Args:
        mean: what is drawn; NaN where it was not measured.
        axis: the units.
        subtasks: names.
        noise: what cannot be told from 0.
        what: the number, in words.
        unit: of the loss.
    """
    # Layers without a measured unit are left out; in the others, units that were not measured show as grey.
    drawn = np.isin(axis.layers, axis.layers[np.isfinite(mean).any(axis=0)])
    mean, layers = mean[:, drawn], axis.layers[drawn]
    kinds = np.array(axis.kinds)[drawn]
    order = dict.fromkeys([*reversed(KINDS), *kinds.tolist()])
    there = [kind for kind in order if (kinds == kind).any()]
    blocks = len(np.unique(layers))
    together = len(subtasks) > COLOURED or blocks * len(subtasks) > 200
    if together:  # the effect that is largest of any subtask
        largest = np.nan_to_num(np.abs(mean)).argmax(axis=0)
        mean, subtasks = np.take_along_axis(mean, largest[None], axis=0), ("any subtask",)
    figure, axes = plots.figure(
        1,
        len(there),
        height=float(np.clip(0.16 * blocks * (len(subtasks) + 0.35), 1.4, TALL)) + 0.7,
        width_ratios=[1 if kind == HEAD and len(there) > 1 else 4 for kind in there],
        squeeze=False,
    )
    norm = plots.effect_norm(mean, noise=noise)
    for ax, kind in zip(axes[0], there, strict=True):
        chosen = kinds == kind
        ordered = kind != HEAD or int(np.bincount(layers[chosen]).max()) > 40
        plots.unit_map(ax, mean[:, chosen], layers[chosen], norm=norm, ordered=ordered, bars=not together)
        ax.set_title(f"{kind}s")
        ax.set_xlabel(f"rank within its layer, by the largest |{what}| on any subtask" if ordered else kind)
    if together:
        axes[0, -1].set_title(f"the largest {what} on any subtask", loc="right", weight="normal", fontsize=7)
    else:
        plots.subtask_legend(axes[0, -1], subtasks)
    plots.colour_bar(figure, axes[0].tolist(), norm=norm, label=f"{what} ({unit})")
    return figure


def by_rank(effects: Effects) -> Any:
    """Draw effects by rank, a curve per subtask; of many subtasks, those with the largest effects in colour."""
    figure, ax = plots.figure(width=plots.NARROW * 1.7, height=3.0)
    curves, noise = sorted_effects(effects), noise_of(effects)
    shown = np.arange(len(effects.subtasks))
    if len(shown) > COLOURED:
        shown = np.sort(np.argsort(-curves.value[:, 0], kind="stable")[:COLOURED])
        rest = np.setdiff1d(np.arange(len(effects.subtasks)), shown)
        ax.plot(curves.ranks, curves.value[rest].T, color=plots.CONTROL, lw=0.5, alpha=0.6, zorder=0)
    names = [effects.subtasks[s] for s in shown]
    drawn = Interval(*(part[shown] for part in (curves.value, curves.low, curves.high)))
    plots.sorted_curves(ax, curves.ranks, drawn, names, noise=noise[shown], unit=effects.unit)
    more = len(effects.subtasks) - len(shown)
    ax.set_title("effects by rank" + (f" (grey: {more} more subtasks)" if more else ""))
    return figure


def scores(found: Locality) -> Any:
    """Draw locality scores: a row per score and a colour per subtask, or, of many subtasks, a row per subtask."""
    subtasks = found.about.subtasks
    if len(subtasks) > COLOURED:
        return _scores_by_subtask(found)
    figure, axes = plots.figure(1, 2, height=0.5 + 0.42 * len(SHARES) * max(1.0, len(subtasks) / 4))
    for ax, names, log in ((axes[0], SHARES, False), (axes[1], COUNTS, True)):
        labels = [label(name, top=found.top) for name in names]
        plots.score_dots(ax, labels, _table(found, names), subtasks, log=log)
    plots.subtask_legend(axes[1], subtasks, control="chance")
    axes[0].set_title("how local each skill is")
    return figure


def _scores_by_subtask(found: Locality) -> Any:
    subtasks = found.about.subtasks
    figure, axes = plots.figure(1, 2, height=0.7 + 0.16 * len(subtasks))
    for ax, name, log in ((axes[0], "locality", False), (axes[1], "effective_number", True)):
        plots.score_dots(ax, subtasks, _table(found, [name], turned=True), [name], log=log)
        ax.set_title(f"{label(name, top=found.top)} (grey: chance)")
        ax.tick_params(axis="y", labelsize=6)
    axes[1].set_yticklabels([])
    return figure


def _table(found: Locality, names: Sequence[str], *, turned: bool = False) -> Interval:
    """Some scores on `score subtask`, or turned, with the chance level of each row."""
    by = [[found.scores[subtask][name] for subtask in found.about.subtasks] for name in names]
    parts = [
        np.array([[getattr(score, end) for score in row] for row in by], dtype=float)
        for end in ("value", "low", "high", "chance")
    ]
    value, low, high, chance = (part.T if turned else part for part in parts)
    return Interval(value, low, high, chance[:, 0])


def between(found: Locality) -> Any:
    """Draw a matrix of subtasks by subtasks for each way to compare them."""
    n, names = len(found.about.subtasks), list(found.between)
    figure, axes = plots.figure(
        1, len(names), width=matrix_width(n, len(names)), height=matrix_height(n), squeeze=False
    )
    for ax, name in zip(axes[0], names, strict=True):
        plots.entanglement_matrix(ax, _with_itself(found.between[name], name), found.about.subtasks)
        ax.set_title(label(name, top=found.top))
        if ax is not axes[0, 0]:
            ax.set_yticklabels([])
    return figure


def _with_itself(scores: Interval, name: str) -> Interval:
    """The scores, where a subtask has 1 with itself whatever the noise; of tops, the diagonal is measured."""
    parts = [np.array(part, dtype=float) for part in scores[:4]]
    if name != "top_jaccard":
        for part, own in zip(parts, (1.0, 1.0, 1.0, np.nan), strict=True):
            np.fill_diagonal(part, own)
    return Interval(*parts)


def matrix_height(n: int) -> float:
    """Return the inches that a matrix of n names needs."""
    return 2.6 if n <= 5 else 1.2 + max(2.0, 0.115 * n)


def matrix_width(n: int, panels: int) -> float:
    """Return the inches that some matrices of n names need beside each other."""
    return max(plots.WIDE, panels * 0.115 * n + 1.2)


def removal(found: Removed) -> Any:
    """Draw the matrix at the middle size, and each source's curves over all sizes; of many subtasks the matrix only."""
    subtasks, counts = found.subtasks, list(found.sizes)
    n = len(subtasks) if len(counts) > 1 and len(subtasks) <= COLOURED else 0
    width = plots.WIDE * max(1.0, n / 4) if n else max(plots.NARROW, matrix_width(len(subtasks), 1) / 1.5)
    height = 2.7 if len(subtasks) <= COLOURED else matrix_height(len(subtasks))
    figure, axes = plots.figure(1, 1 + n, height=height, width=width, squeeze=False, width_ratios=[1.7] + [1] * n)
    plots.removal_matrix(axes[0, 0], Interval(*found.sizes[found.middle]["loss_increase"][:4]), subtasks)
    axes[0, 0].set_title(f"top {found.middle} {found.units} removed")
    parts = (np.stack([scores["loss_increase"][end] for scores in found.sizes.values()], axis=-1) for end in range(4))
    increase = Interval(*parts)
    for a, ax in enumerate(axes[0, 1:]):
        plots.removal_curves(ax, np.array(counts), increase.at(a), subtasks, legend=False, unit=found.unit)
        ax.set_title(f"needed by {subtasks[a]}", fontsize=8 if len(subtasks[a]) < 8 else 7)
        ax.set_xlabel(f"{found.units} removed")
        ax.set_ylim(min(0.0, float(increase.low.min())) * 1.05, float(increase.high.max()) * 1.05)
        if a:
            ax.set(ylabel="", yticklabels=[])
    if n:
        figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside lower right", ncols=min(n + 1, 6))
    return figure


def positions(found: ByPosition) -> Any:
    """Draw a map of units by positions for each subtask, or for the first of many."""
    shown = dict(list(found.subtasks.items())[:PANELS])
    rows = max(len(held.units) for held in found.subtasks.values())
    height = min((0.6 + 0.17 * rows) * len(shown) + 0.3, 2.4 * TALL)
    figure, axes = plots.figure(len(shown), 1, height=height, squeeze=False)
    halves = np.concatenate([(held.high - held.value).ravel() for held in shown.values()])
    noise = float(np.median(halves[np.isfinite(halves)])) if np.isfinite(halves).any() else 0.0
    norm = plots.effect_norm(np.concatenate([held.value.ravel() for held in shown.values()]), noise=noise)
    for ax, (name, held) in zip(axes[:, 0], shown.items(), strict=True):
        plots.position_map(ax, held.value, held.units, found.positions, norm=norm)
        ax.set_title(name)
    for ax in axes[:-1, 0]:
        ax.set_xlabel("")
    plots.colour_bar(figure, axes[:, 0].tolist(), norm=norm, label=f"effect ({found.unit})")
    return figure


def calibration(effects: Effects, compared: Compared) -> Any:
    """Draw estimated against exact effects, a panel for each subtask, or for the first of many."""
    n = min(len(effects.subtasks), PANELS)
    columns = min(n, 3)
    rows = -(-n // columns)
    figure, axes = plots.figure(rows, columns, height=2.5 * rows, squeeze=False)
    noise = noise_of(compared.estimate) if len(effects.values) > 1 else np.full(len(effects.subtasks), 1e-4)
    for s, (ax, name) in enumerate(zip(axes.flat, effects.subtasks, strict=False)):
        label = "\n[".join(f"Spearman {said(compared.calibration[name].spearman)}".split(" ["))
        both = np.stack([compared.estimate.mean(name), compared.exact.mean(name)])
        plots.calibration_scatter(
            ax, both, drawn=compared.drawn, linear=float(noise[s]),
            colour=plots.colour_of(s), unit=effects.unit,
        )  # fmt: skip
        ax.set_title(label, loc="right", fontsize=6.5, weight="normal")
        ax.set_title(name)
        if s % columns:
            ax.set_ylabel("")
    for ax in axes.flat[n:]:
        ax.remove()
    return figure
