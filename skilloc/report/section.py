"""What is said of one kind of result: a title, sentences, tables with typed cells, pictures.

A section is made once, by the module of its kind of result, and rendered by `terminal`, `markdown` and `document`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from skilloc.locality.intervals import Interval, number, said

FIGURES = 3


class Named(NamedTuple):
    """A number with its interval, and what it belongs to: `L0N5 1.02 [0.98, 1.06]`."""

    name: str
    score: Interval


Cell = str | int | float | Interval | Named
"""Text, a number, a number with its interval, or that with a name before it."""


@dataclass(frozen=True)
class Table:
    """Rows of cells, the first of which is the row's name.

    Attributes:
        caption: what the numbers are.
        columns: names of the columns, that of the first included.
        rows: the cells.
        beside: what the chance of an interval is called where cells show it too, such as "random"; "" to leave it out.
        grey: columns whose numbers are mostly noise.
        kept: number of last columns that stay on every part of a table which is too wide.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    beside: str = ""
    kept: int = 0
    grey: tuple[int, ...] = ()

    def texts(self) -> list[list[str]]:
        """Return all cells as text: the only place where numbers of tables become text."""
        return [[text_of(cell, self.beside) for cell in row] for row in self.rows]


@dataclass(frozen=True)
class Picture:
    """A picture that is drawn when it is asked for.

    Attributes:
        name: of its file, without an ending.
        alt: what it shows, in words.
        draw: returns the figure.
    """

    name: str
    alt: str
    draw: Callable[[], Any] = field(compare=False)


@dataclass(frozen=True)
class Section:
    """What is said of one result.

    Attributes:
        title: of the section.
        sentences: what was found, in words; each stands on a line of its own.
        tables: the numbers.
        pictures: of the numbers.
        words: (word, what it means) of words that stand here first; `words.explained` fills it in.
    """

    title: str
    sentences: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    words: tuple[tuple[str, str], ...] = ()

    def text(self) -> str:
        """Return all that a reader sees of it but numbers and pictures: where words are looked for."""
        tables = [
            part for t in self.tables for part in (t.caption, t.beside, *t.columns, *(str(row[0]) for row in t.rows))
        ]
        return "\n".join([self.title, *self.sentences, *tables])


def text_of(cell: Cell, beside: str = "", figures: int = FIGURES) -> str:
    """Return a cell as text."""
    if isinstance(cell, Named):
        return f"{cell.name} {text_of(cell.score, beside, figures)}"
    if isinstance(cell, Interval):
        level = math.nan if cell.chance is None else float(cell.chance)
        return said(cell, figures) + (
            f" ({beside} {number(level, figures)})" if beside and math.isfinite(level) else ""
        )
    if isinstance(cell, str):
        return cell
    return f"{cell:,}" if isinstance(cell, int) else number(cell, figures)


def listed(names: Sequence[str], *, most: int = 8) -> str:
    """Return names in a row: `a, b and c`; of many, the first and how many more."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def compared(score: Interval, *, below: str, above: str, between: str = "not told from chance") -> str:
    """Say where a score's interval lies beside its chance level."""
    if not math.isfinite(score.value):
        return "too noisy to tell"
    if score.high < score.chance:
        return below
    return above if score.low > score.chance else between


def grouped(said_of: Sequence[tuple[str, str]]) -> str:
    """Return what is said of each name, with those that have the same said of them together: `a and b: x; c: y`."""
    by: dict[str, list[str]] = {}
    for name, words in said_of:
        by.setdefault(words, []).append(name)
    return "; ".join(f"{listed(names)}: {words}" for words, names in by.items())
