"""Circuits in words and tables: what their units keep of the skill beside random ones, the few edges that matter."""

from collections.abc import Sequence

import numpy as np

from skilloc.circuits import graph as g
from skilloc.circuits.claims import MOST, SHARE
from skilloc.circuits.diagram import EDGES, UNITS
from skilloc.circuits.overlap import Overlap
from skilloc.locality.intervals import Interval, number, said
from skilloc.report.bounds import circuits_words
from skilloc.report.circuits_found import CircuitFound, CircuitsFound, Kept, Strong
from skilloc.report.section import Cell, Section, Table


def circuit_words(found: CircuitFound) -> str:
    """Say how far a circuit beats random units of its size, and whether there is a skill that it could be."""
    cannot = f" The model cannot do {found.subtask}: it is {found.unable}; all this is about what it does instead."
    return _keeping(found) + (cannot if found.unable else "")


def _keeping(found: CircuitFound) -> str:
    kept = found.kept
    units = " and ".join(f"{n:,} {kind}{'s' if n > 1 else ''}" for kind, n in found.kinds.items() if n)
    about = f"{found.subtask} ({found.chosen}: {units})"
    if kept is None or np.isnan(kept.faithfulness.value):
        return f"{about}: units that matter most; how much of the skill they keep was not measured."
    alone = f"{about}: these units alone keep {said(kept.faithfulness)} of the skill"
    if len(found.each) > 1:
        told = ", ".join(f"{said(one)} in {run}" for run, one in found.each.items())
        alone = f"{about}: of the skill these units alone keep {told}; where they keep least, {said(kept.faithfulness)}"
    if np.isnan(kept.random.value):
        return (
            f"{alone}; no random units were measured beside them, so that they are only called units that matter most."
        )
    ahead, told = kept.faithfulness.value - kept.random.value, _more(kept)
    beside = f"random ones of their number and layers {said(kept.random)} (95 % of single ones)"
    seeing = not np.isnan(kept.blind.value)
    if seeing:
        beside = f"{beside}, and with inputs that say nothing, so whatever the example is, {said(kept.blind)}"
    if ahead <= 0:
        return f"{alone}, {beside}: no better than random units of their number, so that they are no circuit."
    if found.called == g.CIRCUIT:
        seen = f"; {number(kept.faithfulness.value - kept.blind.value)} more than blind" if seeing else ""
        return f"{alone}, {beside}: the circuit keeps {number(ahead)} {told}{seen}."
    if seeing and not kept.faithfulness.low > kept.blind.high:
        return (
            f"{alone}, {beside}: what they keep is not more, beyond both intervals, than what does not depend on the "
            "example, so that they are units that matter most, no circuit."
        )
    return f"{alone}, {beside}: they keep {number(ahead)} {told}, so that they are units that matter most, no circuit."


def _more(kept: Kept) -> str:
    """Say how sure it is that something keeps more than what is random."""
    ends = np.array([kept.faithfulness.low, kept.faithfulness.high, kept.random.low, kept.random.high], dtype=float)
    return (
        "more" if np.isnan(ends).any() else "more, beyond both intervals" if ends[0] > ends[3]
        else "more, but the intervals overlap" if ends[1] >= ends[2] else "more"
    )  # fmt: skip


def edge_words(found: CircuitFound) -> str:
    """Say which edges a circuit is drawn with, and what it keeps with these alone."""
    if not found.edges:
        return ""
    share = f"{SHARE:.0%}".replace("%", " %") if found.few < MOST else "the largest part"
    carry = f"carry {share} of what passes along these"
    if found.drawn_on:
        keep = f"as few as keep {share} of what all do" if found.few < MOST else "those that lower the loss most"
        carry = f"are drawn, {keep} on {found.drawn_on}"
    drawn = f"{found.few:,} of its {found.edges:,} edges {carry}"
    if not found.reads:
        drawn += ", none of which leads on from the inputs, so that they say the same whatever the example is"
    if not found.wired:
        return f"{drawn}; whether these are enough was not tested" + (f": {found.untested}." if found.untested else ".")
    own, every = found.wired[0], found.wired[-1]
    alone = f"{drawn}; with these alone, all other paths at the reference, it keeps {said(own.faithfulness)}"
    whole = f", with all {every.size:,} that there can be {said(every.faithfulness)}" if len(found.wired) > 1 else ""
    if np.isnan(own.random.value) or len(found.wired) == 1:
        return f"{alone}{whole}."
    beside = f"{alone}, with as many other edges between the same layers, at random, {said(own.random)}{whole}"
    ahead = own.faithfulness.value - own.random.value
    if own.faithfulness.value <= 0:
        return f"{beside}: the drawn edges show where effects pass, and alone keep nothing."
    if ahead > 0:
        return f"{beside}: the drawn edges keep {number(ahead)} {_more(own)}."
    return f"{beside}: the drawn edges show where effects pass, and keep no more than random ones."


