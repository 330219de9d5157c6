"""What was measured, and which units each subtask needs most."""

import numpy as np

from skilloc import locality
from skilloc.effects import Effects
from skilloc.effects.alarms import read_alarms
from skilloc.locality.intervals import Interval, number
from skilloc.report import pictures
from skilloc.report.about import TopUnit, about, top_units
from skilloc.report.section import Cell, Named, Picture, Section, Table, listed
from skilloc.units import HEAD, KINDS


def measured_section(effects: Effects) -> Section:
    """Return what was measured, on what, and the loss of the whole model."""
    found, drawn = about(effects), effects.made.get("drawn", {})
    kinds = np.array(effects.units.kinds)
    ordered = [kind for kind in dict.fromkeys([*KINDS, *kinds.tolist()]) if (kinds == kind).any()]
    counts = [f"{int((kinds == kind).sum()):,} {kind}s" for kind in ordered]
    some = f"{found.exact:,} of them exactly" if found.exact else "all estimated"
    exact = "all exactly" if found.exact == found.measured else some
    where = "" if found.at == "all" else f", at {found.at} positions"
    sentences = [
        f"{found.model}: {found.measured:,} of {found.units:,} units ({listed(counts)} in "
        f"{len(set(effects.units.layers.tolist()))} layers), {exact} ({found.method}, reference {found.reference}"
        f"{where}), in {found.folds} folds."
    ]
    if drawn:
        texts = f" of {drawn['length']} tokens" if drawn.get("length") else ""
        sentences.append(f"On {drawn['sequences']} examples{texts} of each subtask ({drawn['split']} split).")
    for name, share in ((name, found.accuracy[name]) for name in found.subtasks if name in found.accuracy):
        beside = (("by chance", "chance"), ("of always giving the commonest answer of these", "commonest"))
        known = [f"; {words} {number(effects.made[key][name], 3)}" for words, key in beside if key in effects.made]
        sentences.append(f"{name}: accuracy {number(share, 3)}{''.join(known)}.")
    sentences += [f"Alarm: {alarm}." for alarm in read_alarms(effects.made)]
    rows: tuple[tuple[Cell, ...], ...] = tuple(found.baseline.items())
    caption = f"{found.loss_words}, of the whole model"
    return Section("What was measured?", tuple(sentences), (Table(caption, ("subtask", found.unit), rows),))


def units_section(effects: Effects) -> Section:
    """Return the units that each subtask needs most, and where its effects lie."""
    found, names = top_units(effects), effects.subtasks
    rows: list[tuple[Cell, ...]] = [
        (str(place + 1), *(_named(found[name][place]) for name in names)) for place in range(len(found[names[0]]))
    ]
    estimated = any(not unit.exact for units in found.values() for unit in units)
    caption = f"largest effects in {effects.unit}{' (~ = an estimate)' if estimated else ''}"
    sentences = [f"{name} needs {where}" for name in names[:MOST] if (where := _where(effects, name))]
    sentences += _false_words(effects, len(rows))
    drawn = [Picture("units", "effects of all units on all subtasks, by layer", lambda: pictures.units(effects))]
    if len(effects.values) > 1:
        drawn.append(Picture("sorted", "effects by rank", lambda: pictures.by_rank(effects)))
    title = "Which units does each subtask need?"
    return Section(title, tuple(sentences), (Table(caption, ("", *names), tuple(rows)),), tuple(drawn))


MOST = 8
"""Subtasks that have a sentence of their own, at most."""


def _false_words(effects: Effects, shown: int) -> list[str]:
    """Say how many of the units that are shown are not expected to be needed."""
    if len(effects.values) < 3:
        return []
    names = effects.subtasks[:MOST]
    false = [locality.picked(effects.of(name), top=shown).false for name in names]
    told = listed(
        [
            f"{f'{count:.1f}' if count < shown - 0.05 else 'all'} for {name}"
            for name, count in zip(names, false, strict=True)
        ]
    )
    return [f"Of the {shown} units shown, so many are expected not to be needed: {told}."]


def _named(unit: TopUnit) -> Named:
    return Named(f"{unit.unit}{'' if unit.exact else ' ~'}", Interval(unit.value, unit.low, unit.high))


def _where(effects: Effects, name: str) -> str:
    """In which layer, and in heads or neurons, the effects of one subtask lie; sums free of noise."""
    values = effects.of(name)[:, effects.measured]
    if len(values) < 3 or not values.shape[1]:
        return ""
    layers, kinds = effects.units.layers[effects.measured], np.array(effects.units.kinds)[effects.measured]
    by_layer = {int(layer): max(0.0, _mass(values[:, layers == layer])) for layer in np.unique(layers)}
    strongest = max(by_layer, key=lambda layer: by_layer[layer])
    total = sum(by_layer.values())
    heads = f", all heads {number(_mass(values[:, kinds == HEAD]))}" if {HEAD} < set(kinds) else ""
    if len(by_layer) == 1:
        return f"{number(total)} {effects.unit} of positive effects, all in layer {strongest}, the only one measured."
    return (
        f"layer {strongest} most: its units have {number(by_layer[strongest])} of {number(total)} {effects.unit} of "
        f"positive effects{heads}."
    )


def _mass(values: np.ndarray) -> float:
    return float(locality.scores(values, top=1)["mass"].value)
