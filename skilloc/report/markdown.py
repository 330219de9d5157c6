"""Sections as Markdown: a page that a repository shows, with its pictures beside it."""

from collections.abc import Sequence

from skilloc.report.section import Section, Table


def page(title: str, sections: Sequence[Section], *, pictures: str = "pictures") -> str:
    """Return a page.

    Args:
        title: plain text.
        sections: in their order.
        pictures: folder of the PNG files, as seen from the page.
    """
    return "\n\n".join([f"# {_plain(title)}", *(_section(section, pictures) for section in sections)]) + "\n"


def _section(section: Section, pictures: str) -> str:
    parts = [f"## {_plain(section.title)}", "\n".join(f"- {_said(sentence)}" for sentence in section.sentences)]
    parts.append("\n".join(f"> **{word}**: {meaning}\\" for word, meaning in section.words).removesuffix("\\"))
    parts += [_table(table) for table in section.tables]
    parts += [f"![{_plain(picture.alt)}]({pictures}/{picture.name}.png)" for picture in section.pictures]
    return "\n\n".join(part for part in parts if part)


def _table(table: Table) -> str:
    head = [f"| {' | '.join(map(_cell, table.columns))} |", f"|{'---|' * len(table.columns)}"]
    rows = [f"| {' | '.join(map(_cell, row))} |" for row in table.texts()]
    return "\n".join([f"*{_plain(table.caption)}*", "", *head, *rows])


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _said(sentence: str) -> str:
    """Return a sentence in which what stands between backticks is code."""
    parts = sentence.split("`")
    if len(parts) % 2 == 0:
        return _plain(sentence)
    # Bars hold the spaces at the ends, which `_plain` takes away.
    return "".join(f"`{part}`" if place % 2 else _plain(f"|{part}|")[1:-1] for place, part in enumerate(parts))


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is: no link, no formula, no entity; brackets of intervals stay."""
    for sign in "\\`*_<$&":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.replace("](", "]\\(").split())
