"""Prompts and answers are shown as text by every renderer, whatever they hold."""

import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from skilloc.effects import Effects
from skilloc.report.document import body_of
from skilloc.report.markdown import page
from skilloc.report.prompts import LONGEST, as_text, prompts_section
from skilloc.report.terminal import shown
from skilloc.units import Bank, Units

HOSTILE = ["[red]x", "<script>alert(1)</script>", "$\\bad$", "[a](http://x.example)", "a|b &lt; `c` *d*", "&amp;"]


def effects(prompts: list[str]) -> Effects:
    units = Units((Bank("blocks.0.mlp.hook_post", 2, "neuron", 0, "L0N"),))
    asked = [{"prompt": one, "answer": f" {one}", "wrong": [one, "no"], "corrupted": None} for one in prompts]
    return Effects(
        np.zeros((2, 1, 2)), np.zeros((2, 1)), ("facts",), units, np.ones(2, dtype=bool), {"shown": {"facts": asked}}
    )


def section(*prompts: str):
    found = prompts_section(effects(list(prompts)))
    assert found is not None
    return found


class Cells(HTMLParser):
    """Collects the text of a page's cells, and the names of its elements."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("hostile", HOSTILE)
def test_the_page_shows_what_was_written(hostile):
    read = Cells()
    read.feed(body_of(section(hostile)))
    assert hostile in read.text
    assert read.names <= {"section", "h2", "div", "table", "caption", "thead", "tbody", "tr", "th", "td"}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_the_terminal_shows_what_was_written(hostile):
    console = Console(file=io.StringIO(), width=200, highlight=False)
    for part in shown(section(hostile), console):
        console.print(part)
    assert hostile in console.file.getvalue()


@pytest.mark.parametrize("hostile", HOSTILE)
def test_markdown_shows_what_was_written(hostile):
    written = page("t", [section(hostile)])
    row = next(line for line in written.splitlines() if "no |" in line)
    # A backslash before a mark makes it a letter, in GitHub's Markdown and in CommonMark.
    assert re.sub(r"\\([\\`*_<$&|(])", r"\1", row).count(hostile) == 3
    bare = re.sub(r"\\.", "", row)
    assert not re.search(r"[`*<$&]|\]\(", bare)
    assert bare.count("|") == 4


def test_what_cannot_be_printed_is_written_out():
    assert as_text("a\nb\x1b[31m\u202ec\td") == "a↵b\\x1b[31m\\u202ec\\td"
    assert as_text("x" * (LONGEST + 1)) == "x" * LONGEST + "…"


def test_running_text_has_no_such_section_and_columns_without_text_are_left_out():
    plain = effects(["a"])
    assert prompts_section(Effects(plain.values, plain.baseline, ("facts",), plain.units, plain.exact)) is None
    (table,) = section("a").tables
    assert table.columns == ("prompt", "right answer", "wrong answers")
