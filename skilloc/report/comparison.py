"""What differs between two models on the same examples."""

from dataclasses import replace
from typing import Any

import numpy as np

from skilloc.circuits.comparison import Comparison
from skilloc.locality.intervals import Interval, number, said
from skilloc.locality.uncertainty import mean_over_folds
from skilloc.report import pictures
from skilloc.report.about import over_folds
from skilloc.report.bounds import first, subtasks_words
from skilloc.report.labels import label
from skilloc.report.section import Cell, Named, Picture, Section, Table, listed

COUNT = 10
"""Units of each subtask in the table."""
SAME = (
    "No loss, and no effect that both measured: they are the same numbers. Is it one study twice, or are both of one "
    "model?"
)


def comparison_sections(found: Comparison) -> list[Section]:
    """Return the differences of losses and scores, of single effects, and of circuits."""
    every, found = found.subtasks, first(found)
    if _equal(found):
        parts = [Section("What differs?", (SAME,))]
    else:
        scores = _of_scores(found)
        parts = [replace(scores, sentences=(*subtasks_words(len(every)), *scores.sentences)), _of_effects(found)]
    return [*parts, *([_of_circuits(found)] if found.traced else [])]


def _equal(found: Comparison) -> bool:
    measured = found.values[np.isfinite(found.values)]
    return found.same_units and measured.size > 0 and not measured.any() and not found.baseline.any()


def title_of(found: Comparison) -> str:
    """Return what a page about it is called."""
    return f"{found.models[1]} compared with {found.models[0]}"


def _of_scores(found: Comparison) -> Section:
    losses = found.losses()
    sentences = [f"All differences are {found.models[1]} minus {found.models[0]}, on the same examples."]
    both = int(np.isfinite(found.values).all(axis=(0, 1)).sum())
    if found.same_units and both < len(found.units):
        sentences.append(f"{both:,} of {len(found.units):,} units were measured in both; only these are compared.")
    for s, name in enumerate(found.subtasks):
        sentences.append(f"{name}: its loss is {_told(losses.at(s), 'higher', 'lower', found.unit)}.")
    if "locality" in found.names:
        sentences += [
            f"{name}: its locality is {_told(found.score(name, 'locality'), 'higher', 'lower', '')}."
            for name in found.subtasks
        ]
    rows: list[tuple[Cell, ...]] = [("loss of the whole model", *(losses.at(s) for s in range(len(found.subtasks))))]
    for score in found.names:
        called = label(score, top=found.made["top"], unit=found.unit)
        rows.append((called, *(found.score(name, score) for name in found.subtasks)))
    caption = "differences, with 95 % intervals that are paired over folds; – = cannot be told from noise"
    return Section(
        "What differs?", tuple(sentences), (Table(caption, ("difference of", *found.subtasks), tuple(rows)),)
    )


def _told(score: Interval, above: str, below: str, unit: str) -> str:
    if not np.isfinite([score.value, score.low, score.high]).all():
        return "too noisy to compare"
    if score.low <= 0 <= score.high:
        return f"the same, as far as can be told ({said(score)})"
    told = f"{number(abs(float(score.value)))} {unit}".strip()
    return f"{told} {above if score.value > 0 else below} ({said(score)})"


def _of_effects(found: Comparison) -> Section:
    title = "Which units changed?"
    if not found.same_units:
        return Section(title, ("The two models have other units, so that single units cannot be compared.",))
    columns, sentences = [], []
    for name in found.subtasks:
        moved = found.effects(name)
        order = np.argsort(-np.nan_to_num(np.abs(moved.value), nan=-1.0), kind="stable")[:COUNT]
        order = order[: int(np.isfinite(moved.value).sum())]
        columns.append([Named(found.units.names[u], moved.at(u)) for u in order])
        sure = int(((moved.low > 0) | (moved.high < 0)).sum())
        count = int(np.isfinite(moved.value).sum())
        sentences.append(f"{name}: {sure:,} of {count:,} effects differ beyond their interval (5 % would by chance).")
    rows: list[tuple[Cell, ...]] = [
        (str(place + 1), *(column[place] for column in columns)) for place in range(len(columns[0]))
    ]
    caption = f"largest differences of effects in {found.unit}"
    alt = "differences of the effects of all units, by their place in the model"
    picture = Picture("differences", alt, lambda: _draw(found))
    return Section(title, tuple(sentences), (Table(caption, ("", *found.subtasks), tuple(rows)),), (picture,))


def _draw(found: Comparison) -> Any:
    """A map of all units: differences of effects."""
    moved = over_folds(found.values)
    noise = float(np.nanmax(np.nanmedian(moved.high - moved.value, axis=-1)))
    return pictures.unit_maps(
        moved.value, found.units, found.subtasks, noise=noise, what="difference of effects", unit=found.unit
    )


def _of_circuits(found: Comparison) -> Section:
    rows: list[tuple[Cell, ...]] = []
    sentences = []
    for c, name in enumerate(found.traced):
        shared, low, high = found.circuits[:, c].tolist()
        only = [listed(names, most=5) or "none" for names in found.only[c]]
        beyond = "more than" if shared > high else "no more than"
        sentences.append(f"{name}: the circuits share {number(shared)} of their units, {beyond} random ones would.")
        carried = mean_over_folds(found.carried[:, c])
        rows.append((name, f"{number(shared)} (random {number(low)} to {number(high)})", carried, *only))
    columns = ("circuit of", "units in both / in either", "difference of effects", "only in the first", "in the second")
    caption = f"circuits; differences of the effects of their units, added up, in {found.unit}"
    return Section("Which circuits changed?", tuple(sentences), (Table(caption, columns, tuple(rows)),))