def drawn_words(found: CircuitFound) -> str:
    """Say of a large circuit that only its strongest units and edges are drawn."""
    parts = [f"{most:,} of its {count:,} {what}" for what, count, most in
             (("units", found.size, UNITS), ("edges", found.edges, EDGES)) if count > most]  # fmt: skip
    return f"Drawn are {' and '.join(parts)}, the strongest; its .json has all." if parts else ""


def circuits_section(found: CircuitsFound, *, every: bool = False) -> Section:
    """Return what circuits say: sentences, what they keep by size, their strongest units and edges, what they share.

    Args:
        found: the circuits.
        every: whether the tables have the effects on all subtasks, or on each circuit's own only.
    """
    sentences, tables = [*circuits_words(found.every), *map(circuit_words, found.subtasks.values())], []
    for name, one in found.subtasks.items():
        if one.edges:
            sentences.append(f"{name}: {edge_words(one)}")
        if drawn := drawn_words(one):
            sentences.append(f"{name}: {drawn}")
        if one.curve:
            rows: list[tuple[Cell, ...]] = [
                (f"{kept.size:,}{' *' if kept.size == one.size else ''}", *kept[1:]) for kept in one.curve
            ]
            columns = ("units", "kept", "by random units", "by blind units", "lost without", "without random units")
            caption = (
                f"{name}: share of the skill kept by the circuit alone, by random units, by the circuit whatever the "
                "example is (blind), and lost without it (* = its own size)"
            )
            tables.append(Table(caption, columns, tuple(rows)))
        subtasks = one.subtasks if every else (one.subtask,)
        tables.append(_strongest(name, one, "unit", subtasks))
        tables += [_strongest(name, one, "edge", subtasks)] if one.edges else []
    if found.overlap is not None:
        tables.append(_shared(found.overlap))
    return Section("Circuits", tuple(sentences), tuple(tables))


def _strongest(name: str, found: CircuitFound, what: str, subtasks: tuple[str, ...]) -> Table:
    entries: Sequence[Strong] = found.strongest_units
    if what == "edge":
        entries = found.strongest_edges[: max(found.few, 1)]
    adds = any(one.adds is not None for one in entries)
    nothing = Interval(float("nan"), float("nan"), float("nan"))
    rows = []
    for one in entries:
        cells: list[Cell] = [one.effect.get(on, nothing) for on in subtasks]
        rows.append((one.name, one.kind, *cells, *([one.adds or nothing] if adds else [])))
    columns = ["kind" if what == "unit" else "measured", *(f"effect on {on}" for on in subtasks)]
    total = found.size if what == "unit" else found.edges
    scored = what == "edge" and found.scored
    which = f"first {len(rows):,}" if scored else f"{len(rows):,} strongest"
    some = f"all {total:,}" if len(rows) == total else f"the {which} of {total:,}"
    order = ", in the order in which they are drawn: of what each lowers the loss on other examples" if scored else ""
    caption = f"{name}: {some} {what}s{order}; effects in {found.unit}"
    return Table(caption, (what, *columns, *(["adds to the circuit"] if adds else [])), tuple(rows))


def _shared(found: Overlap) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for a, name in enumerate(found.names):
        cells = [
            "1" if a == b
            else f"{number(found.jaccard[a, b])} (random {number(found.chance_low[a, b])} to "
            f"{number(found.chance_high[a, b])})"
            for b in range(len(found.names))
        ]  # fmt: skip
        rows.append((name, *cells))
    caption = "units in common: in both / in either (in brackets the range of 95 % of random circuits)"
    return Table(caption, ("circuit", *found.names), tuple(rows))
