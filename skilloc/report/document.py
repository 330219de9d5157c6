"""One HTML document that needs nothing else: style, script, data and pictures are all inside it."""

import base64
import hashlib
import html
import io
import json
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from skilloc import plots, store
from skilloc.report.section import Section, Table

HERE = Path(__file__).resolve().parent
SCRIPTS = ("view.js", "lanes.js", "panel.js", "prompts.js", "controls.js")

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; \
script-src {allowed}">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
{body}
{footer}</body>
</html>
"""


def document(title: str, body: str, *, data: Any = None, when: str | None = None) -> str:
    """Return a whole page.

    A content security policy in it forbids every request, and every script but the one that it carries.

    Args:
        title: plain text.
        body: HTML.
        data: what the script shows, as JSON can hold it; without it the page has no script.
        when: a time to state at the end of the page; without it the same input always gives the same page.
    """
    stated = f"Written {escape(when)}. " if when else ""
    footer = f"<footer>{stated}This page is one file and makes no request. Made by skilloc.</footer>\n"
    allowed = "'none'"
    if data is not None:
        script = _script()
        allowed = f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        footer += f'<script type="application/json" id="data">{embedded(data)}</script>\n<script>{script}</script>\n'
    style = (HERE / "page.css").read_text(encoding="utf-8")
    return _PAGE.format(allowed=allowed, title=escape(title), style=style, body=body, footer=footer)


@cache
def _script() -> str:
    parts = "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}}})();\n'


def embedded(data: Any) -> str:
    """Return JSON that can stand inside a script element, whatever text it holds.

    Raises:
        ValueError: if a number is NaN or infinite.
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    # After this, no text can end the element, open a comment, or end a line of script.
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def escape(text: object) -> str:
    """Return text as HTML that shows it, and does nothing."""
    return html.escape(str(text), quote=True)


def said(sentence: str) -> str:
    """Return a sentence as HTML, in which what stands between backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(sentence))


def rounded(value: float, figures: int = 3) -> float | None:
    """Return a number with so many significant digits; None for one that JSON cannot hold."""
    return float(f"{value:.{figures - 1}e}") if math.isfinite(value) else None


def body_of(section: Section, *, before: str = "", folded: str = "") -> str:
    """Return the HTML of a section: sentences, what words mean that stand here first, tables, pictures.

    Args:
        section: what is said.
        before: HTML that stands before the words and the tables.
        folded: what the tables are called where they stand behind a click.
    """
    sentences = "".join(f"<li>{said(sentence)}</li>" for sentence in section.sentences)
    words = "".join(f"<dt><dfn>{escape(word)}</dfn></dt><dd>{escape(means)}</dd>" for word, means in section.words)
    tables = "\n".join(map(table, section.tables))
    if folded and tables:
        tables = f"<details><summary>{escape(folded)}</summary>\n{tables}</details>"
    with plots.style():
        pictures = [picture(drawn(one.draw()), one.alt) for one in section.pictures]
    parts = [
        f'<ul class="said">{sentences}</ul>' if sentences else "",
        before,
        f'<dl class="words">{words}</dl>' if words else "",
        tables,
        *pictures,
    ]
    inside = "\n".join(part for part in parts if part)
    return f"<section><h2>{escape(section.title)}</h2>\n{inside}</section>"


def table(given: Table) -> str:
    """Return a table, whose first column names the rows."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in given.columns)
    kinds = [' class="grey"' if column in given.grey else "" for column in range(len(given.columns))]
    lines = []
    for row in given.texts():
        cells = "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds[1:], row[1:], strict=True))
        lines.append(f'<tr><th scope="row">{escape(row[0])}</th>{cells}</tr>')
    over = f"<caption>{escape(given.caption)}</caption>" if given.caption else ""
    body = "\n".join(lines)
    return f'<div class="scroll"><table>{over}\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def pairs(values: Mapping[str, object]) -> str:
    """Return names and values as a list of terms; nested mappings are written as JSON."""
    shown = [
        (
            name,
            json.dumps(value, ensure_ascii=False, sort_keys=True)
            if isinstance(value, Mapping | list | tuple)
            else value,
        )
        for name, value in values.items()
    ]
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in shown)}</dl>"


def picture(svg: bytes, alt: str) -> str:
    """Return an SVG as an image element. In there it can run nothing, and its names cannot meet another's."""
    data = base64.b64encode(_renamed(svg)).decode()
    return f'<img alt="{escape(alt)}" src="data:image/svg+xml;base64,{data}">'


def _renamed(svg: bytes) -> bytes:
    """Return an SVG of matplotlib with its names in the order in which they come.

    matplotlib names parts by a hash of their place to the last digit, and its layout does not settle that digit.
    """
    order: dict[bytes, bytes] = {}
    named = re.compile(rb'(id="|url\(#|href="#)([A-Za-z]+[0-9a-f]{10})(?=["\)])')
    return named.sub(lambda found: found[1] + order.setdefault(found[2], b"n%d" % len(order)), svg)


def drawn(figure: Figure) -> bytes:
    """Return a figure as SVG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return buffer.getvalue()


def write(path: Path, page: str) -> None:
    """Write a page, whole or not at all.

    Raises:
        OSError: if the file cannot be written.
    """
    store.write_file(path, store.with_seal(page))
