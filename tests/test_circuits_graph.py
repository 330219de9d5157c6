"""A circuit's files: they hold the circuit, and the same circuit always gives the same bytes."""

import json
import os
import subprocess
import sys

import networkx as nx
import numpy as np
import pytest

from skilloc import store
from skilloc.circuits import graph as g


def effect(value, subtasks=("a", "b")):
    return {name: {"value": value + i, "low": value - 1, "high": None} for i, name in enumerate(subtasks)}


def small(turned=False):
    """An input, two neurons of hidden layer 0, one of hidden layer 1, an output."""
    nodes = {
        "bit 3": (g.INPUT, -1, 0, 3),
        "L0N2": (g.NEURON, 0, 1, 2),
        "L0N10": (g.NEURON, 0, 1, 10),
        "L1N0": (g.NEURON, 1, 2, 0),
        "logit 1": (g.OUTPUT, 2, 3, 1),
    }
    edges = [("bit 3", "L0N2"), ("L0N2", "L1N0"), ("L0N10", "L1N0"), ("L1N0", "logit 1")]
    model, loss = {"name": "planted", "digest": "00"}, {"name": "choice", "unit": "nats"}
    graph = nx.DiGraph(version=g.FORMAT, subtask="a", subtasks=["a", "b"], model=model, loss=loss, reference="mean")
    for name in reversed(nodes) if turned else nodes:
        kind, layer, column, position = nodes[name]
        effects = {} if kind == g.OUTPUT else effect(0.5)
        graph.add_node(name, kind=kind, layer=layer, column=column, hook="h", position=position, effect=effects)
    for a, b in reversed(edges) if turned else edges:
        graph.add_edge(a, b, effect=effect(-0.25), measured=g.CLOSED_FORM, weight=2.0)
    return graph


def test_a_circuit_comes_back_from_its_file(tmp_path):
    graph = small()
    g.save(graph, tmp_path / "a.json")
    again = g.load(tmp_path / "a.json")
    assert store.is_ours(tmp_path)
    g.save(graph, tmp_path / "a.json")  # in the place of its own kind
    assert dict(again.nodes(data=True)) == dict(graph.nodes(data=True))
    assert {ends: again.edges[ends] for ends in again.edges} == {ends: graph.edges[ends] for ends in graph.edges}
    assert again.graph == graph.graph
    assert g.in_order(again) == ["bit 3", "L0N2", "L0N10", "L1N0", "logit 1"]
    assert g.units_in(again) == ["L0N2", "L0N10", "L1N0"]


@pytest.mark.parametrize(
    ("said", "meant"), [("zero", "zero"), ("mean", "flat mean"), ("mean and zero", "flat mean and zero")]
)
def test_a_file_that_names_no_loss_is_about_cross_entropy_and_its_mean_is_flat(tmp_path, said, meant):
    old = small()
    del old.graph[g.LOSS]
    old.graph[g.REFERENCE] = said
    g.save(old, tmp_path / "old.json")
    read = g.load(tmp_path / "old.json")
    assert read.graph[g.LOSS] == {"name": "cross_entropy", "unit": "nats"}
    assert read.graph[g.REFERENCE] == meant
    g.save(read, tmp_path / "again.json")
    assert g.load(tmp_path / "again.json").graph == read.graph


def test_the_unit_is_that_of_the_loss():
    graph = small()
    assert g.unit_of(graph) == "nats"
    graph.graph[g.LOSS] = g.loss_record("logit_difference", "logits")
    assert g.unit_of(g.from_json(g.to_json(graph))) == "logits"
    del graph.graph[g.LOSS]
    assert g.unit_of(graph) == "nats"


def test_the_order_in_which_a_circuit_was_built_does_not_show(tmp_path):
    assert g.to_json(small()) == g.to_json(small(turned=True))
    for name, graph in {"a": small(), "b": small(turned=True)}.items():
        g.save_graphml(graph, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.slow
def test_other_hash_seeds_give_the_same_bytes(tmp_path):
    g.save(small(), tmp_path / "in.json")
    script = (
        "import sys; from skilloc.circuits import graph as g; c = g.load(sys.argv[1]);"
        "g.save(c, sys.argv[2]); g.save_graphml(c, sys.argv[3])"
    )
    found = []
    for seed in ("1", "2"):
        paths = [tmp_path / f"{seed}.json", tmp_path / f"{seed}.graphml"]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", script, tmp_path / "in.json", *paths], check=True, env=environment)
        found.append([path.read_bytes() for path in paths])
    assert found[0] == found[1]
    assert found[0][0] == (tmp_path / "in.json").read_bytes()


def test_graphml_is_read_by_others(tmp_path):
    g.save_graphml(small(), tmp_path / "a.graphml")
    read = nx.read_graphml(tmp_path / "a.graphml")
    assert read.nodes["L0N2"]["effect b"] == 1.5
    assert read.nodes["L0N2"]["effect a low"] == -0.5
    assert "effect a high" not in read.nodes["L0N2"]
    assert read.edges["L0N2", "L1N0"] == {
        "effect a": -0.25, "effect b": 0.75, "effect a low": -1.25, "effect b low": -1.25, "measured": "closed form",
        "weight": 2.0,
    }  # fmt: skip
    assert json.loads(read.graph["subtasks"]) == ["a", "b"]


def test_intervals_over_folds():
    found = g.interval_record(np.array([1.0, 2.0, 3.0, 4.0]))
    # The mean 2.5, and t(3) = 3.182 times the standard error sqrt(5 / 3) / 2.
    assert found == {"value": 2.5, "low": pytest.approx(0.44603, rel=1e-5), "high": pytest.approx(4.55397, rel=1e-5)}
    assert g.interval_record(np.array([1.0])) == {"value": 1.0, "low": None, "high": None}
    assert g.number(float("nan")) is None
    assert g.number(0.123456789) == 0.123457


def test_what_is_no_circuit_is_refused(tmp_path):
    for text in ("", "[]", "{}", '{"version": 1}'):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ValueError, match=r"a.json: .*pass what `skilloc circuit` wrote"):
            g.load(tmp_path / "a.json")
    (tmp_path / "a.json").write_text(g.to_json(small()).replace('"version": 1', '"version": 2'))
    with pytest.raises(ValueError, match="update skilloc"):
        g.load(tmp_path / "a.json")
