"""Prompts with their answers, as people wrote them: shown as text, and never read as anything else."""

from collections.abc import Mapping
from typing import Any

from skilloc.effects import Effects
from skilloc.report.section import Cell, Section, Table

SUBTASKS, PROMPTS, LONGEST = 8, 4, 300
"""Subtasks and prompts of each that are shown, and letters of a prompt, at most."""


def prompts_section(effects: Effects) -> Section | None:
    """Return the first prompts of each subtask with what is right to say next; None for running text."""
    shown: Mapping[str, Any] = effects.made.get("shown", {})
    names = [name for name in effects.subtasks if shown.get(name)]
    if not names:
        return None
    tables = tuple(_table(name, shown[name][:PROMPTS]) for name in names[:SUBTASKS])
    more = len(names) - len(tables)
    sentences = (f"{more} more subtasks are not shown.",) if more > 0 else ()
    return Section("What was asked?", sentences, tables)


def _table(name: str, prompts: list[Mapping[str, Any]]) -> Table:
    """One row per prompt; what none of them has gets no column."""
    rows = [
        (
            one["prompt"],
            one["answer"],
            " / ".join(map(as_text, one.get("wrong") or ())),
            one.get("corrupted") or "",
        )
        for one in prompts
    ]
    kept = [place for place in range(4) if place < 2 or any(row[place] for row in rows)]
    columns = ("prompt", "right answer", "wrong answers", "its twin")
    cells: tuple[tuple[Cell, ...], ...] = tuple(tuple(as_text(row[place]) for place in kept) for row in rows)
    return Table(f"the first prompts of {as_text(name)}", tuple(columns[place] for place in kept), cells)


def as_text(given: str) -> str:
    """Return text on one line, in which nothing acts: what cannot be printed is written out, such as \\x1b."""
    signs = ("↵" if sign == "\n" else sign if sign.isprintable() else _written(sign) for sign in given)
    said = "".join(signs)
    return said if len(said) <= LONGEST else f"{said[:LONGEST]}…"


def _written(sign: str) -> str:
    return sign.encode("unicode_escape", "replace").decode()
