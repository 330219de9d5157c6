"""Pictures of 1 to 40 subtasks and 1 to 200 layers are bounded and legible; page and Markdown say the same numbers."""

import re
from html import unescape
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from skilloc import plots, store
from skilloc.ablation.removal import Removal
from skilloc.circuits.claims import few
from skilloc.effects import Effects
from skilloc.report import pictures, write_report
from skilloc.report.scored import locality_of, removed
from skilloc.report.section import Section
from skilloc.report.words import explained
from skilloc.units import Units, neurons


def study(subtasks: int, layers: int) -> tuple[Effects, Removal]:
    units = Units(tuple(neurons(f"layers.{layer}", 6, layer) for layer in range(layers)))
    random = np.random.default_rng(0)
    values = 0.01 * random.normal(size=(4, subtasks, len(units)))
    for s in range(subtasks):
        values[:, s, 7 * s % len(units)] += 1.0
    names = tuple(f"subtask {s}" for s in range(subtasks))
    made = {"name": "toy", "reference": {"name": "zero"}}
    effects = Effects(values, np.full((4, subtasks), 3.0), names, units, np.ones(len(units), bool), made)
    shape = (2, 4, subtasks, subtasks)
    removal = Removal(random.random(shape), 0.1 * random.random((2, *shape)), effects.baseline, names, (1, 2), made)
    return effects, removal


@pytest.mark.slow
@pytest.mark.parametrize(("subtasks", "layers"), [(1, 1), (40, 2), (2, 200)])
def test_pictures_are_bounded_and_their_labels_do_not_overlap(subtasks, layers):
    effects, removal = study(subtasks, layers)
    with plots.style():
        found = locality_of(effects, top=2)
        figures = [pictures.units(effects), pictures.by_rank(effects), pictures.scores(found)]
        figures += [pictures.removal(removed(removal)), *([pictures.between(found)] if subtasks > 1 else [])]
        for figure in figures:
            assert max(figure.get_size_inches()) <= 16
            figure.canvas.draw()
            renderer = FigureCanvasAgg(figure).get_renderer()
            for ax in figure.axes:
                shown = [label for label in ax.get_yticklabels() if label.get_text()]
                boxes = [label.get_window_extent(renderer) for label in shown]
                assert not any(a.overlaps(b) for a, b in pairwise(boxes)), ax.get_title(loc="left")


def numbers(text: str) -> list[str]:
    return re.findall(r"\d[\d.,]*\d|\d", text)


@pytest.mark.slow
def test_the_page_and_the_markdown_say_the_same_numbers(tmp_path):
    effects, removal = study(3, 2)
    store.save(effects, tmp_path / "effects")
    store.save(removal, tmp_path / "removal")
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text().split("<h2>How this was made")[0].split("</header>")[1]
    text = unescape(re.sub(r"<[^>]*>", " ", re.sub(r'src="[^"]*"', "", page)))
    markdown = (tmp_path / "summary.md").read_text().split("\n", 1)[1]
    assert sorted(numbers(text)) == sorted(numbers(re.sub(r"!\[.*\n|<!--.*-->", "", markdown)))


def test_a_word_is_explained_where_it_first_stands():
    first, second = explained([Section("Units", ("Effects are in nats.",)), Section("The effect of a unit on a fold")])
    assert [word for word, _ in first.words] == ["unit", "nats", "effect"]
    assert [word for word, _ in second.words] == ["fold"]


def test_the_edges_that_matter_are_the_fewest_that_carry_most():
    def drawn(*values, **attributes):
        graph = nx.DiGraph(subtask="a", **attributes)
        for place, value in enumerate(values):
            graph.add_edge(place, place + 1, effect={"a": {"value": value}})
        return few(graph)

    assert drawn(-8.0, 1.0, 1.0, None) == 1
    assert drawn(4.0, 3.0, 2.0, 1.0) == 3
    assert drawn(0.0, 0.0) == 0
    assert drawn(4.0, 3.0, drawn={"count": 2, "on": "the train split"}) == 2
