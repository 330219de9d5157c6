"""What circuits share, beside chance; and the circuit that several runs agree on."""

import networkx as nx
import numpy as np
import pytest

from skilloc.circuits import graph as g
from skilloc.circuits.overlap import consensus, overlap, reuse
from skilloc.masks import Mask, matched_random
from skilloc.units import Units, neurons

UNITS = Units((neurons("layers.0.hook_post", 40, 0), neurons("layers.1.hook_post", 20, 1)))


def mask(*places):
    return Mask(UNITS, np.isin(np.arange(60), places))


def test_jaccard_of_sets_worked_out_by_hand():
    found = overlap({"a": mask(0, 1, 2, 40), "b": mask(2, 3, 40, 41), "c": mask(10, 50)})
    np.testing.assert_allclose(found.jaccard, [[1, 2 / 6, 0], [2 / 6, 1, 0], [0, 0, 1]])
    assert found.names == ("a", "b", "c")
    np.testing.assert_array_equal(found.chance, found.chance.T)


def test_chance_is_that_of_random_circuits_with_as_many_units_on_every_hook():
    a, b = mask(*range(15), 40, 41), mask(*range(10, 20), *range(45, 55))
    jaccard, shared = [], []
    for seed in range(1500):
        one, other = (
            ~matched_random(~a, seed=seed, disjoint=False),
            ~matched_random(~b, seed=seed + 10_000, disjoint=False),
        )
        jaccard.append((one.keep & other.keep).sum() / (one.keep | other.keep).sum())
        shared.append((one.keep & other.keep).sum() / 17)
    found = overlap({"a": a, "b": b})
    assert found.chance[0, 1] == pytest.approx(np.mean(jaccard), abs=0.005)
    part = reuse(a, b)
    assert part.value == pytest.approx(5 / 17)
    # 15 of 40 meet 10 of 40, and 2 of 20 meet 10 of 20.
    assert part.chance == pytest.approx((15 * 10 / 40 + 2 * 10 / 20) / 17, abs=0.01)
    assert (part.chance_low, part.chance_high) == pytest.approx(np.quantile(shared, (0.025, 0.975)), abs=0.06)


def test_random_circuits_lie_within_the_range_of_chance():
    a = mask(*range(15), *range(40, 48))
    inside = 0
    for seed in range(200):
        found = reuse(~matched_random(~a, seed=seed, disjoint=False), a, seed=seed)
        inside += found.chance_low <= found.value <= found.chance_high
    assert inside > 180


def run(nodes, edges, reference="zero", subtask="s", loss=("cross_entropy", "nats")):
    about = {g.VERSION: 1, g.SUBTASK: subtask, g.SUBTASKS: [subtask], g.MODEL: {"name": "", "digest": "0"}}
    about[g.LOSS] = g.loss_record(*loss)
    graph = nx.DiGraph(**about, **{g.REFERENCE: reference, g.MADE: {}, g.CHOSEN: "top 2"})
    for place, (name, value) in enumerate(nodes.items()):
        effect = {subtask: {"value": value, "low": None, "high": None}}
        graph.add_node(name, kind=g.NEURON, layer=0, column=place, hook="h", position=0, effect=effect)
    for ends, value in edges.items():
        effect = {subtask: {"value": value, "low": None, "high": None}}
        graph.add_edge(*ends, effect=effect, measured=g.TOTAL)
    return graph


def test_a_consensus_holds_what_enough_runs_have():
    runs = [
        run({"a": 1.0, "b": 2.0}, {("a", "b"): 0.1}),
        run({"a": 2.0, "b": 2.0, "c": 1.0}, {("a", "b"): 0.3, ("b", "c"): 1.0}, reference="mean"),
        run({"a": 3.0, "c": 1.0}, {("a", "c"): 1.0}),
    ]
    half = consensus(runs)
    assert set(half) == {"a", "b", "c"}
    assert set(half.edges) == {("a", "b")}
    assert half.nodes["a"][g.SHARE] == 1
    assert half.nodes["b"][g.SHARE] == pytest.approx(2 / 3, abs=1e-5)
    # Mean 2, and t(2) = 4.303 times 1 / sqrt(3).
    assert half.nodes["a"][g.EFFECT]["s"] == {
        "value": 2.0,
        "low": pytest.approx(2 - 4.303 / 3**0.5, rel=1e-4),
        "high": pytest.approx(2 + 4.303 / 3**0.5, rel=1e-4),
    }
    assert half.edges["a", "b"][g.EFFECT]["s"]["value"] == 0.2
    assert half.graph[g.REFERENCE] == "mean and zero"
    assert half.graph[g.LOSS] == {"name": "cross_entropy", "unit": "nats"}
    assert set(consensus(runs, share=1.0)) == {"a"}
    assert set(consensus(runs[:1])) == {"a", "b"}
    assert g.from_json(g.to_json(half)).graph == half.graph


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="choose at least one unit for each"):
        overlap({"a": mask()})
    with pytest.raises(ValueError, match="compare circuits of one model"):
        reuse(mask(1), Mask(Units((neurons("layers.0.hook_post", 60, 0),)), np.ones(60, dtype=bool)))
    with pytest.raises(ValueError, match="one subtask and one model"):
        consensus([run({"a": 1.0}, {}), run({"a": 1.0}, {}, subtask="other")])
    with pytest.raises(ValueError, match="take a consensus under one loss"):
        consensus([run({"a": 1.0}, {}), run({"a": 1.0}, {}, loss=("logit_difference", "logits"))])
    with pytest.raises(ValueError, match="pass at least one"):
        consensus([])
