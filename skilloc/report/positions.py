"""At which positions a subtask needs its top units."""

import numpy as np

from skilloc.locality.intervals import Interval
from skilloc.report import pictures
from skilloc.report.scored import ByPosition
from skilloc.report.section import Cell, Named, Picture, Section, Table

SHOWN = 3
"""Positions of each unit in the table."""


def positions_section(found: ByPosition) -> Section:
    """Return, per subtask, its units and the positions where each matters most."""
    shown, tables, count = min(SHOWN, len(found.positions)), [], len(found.positions)
    columns = ("unit", *("most at", "then at", "then at")[:shown])
    for subtask, held in found.subtasks.items():
        rows: list[tuple[Cell, ...]] = []
        for u, name in enumerate(held.units):
            order = np.argsort(-np.abs(held.value[u]), kind="stable")[:shown]
            places = [
                Named(
                    f"{found.positions[p]}:", Interval(*(float(end[u, p]) for end in (held.value, held.low, held.high)))
                )
                for p in order
            ]
            rows.append((name, *places))
        caption = f"{subtask}: effect in {found.unit} of a unit held at one of {count} positions only"
        tables.append(Table(caption, columns, tuple(rows)))
    sentence = "Each of a subtask's top units was held at one position after the other."
    alt = "effects of the top units when held at one position only"
    drawn = Picture("positions", alt, lambda: pictures.positions(found))
    return Section("Where does each unit matter?", (sentence,), tuple(tables), (drawn,))
