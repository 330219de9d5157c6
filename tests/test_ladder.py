"""Effects name exactly the parts that are planted in transformers whose weights are written by hand."""

import itertools

import ladder
import numpy as np
import pytest
import torch

import skilloc as sk
from skilloc.circuits import graph as g
from skilloc.circuits.elimination import elimination_ranking
from skilloc.circuits.faithfulness import faithfulness
from skilloc.circuits.trace import Tracing, trace_circuit
from skilloc.masks import top
from skilloc.tasks import IGNORE, Examples


def last(tokens, targets, twins):
    every = torch.full_like(tokens, IGNORE)
    every[:, -1] = targets
    return Examples(tokens, every, paired=twins)


def of_induction(count=32):
    generator = torch.Generator().manual_seed(0)
    rows, twins = [], []
    for _ in range(count):
        order = torch.randperm(ladder.VOCABULARY, generator=generator)
        cut = int(torch.randint(2, 6, (1,), generator=generator))
        row = torch.cat([order[:7], order[cut - 1 : cut]])
        rows.append((row, order[cut]))
        twin = row.clone()
        twin[cut - 1] = order[9]  # a twin without the word that is repeated
        twins.append(twin)
    return last(torch.stack([row for row, _ in rows]), torch.stack([answer for _, answer in rows]), torch.stack(twins))


def of_previous(count=32):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.stack([torch.randperm(ladder.VOCABULARY, generator=generator)[:8] for _ in range(count)])
    twins = tokens.clone()
    twins[:, -2] = (tokens[:, -2] + 1) % ladder.VOCABULARY
    return last(tokens, tokens[:, -2], twins)


def of_fact(count=32):
    tokens = of_previous(count).tokens.clone()
    tokens[:, -1] = 4
    twins = tokens.clone()
    twins[:, -1] = 5
    return last(tokens, torch.full((count,), 7), twins)


def of_counter():
    rows = torch.tensor([row for row in itertools.product((0, 1), repeat=6) if sum(row) <= 3])
    some = rows.sum(dim=1) < 3
    targets = torch.where(some, ladder.UNBALANCED, ladder.BALANCED)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:32]
    return last(rows[order], targets[order], (1 - rows)[order])


RUNGS = {
    "induction": (ladder.induction, of_induction, {1, 5}),
    "previous": (ladder.previous, of_previous, {3}),
    "fact": (ladder.fact, of_fact, {6 + 3}),
    "counter": (ladder.counter, of_counter, {0, 6 + 5}),
}
"""The model, its examples, and the places of what is planted on the unit axis: heads 0 to 5, neurons from 6 on."""


def experiment(rung, reference, **settings):
    make, examples, planted = RUNGS[rung]
    own = {"skill": examples()}
    found = sk.Experiment(make(), own, ("head", "neuron"), reference=reference, folds=4, **settings)
    return found, np.isin(np.arange(len(found.units)), sorted(planted))


@pytest.mark.parametrize("rung", RUNGS)
def test_the_rung_does_its_skill(rung):
    found, _ = experiment(rung, "zero")
    wrong = sk.Experiment(found.model, found.subtasks, ("head", "neuron"), folds=4, loss="error")
    assert wrong.baseline.mean() == 0


@pytest.mark.parametrize("reference", ["zero", "mean", "flat mean", "resample", "paired"])
@pytest.mark.parametrize("rung", RUNGS)
def test_effects_name_exactly_what_is_planted(rung, reference):
    if rung == "fact" and reference in ("mean", "resample"):
        pytest.skip("the key is at the end of every example, so that its neuron is always at this reference")
    found, planted = experiment(rung, reference)
    effects = sk.ablation_effects(found).mean("skill")
    assert effects[planted].min() > 0.1
    assert abs(effects[~planted]).max() < 1e-6


@pytest.mark.parametrize("rung", ["fact", "counter"])
def test_attribution_names_them_too(rung):
    found, planted = experiment(rung, "zero")
    effects = sk.attribution_effects(found).mean("skill")
    assert abs(effects[~planted]).max() < 1e-6
    assert abs(effects[planted]).min() > 1e-3


@pytest.mark.parametrize("rung", RUNGS)
def test_the_planted_parts_alone_do_it(rung):
    """Faithful and complete: all others removed together change nothing; the planted ones removed leave chance."""
    found, planted = experiment(rung, "zero")
    base = found.losses()
    alone = found.losses(sk.Mask(found.units, planted))
    assert abs(alone - base).max() < 1e-5
    assert (found.losses(sk.Mask(found.units, ~planted)) - base).mean() > 0.1


BETWEEN = {"induction": (1, 5), "counter": (0, 6 + 5)}
"""Planted parts of which one feeds the other."""


@pytest.mark.parametrize("paths", ["wires", "total"])
@pytest.mark.parametrize("reference", ["zero", "mean", "flat mean", "resample", "paired"])
@pytest.mark.parametrize("rung", RUNGS)
def test_edges_of_a_circuit_of_all_units_join_exactly_what_is_planted(rung, reference, paths):
    if rung == "fact" and reference in ("mean", "resample"):
        pytest.skip("the key is at the end of every example, so that its neuron is always at this reference")
    found, planted = experiment(rung, reference)
    units, names = np.flatnonzero(planted), found.units.names
    every = sk.Mask(found.units, np.ones(len(planted), dtype=bool))
    graph = trace_circuit(found, every, Tracing(draws=2, adds=False, paths=paths), subtask="skill")
    ends = {name for name, node in graph.nodes(data=True) if node[g.KIND] == g.OUTPUT}
    wanted = {names[u] for u in units}
    joined = {(a, b) for a, b in graph.edges if b not in ends}
    assert joined == ({tuple(names[u] for u in BETWEEN[rung])} if rung in BETWEEN else set())
    # What feeds another planted part writes nothing that the outputs read: a total edge joins it to them, a wire not.
    feeding = {names[BETWEEN[rung][0]]} if rung in BETWEEN and paths == "wires" else set()
    assert {a for a, b in graph.edges if b in ends} == wanted - feeding


@pytest.mark.parametrize("rung", RUNGS)
def test_the_smallest_circuit_that_keeps_the_skill_is_what_is_planted(rung):
    found, planted = experiment(rung, "zero")
    ranking = elimination_ranking(found, subtask="skill")
    count = int(planted.sum())
    masks = [sk.Mask(found.units, top(ranking, k)) for k in range(1, count + 1)]
    assert (masks[-1].keep == planted).all()
    curve = faithfulness(found, masks, subtask="skill", draws=2)
    assert curve.faithfulness(count - 1).value == pytest.approx(1, abs=1e-4)
    assert all(curve.faithfulness(k).value < 0.9 for k in range(count - 1))
