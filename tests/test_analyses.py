"""One question, one script, one figure; and figures can be drawn again from their records."""

import json
import re
from importlib import import_module
from pathlib import Path

import pytest

from skilloc import plots

ROOT = Path(__file__).parents[1]
FIGURES = sorted(path.stem for path in (ROOT / "figures").glob("*.json"))
ANALYSES = sorted(path.stem for path in (ROOT / "analyses").glob("[!_]*.py"))


def test_every_figure_has_its_script():
    assert set(FIGURES) <= set(ANALYSES)


@pytest.mark.parametrize("name", ANALYSES)
def test_a_script_says_its_question_what_would_be_an_answer_and_the_minutes(name):
    about = import_module(name).__doc__
    assert about.split("\n")[0].endswith("?") or "\nQuestion: " in about
    assert "answer" in about
    assert "inutes" in about


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn_from_the_record_that_is_there(name, tmp_path):
    analysis = import_module(name)
    record = json.loads((ROOT / "figures" / f"{name}.json").read_text())
    if name == "families":
        record["scale"] = "drawn"  # at "cpu" it writes a page too
    with plots.style():
        analysis.draw(record).savefig(tmp_path / "drawn.svg")
    drawn = words(tmp_path / "drawn.svg")
    assert len(drawn) > 10
    assert drawn == words(ROOT / "figures" / f"{name}.svg")
    assert not any("bf16" in word for word in drawn)


def words(picture):
    """All that is written in an SVG; where exactly it stands is up to the last digits of the layout."""
    return re.findall(r"<text [^>]*>([^<]+)</text>", picture.read_text())
