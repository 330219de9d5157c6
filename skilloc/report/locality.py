"""How local each skill is, which units subtasks share, and how far both depend on the reference."""

from itertools import combinations

import numpy as np

from skilloc import locality
from skilloc.locality.intervals import number
from skilloc.report import pictures
from skilloc.report.labels import label
from skilloc.report.scored import Locality, References
from skilloc.report.section import Cell, Picture, Section, Table, compared, grouped, listed

MOVED = 3
"""So many units whose ranks depend on the reference are named."""

RELIABLE = 0.3
"""Reliability below which scores are grey."""

PAIRS = 30
"""Pairs of subtasks in the table, at most."""


def locality_section(found: Locality) -> Section:
    """Return how few units carry each subtask."""
    names = found.about.subtasks
    rows: list[tuple[Cell, ...]] = []
    for score in found.scores[names[0]]:
        cells = [found.scores[name][score] for name in names]
        level = cells[0].chance
        called = label(score, top=found.top, unit=found.about.unit)
        rows.append((called, *cells, "" if level is None else float(level)))
    own = found.reliability
    rows.append(("reliability", *(own.at(s) for s in range(len(names))), 0.0))
    caption = f"scores with 95 % intervals over {found.about.folds} folds; – = cannot be told from noise"
    grey = tuple(s + 1 for s in range(len(names)) if own.value[s] < RELIABLE)
    table = Table(caption, ("how local", *names, "chance"), tuple(rows), kept=1, grey=grey)
    alt = "locality scores with intervals and chance levels"
    return Section(
        "How local is each skill?",
        (local_words(found) + ".", *_reliability_words(found), *_tail_words(found)),
        (table,),
        (Picture("locality", alt, lambda: pictures.scores(found)),),
    )


def _reliability_words(found: Locality) -> list[str]:
    """Say which subtasks' scores are mostly noise."""
    low = [name for name, value in zip(found.about.subtasks, found.reliability.value, strict=True) if value < RELIABLE]
    if not low:
        return []
    return [
        f"The effects of {listed(low)} are mostly noise (reliability below {RELIABLE}; grey): measure more text, "
        "such as with `skilloc effects --until 0.5`, before anything is made of their scores."
    ]


def _tail_words(found: Locality) -> list[str]:
    """Warn where the effective number of units and the bulk disagree by an order of magnitude."""
    told = []
    for name, scores in found.scores.items():
        head, bulk = scores["effective_number"].value, scores["k90"].value
        beside = "units carry 90 %"
        if np.isnan(bulk) and name in found.bulk:
            bulk, beside = found.bulk[name].k90, "units are estimated to carry 90 %, most of them below the noise"
        if bulk > 10 * head:
            told.append(
                f"{name} is heavy-tailed: the effective number, {number(head)}, is about its few largest units, while "
                f"{number(bulk)} {beside}; neither number alone says how local it is."
            )
    return told


def local_words(found: Locality) -> str:
    """Say of each subtask whether it is more local than chance."""
    words = {"below": "more local than chance", "above": "less local than chance"}
    return grouped([(name, compared(scores["effective_number"], **words)) for name, scores in found.scores.items()])


def between_section(found: Locality) -> Section | None:
    """Return which subtasks need the same units; None for a single subtask."""
    if not found.between:
        return None
    names = found.about.subtasks
    pairs = list(combinations(range(len(names)), 2))
    overlaps = [float(found.between["overlap"].value[a][b]) for a, b in pairs]
    order = sorted(range(len(pairs)), key=lambda i: -np.nan_to_num(overlaps[i], nan=-1.0))
    shown = sorted(order[:PAIRS])
    rows: list[tuple[Cell, ...]] = [
        (f"{names[a]}, {names[b]}", *(scores.at(a, b) for scores in found.between.values()))
        for a, b in (pairs[i] for i in shown)
    ]
    some = f"the {PAIRS} of {len(pairs)} pairs with the largest overlap" if len(pairs) > PAIRS else "all pairs"
    columns = ("subtasks", *(label(name, top=found.top) for name in found.between))
    alt = "how far subtasks need the same units"
    return Section(
        "Do they need the same units?",
        (between_words(found) + ".",),
        (Table(f"{some} of subtasks, in brackets the 95 % interval", columns, tuple(rows), beside="chance"),),
        (Picture("entanglement", alt, lambda: pictures.between(found)),),
    )


def between_words(found: Locality) -> str:
    """Say of each pair whether it shares units beyond chance; of many pairs, how many do."""
    names = found.about.subtasks
    said = [(f"{names[a]} and {names[b]}", _shared(found, a, b)) for a, b in combinations(range(len(names)), 2)]
    if len(said) <= 6:
        return "; ".join(f"{pair}: {told}" for pair, told in said)
    counts = {told: sum(other == told for _, other in said) for _, told in said}
    return f"Of {len(said):,} pairs of subtasks: " + "; ".join(f"{count:,} {told}" for told, count in counts.items())


def _shared(found: Locality, a: int, b: int) -> str:
    """Say whether two subtasks share units: by the overlap of their effects; where noise hides it, by their tops."""
    words = {"below": "share fewer units than chance", "above": "share units beyond chance"}
    overlap, tops = (found.between[name].at(a, b) for name in ("overlap", "top_jaccard"))
    told = compared(overlap, **words)
    if np.isfinite(overlap.value) or not np.isfinite(tops.value):
        return told
    beside = compared(tops, below="fewer than chance", above="more than chance")
    return f"the overlap of their effects is {told}; of their top {found.top}, {beside} are in common"


def references_section(found: References) -> Section:
    """Return how far the scores move between references."""
    names = tuple(found.subtasks)
    rows = []
    for score in locality.NAMES:
        cells: list[Cell] = [found.subtasks[name].range(score) for name in names]
        rows.append((label(score, top=found.top).partition(" (")[0], *cells))
    caption = f"largest minus smallest score over the references {', '.join(found.references)}"
    ranges = [found.subtasks[name].range("locality") for name in names]
    known = [moved for moved in ranges if np.isfinite(moved)]
    said = f"moves by {number(max(known))} at most" if known else "is withheld under all but one, or all, of them"
    sentences = [f"Between these references, locality {said}."]
    for name in names:
        if moved := found.subtasks[name].moved:
            told = ", ".join(
                f"{found.units[one.unit]} (rank {one.ranks[0]} to {one.ranks[1]} under {one.first}, {one.ranks[2]} to "
                f"{one.ranks[3]} under {one.second})"
                for one in moved[:MOVED]
            )
            more = f" and {len(moved) - MOVED} more" if len(moved) > MOVED else ""
            sentences.append(f"{name}: the ranks of these units move by more than their intervals allow: {told}{more}.")
    table = Table(caption, ("score", *names), tuple(rows))
    return Section("Does it depend on the reference?", tuple(sentences), (table,))
