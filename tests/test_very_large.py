"""Results of very many subtasks, units or circuits are shown in bounds, and it is said what is left out."""

from dataclasses import replace

import numpy as np
import pytest
from faults import sizes

from skilloc import store
from skilloc.circuits import diagram
from skilloc.effects import Effects
from skilloc.report import bounds, circuit_page, report_page, write_report
from skilloc.report.circuits import circuits_section
from skilloc.report.circuits_found import circuits_found
from skilloc.report.page import find_circuits
from skilloc.report.scored import locality_of


@pytest.mark.slow
def test_of_very_many_subtasks_the_first_are_shown_and_it_is_said_where_the_rest_is(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "SUBTASKS", 3)
    effects = sizes.make_study(tmp_path, 5, 12)
    found = write_report(tmp_path)
    assert found.about.subtasks == tuple(found.top) == found.removal.subtasks == ("subtask 0", "subtask 1", "subtask 2")
    for name in ("report.html", "summary.md"):
        page = (tmp_path / name).read_text()
        assert "the first 3 of 5 subtasks" in page
        assert "subtask 2" in page
        assert "subtask 3" not in page
    # What is shown does not depend on what is left out.
    few = replace(
        effects, values=effects.values[:, :3], baseline=effects.baseline[:, :3], subtasks=effects.subtasks[:3]
    )
    np.testing.assert_equal(locality_of(few, top=2).between, locality_of(effects, top=2).between)
    assert list(locality_of(effects, top=2).scores) == list(effects.subtasks)
    assert store.load(Effects, tmp_path / "effects").subtasks == effects.subtasks


def test_of_few_subtasks_nothing_is_left_out(tmp_path):
    effects = sizes.make_study(tmp_path, 40, 4)
    assert bounds.first(effects) is effects
    assert not bounds.subtasks_words(40)


def test_of_a_large_circuit_the_strongest_are_drawn_and_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(diagram, "UNITS", 4)
    monkeypatch.setattr(diagram, "EDGES", 2)
    monkeypatch.setattr(diagram, "SUBTASKS", 3)
    for name in ("UNITS", "EDGES"):
        monkeypatch.setattr(f"skilloc.report.circuits.{name}", getattr(diagram, name))
    effects = sizes.make_study(tmp_path, 6, 12)
    graph = sizes.make_circuit(effects, 4, 0, most=12)
    drawn = diagram.diagram_of(graph)
    own = {name: abs(graph.nodes[name]["effect"]["subtask 4"]["value"]) for name in effects.units.names}
    assert set(drawn.names) == {"logits", *sorted(own, key=own.__getitem__)[-4:]}
    assert drawn.subtasks == ("subtask 0", "subtask 1", "subtask 4")
    between = {ends: one for ends, one in graph.edges.items() if set(ends) <= set(drawn.names)}
    strong = sorted(between, key=lambda ends: -abs(between[ends]["effect"]["subtask 4"]["value"]))[:2]
    assert {(drawn.names[a], drawn.names[b]) for a, b in drawn.edges} == set(strong)
    told = circuits_section(circuits_found({"subtask 4": graph}, None)).sentences
    assert f"Drawn are 4 of its 12 units and 2 of its {graph.number_of_edges()} edges" in told[-1]
    page = circuit_page({"subtask 4": graph})
    assert "the strongest; its .json has all" in page
    assert "subtask 5" not in page


@pytest.mark.slow
def test_of_very_many_circuits_the_first_are_read_and_shown(tmp_path, monkeypatch):
    for place in ("bounds", "circuits_found", "page", "panel"):
        monkeypatch.setattr(f"skilloc.report.{place}.CIRCUITS", 2)
    effects = sizes.make_study(tmp_path, 4, 12, circuits=4)
    circuits = find_circuits(tmp_path)
    assert (list(circuits.circuits), circuits.every) == (list(effects.subtasks[:2]), 4)
    page = report_page(tmp_path)
    assert "the circuits of the first 2 of 4 subtasks" in page
    assert "subtask 1: " in page
    assert "subtask 3: units that matter most" not in page


MEMORY = {"1000x200": 1300, "200x5000": 1000, "3x100000": 1000}
"""MB that a report takes at its peak, at most, by its subtasks and units."""


@pytest.mark.long
@pytest.mark.parametrize("size", sizes.SIZES)
def test_a_report_of_very_many_subtasks_or_units_stays_small(tmp_path, size):
    subtasks, units = map(int, size.split("x"))
    sizes.make_study(tmp_path, subtasks, units, circuits=min(30, subtasks))
    for line in (("report", tmp_path), ("show", tmp_path, "--json")):
        found = sizes.took(*line)
        assert found.status == 0
        assert found.memory < MEMORY[size]
        assert found.printed < 5
    assert (tmp_path / "report.html").stat().st_size < 10e6
    assert sum(path.stat().st_size for path in (tmp_path / "pictures").iterdir()) < 10e6
