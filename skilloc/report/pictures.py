"""The pictures of a study and of its circuits: what `skilloc show`, `skilloc circuit` and the demo write."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from skilloc import plots
from skilloc.circuits.graph import CHOSEN, REFERENCE
from skilloc.effects import Effects
from skilloc.study.folder import Compared, Study
from skilloc.study.report import Record, noise_of, sorted_effects
from skilloc.study.tracing import file_of
from skilloc.units import HEAD, KINDS

SHARES = ("locality", "hoyer", "gini", "top_share", "negative_share")
COUNTS = ("effective_number", "entropy_number", "k50", "k90")
LABELS = {"top_share": "top {top} share", "k50": "units for half", "k90": "units for 90 %"}


def draw_study(
    study: Study, locality: Record | None, removal: Record | None, folder: Path, positions: Record | None = None
) -> list[Path]:
    """Draw all pictures that a study has numbers for.

    Args:
        study: the effects, and the estimate with its calibration.
        locality: as `report.locality_record` makes it.
        removal: as `report.removal_record` makes it.
        folder: where the pictures go.
        positions: as `report.positions_record` makes it.

    Returns:
        The PNG files; an SVG lies beside each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawings: dict[str, Callable[[], Any]] = {"units": lambda: _units(study.effects)}
    if len(study.effects.values) > 1:
        drawings["sorted"] = lambda: _sorted(study.effects)
    if locality is not None:
        drawings["locality"] = lambda: _locality(locality)
        if locality["between"]:
            drawings["entanglement"] = lambda: _entanglement(locality)
    if removal is not None:
        drawings["removal"] = lambda: _removal(removal)
    if positions is not None:
        drawings["positions"] = lambda: _positions(positions)
    if study.compared is not None:
        compared = study.compared
        drawings["calibration"] = lambda: _calibration(study.effects, compared)
    paths = []
    with plots.style():
        for name, drawing in drawings.items():
            figure = drawing()
            for kind in ("svg", "png"):
                figure.savefig(folder / f"{name}.{kind}", metadata=DATES[kind])
            paths.append(folder / f"{name}.png")
    return paths


DATES = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": None}
"""What a file says about when it was made: nothing, so that the same input gives the same bytes."""


