"""Circuits of two small corpora in the embedded model, and the figure of the analysis."""

import json
import sysconfig

import networkx as nx
import numpy as np
import pytest
from answered import Answered

import corpus_circuits
from corpus_circuits import CorpusCircuits, measure_circuits, slimmed
from skilloc import store
from skilloc.circuits import graph as g
from skilloc.models.language import EMBEDDED

STDLIB = sysconfig.get_path("stdlib")
SMALL = CorpusCircuits(
    sources=(f"{STDLIB}/asyncio/*.py", f"{STDLIB}/email/*.py"), method="two-stage", ranked=2, curvature=0, sequences=3,
    length=8, folds=3, top=3, sizes=(8,), draws=2, edges=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def cell():
    if not (EMBEDDED / "config.json").exists():
        pytest.skip("train it: python analyses/train_embedded.py")
    return measure_circuits(SMALL)


def test_a_cell_keeps_what_it_says(cell):
    metrics, arrays = cell
    effects = arrays["effects"].values
    assert effects.shape == (3, 2, metrics["units"])
    assert 2 <= metrics["exact"] <= 4
    names = list(metrics["subtasks"])
    assert names == list(SMALL.sources)
    assert set(metrics["cpu_seconds"]["circuits"]) == set(names)
    for name in names:
        found = metrics["subtasks"][name]
        assert [one["size"] for one in found["curve"]] == [3, 8]
        graph = g.from_json(json.dumps(metrics["graphs"][name]))
        assert len(g.units_in(graph)) == 3
        assert graph.number_of_edges() == min(4, found["edges"])
        # Units are chosen on the selection split, and stated on the report split.
        assert graph.graph[g.CHOSEN] == "top 3"
        assert {one["name"] for one in found["strongest_units"]} == set(g.units_in(graph))


def test_a_slim_circuit_has_its_strongest_edges_and_its_own_effects_only():
    graph = nx.DiGraph(
        version=1, subtask="a", subtasks=["a", "b"], reference="mean", chosen="top 3", made={"tokens": {}}
    )
    for place, name in enumerate(("L0N0", "L1N0", "L2N0")):
        effect = {"a": {"value": 0.123456, "low": None, "high": None}, "b": {"value": 9.0, "low": 1, "high": 2}}
        graph.add_node(name, kind="neuron", layer=place, column=place, position=0, hook="x", effect=effect)
    for ends, value in ((("L0N0", "L1N0"), 0.1), (("L0N0", "L2N0"), -0.3), (("L1N0", "L2N0"), 0.2)):
        graph.add_edge(*ends, effect={"a": {"value": value}, "b": {"value": -9 * value}})
    found = g.from_json(json.dumps(slimmed(graph, edges=2)))
    assert set(found.edges) == {("L0N0", "L2N0"), ("L1N0", "L2N0")}
    assert found.nodes["L0N0"][g.EFFECT] == {"a": {"value": 0.123, "low": None, "high": None}}
    assert found.graph[g.SUBTASKS] == ["a"]
    assert g.MADE not in found.graph


def test_the_figure_is_drawn_from_the_record_alone(cell, tmp_path):
    run = Answered(answer=lambda measured, specs: [store.Result({}, *cell)])
    found = json.loads(json.dumps(corpus_circuits.measure([SMALL], run), sort_keys=True))
    figure = corpus_circuits.draw(found)
    figure.savefig(tmp_path / "a.png")
    (part,) = figure.subfigs
    assert len(part.axes) == 3
    python = found["models"][0]["subtasks"][SMALL.sources[0]]["curve"]
    lines = [line.get_ydata() for line in part.axes[-1].lines]
    assert any(np.array_equal(line, [one["faithfulness"] for one in python]) for line in lines)
    assert (tmp_path / "a.png").stat().st_size > 10_000
