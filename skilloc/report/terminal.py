"""Sections as a terminal shows them. Text is text: nothing that a result says is read as markup."""

from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.table import Table as Drawn
from rich.text import Text

from skilloc.report.section import Section, Table

ABREAST = 4
"""Subtasks side by side in one table, at most."""


def shown(section: Section, console: Console) -> Iterator[RenderableType]:
    """Return what to print for a section, in as many parts as the terminal is too narrow for."""
    yield Text(section.title, style="bold")
    yield from (Text(sentence) for sentence in section.sentences)
    for table in section.tables:
        yield Text("")
        yield Text(table.caption, style="italic")
        yield from _parts(table, console)
    yield Text("")


def _parts(table: Table, console: Console) -> list[Drawn]:
    """As many columns beside each other as fit; where not even one does, its cells go over several lines."""
    texts, unbounded, parts = table.texts(), console.options.update_width(1000), []
    for kept in {table.kept: 0, 0: 0}:
        last = len(table.columns) - kept
        middle = list(range(1, last))
        for abreast in range(max(1, min(ABREAST, len(middle))), 0, -1):
            parts = [
                _part(table, texts, [0, *middle[i : i + abreast], *range(last, len(table.columns))])
                for i in range(0, max(1, len(middle)), abreast)
            ]
            if all(console.measure(part, options=unbounded).maximum <= console.width for part in parts):
                return parts
    for part in parts:
        for column in part.columns:
            column.no_wrap = False
    return parts


def _part(table: Table, texts: list[list[str]], columns: list[int]) -> Drawn:
    made = Drawn(box=None, padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(Text(table.columns[column]), no_wrap=True, header_style="dim", overflow="fold")
    for row in texts:
        made.add_row(*(Text(row[column], style="dim" if column in table.grey else "") for column in columns))
    return made