def draw_circuits(circuits: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw each circuit as a layered diagram, and of several one figure with all side by side on the same layout.

    Args:
        circuits: graphs by subtask, as `tracing.trace_study` returns them.
        folder: gets NAME.png for each, and `circuits.png` for all of them.

    Returns:
        The PNG files, that of all last; an SVG and a PDF lie beside each.
    """
    paths = []
    with plots.style():
        for name, graph in circuits.items():
            paths.append(_save(_circuits({name: graph}), file_of(folder, name)))
        if len(circuits) > 1:
            paths.append(_save(_circuits(circuits), folder / "circuits.json"))
    return paths


def _save(figure: Any, path: Path) -> Path:
    for kind, dates in DATES.items():
        figure.savefig(path.with_suffix(f".{kind}"), metadata=dates)
    return path.with_suffix(".png")


def _circuits(circuits: Mapping[str, Any]) -> Any:
    """At most three panels beside each other, so high that the nodes of the fullest column are apart."""
    names = list(circuits)
    diagram = plots.joint_diagram(circuits)
    across = min(len(names), 3)
    down = -(-len(names) // across)
    height = float(np.clip(0.13 * np.bincount(diagram.columns).max(), 2.6, 5.5))
    figure, axes = plots.figure(
        down, across, width=max(plots.WIDE, 4.2 * across), height=0.7 + height * down, squeeze=False
    )
    for ax, name in zip(axes.flat, names, strict=False):
        plots.circuit_diagram(ax, diagram, subtask=name)
        ax.set_title(f"{name}: {circuits[name].graph[CHOSEN]}, reference {circuits[name].graph[REFERENCE]}")
    for ax in axes.flat[len(names) :]:
        ax.remove()
    plots.circuit_legend(figure, diagram, subtask=names[0])
    return figure


def _units(effects: Effects) -> Any:
    units, measured = effects.units, effects.measured
    # Layers without a measured unit are left out; in the others, units that were not measured show as grey.
    drawn = np.isin(units.layers, units.layers[measured])
    mean, layers = effects.values.mean(axis=0)[:, drawn], units.layers[drawn]
    kinds = np.array(units.kinds)[drawn]
    order = dict.fromkeys([*reversed(KINDS), *kinds.tolist()])
    there = [kind for kind in order if (kinds == kind).any()]
    rows = len(np.unique(layers)) * (len(effects.subtasks) + 0.35)
    figure, axes = plots.figure(
        1,
        len(there),
        height=float(np.clip(0.16 * rows, 1.4, 7)) + 0.7,
        width_ratios=[1 if kind == HEAD and len(there) > 1 else 4 for kind in there],
        squeeze=False,
    )
    noise = float(np.max(noise_of(effects))) if len(effects.values) > 1 else 0.0
    norm = plots.effect_norm(mean, noise=noise)
    for ax, kind in zip(axes[0], there, strict=True):
        chosen = kinds == kind
        ordered = kind != HEAD or int(np.bincount(layers[chosen]).max()) > 40
        plots.unit_map(ax, mean[:, chosen], layers[chosen], effects.subtasks, norm=norm, ordered=ordered)
        ax.set_title(f"{kind}s")
        ax.set_xlabel("rank within its layer, by the largest |effect| on any subtask" if ordered else kind)
    plots.subtask_legend(axes[0, -1], effects.subtasks)
    plots.colour_bar(figure, axes[0].tolist(), norm=norm, label=f"effect ({effects.unit})")
    return figure


def _sorted(effects: Effects) -> Any:
    figure, ax = plots.figure(width=plots.NARROW * 1.3, height=3.0)
    plots.sorted_curves(ax, *sorted_effects(effects), effects.subtasks, noise=noise_of(effects), unit=effects.unit)
    ax.set_title("sorted effects")
    return figure


def _locality(record: Record) -> Any:
    subtasks = record["subtasks"]
    figure, axes = plots.figure(1, 2, height=0.5 + 0.42 * len(SHARES) * max(1.0, len(subtasks) / 4))
    for ax, names, log in ((axes[0], SHARES, False), (axes[1], COUNTS, True)):
        table = {
            end: np.array([[record["scores"][s][name][end] for s in subtasks] for name in names], dtype=float)
            for end in ("value", "low", "high", "chance")
        }
        labels = [LABELS.get(name, name).format(top=record["top"]) for name in names]
        plots.score_dots(
            ax, labels, table["value"], table["low"], table["high"], table["chance"][:, 0], subtasks, log=log
        )
    plots.subtask_legend(axes[1], subtasks, control="chance")
    axes[0].set_title("how local each skill is")
    return figure


def _entanglement(record: Record) -> Any:
    titles = {
        "overlap": "weighted overlap",
        "top_jaccard": f"top {record['top']} in common",
        "rank_correlation": "rank correlation",
    }
    n = len(record["subtasks"])
    figure, axes = plots.figure(1, 3, height=2.6 if n <= 5 else 3.2)
    for ax, (name, title) in zip(axes, titles.items(), strict=True):
        found = record["between"][name]
        plots.entanglement_matrix(ax, *_arrays(found), record["subtasks"])
        ax.set_title(title)
        if ax is not axes[0]:
            ax.set_yticklabels([])
    return figure


def _removal(record: Record) -> Any:
    """The matrix at the middle size, and each source's curves over all sizes."""
    subtasks, units, sizes = record["subtasks"], record["units"], [int(size) for size in record["sizes"]]
    shown = str(sizes[len(sizes) // 2])
    n = len(subtasks) if len(sizes) > 1 else 0
    figure, axes = plots.figure(
        1, 1 + n, height=2.7, width=plots.WIDE if n else plots.NARROW, squeeze=False, width_ratios=[1.7] + [1] * n
    )
    plots.removal_matrix(axes[0, 0], *_arrays(record["sizes"][shown]["loss_increase"]), subtasks)
    axes[0, 0].set_title(f"top {shown} {units} removed")
    value, low, high, control = (
        np.stack(ends, axis=-1)
        for ends in zip(*(_arrays(found["loss_increase"]) for found in record["sizes"].values()), strict=True)
    )
    for a, ax in enumerate(axes[0, 1:]):
        counts = np.array(sizes)
        plots.removal_curves(
            ax, counts, value[a], low[a], high[a], subtasks, control=control[a], legend=False, unit=record["unit"]
        )
        ax.set_title(f"needed by {subtasks[a]}", fontsize=8 if len(subtasks[a]) < 8 else 7)
        ax.set_xlabel(f"{units} removed")
        ax.set_ylim(min(0.0, float(low.min())) * 1.05, float(high.max()) * 1.05)
        if a:
            ax.set(ylabel="", yticklabels=[])
    if n:
        figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside lower right", ncols=len(subtasks) + 1)
    return figure


def _positions(record: Record) -> Any:
    found = record["subtasks"]
    rows = max(len(one["units"]) for one in found.values())
    figure, axes = plots.figure(len(found), 1, height=(0.6 + 0.17 * rows) * len(found) + 0.3, squeeze=False)
    values = [np.array(one["value"]) for one in found.values()]
    halves = np.concatenate([(np.array(one["high"]) - np.array(one["value"])).ravel() for one in found.values()])
    noise = float(np.median(halves[np.isfinite(halves)])) if np.isfinite(halves).any() else 0.0
    norm = plots.effect_norm(np.concatenate([value.ravel() for value in values]), noise=noise)
    for ax, (name, one), value in zip(axes[:, 0], found.items(), values, strict=True):
        plots.position_map(ax, value, one["units"], record["positions"], norm=norm)
        ax.set_title(name)
    for ax in axes[:-1, 0]:
        ax.set_xlabel("")
    plots.colour_bar(figure, axes[:, 0].tolist(), norm=norm, label=f"effect ({record['unit']})")
    return figure


def _arrays(scores: Record) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    value, low, high, chance = (np.array(scores[end], dtype=float) for end in ("value", "low", "high", "chance"))
    return value, low, high, chance


def _calibration(effects: Effects, compared: Compared) -> Any:
    n = len(effects.subtasks)
    columns = min(n, 3)
    rows = -(-n // columns)
    figure, axes = plots.figure(rows, columns, height=2.5 * rows, squeeze=False)
    noise = noise_of(compared.estimate) if len(effects.values) > 1 else np.full(n, 1e-4)
    for s, (ax, name) in enumerate(zip(axes.flat, effects.subtasks, strict=False)):
        found = compared.calibration[name].pearson
        label = f"Pearson {found.value:.2f}\n[{found.low:.2f}, {found.high:.2f}]".replace("-", "−")
        plots.calibration_scatter(
            ax, compared.estimate.mean(name), compared.exact.mean(name), drawn=compared.drawn, linear=float(noise[s]),
            label=label, colour=plots.colour_of(s), unit=effects.unit,
        )  # fmt: skip
        ax.set_title(name)
        if s % columns:
            ax.set_ylabel("")
    for ax in axes.flat[n:]:
        ax.remove()
    return figure
